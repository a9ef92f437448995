"""`cmb data withdraw` on a workspace with real git, DVC and MLflow."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from cmb_models.files import exclusive, sha256_of, write_json
from cmb_models.hash_chain import append_entry, first_fault, read_entries
from cmb_models.importing.identity import Key, Patient
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.io.scan_id import content_sha256
from cmb_models.registry.promote import promote
from cmb_models.registry.register import register
from cmb_models.registry.withdrawal import withdraw as module
from cmb_models.registry.withdrawal.remaining import remaining
from cmb_models.registry.withdrawal.withdraw import JOURNAL, withdraw
from cmb_models.volume import Volume
from cmb_models.workspace.dvc_cache import cache_dir, datasets_at, listing
from cmb_models.workspace.paths import WITHDRAWAL_LOG
from cmb_models.workspace.template import GITIGNORE
from tests.integration import registry_workspace
from tests.integration.registry_site import copy_site
from tests.integration.registry_workspace import GOOD, LINEAGE, begin, dvc, git, retrain
from tests.support.command_line import cmb
from tests.support.refused import refused

RAW = Path("data/raw")
ROWS = "subject;session;x_mm;y_mm;z_mm;diameter_mm;label;rater;seen\r\n"
OF_SUB_1 = "sub-1;;1,5;2;3;3;cmb;AB;yes\r\n"
OTHERS = "sub-10;;1,5;2;3;3;cmb;AB;sub-1\r\n\r\nsub-2;;;;;;none;AB;\r\n"


def swi(subject: str, dataset: str = "site") -> Path:
    return RAW / dataset / subject / "swi" / f"{subject}_swi.nii.gz"


def write_scan(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_volume(file, Volume(np.random.default_rng(seed).uniform(0, 9, (4, 5, 6)).astype(np.float32), np.diag([1.0, 1, 2, 1])))


def write_data() -> None:
    """site: sub-1 with phase and mask, sub-10, sub-2; locked: another sub-1, and sub-7, which is sub-1 of site saved again."""
    for subject, seed in (("sub-1", 1), ("sub-10", 10), ("sub-2", 2)):
        write_scan(swi(subject), seed)
    write_scan(swi("sub-1").with_name("sub-1_part-phase_swi.nii.gz"), 101)
    write_scan(RAW / "site/derivatives/masks/sub-1/brain.nii.gz", 102)
    (RAW / "site/participants.tsv").write_text("participant_id\tage\nsub-1\t61\nsub-10\t70\n")
    (RAW / "site/annotations.csv").write_bytes(f"\ufeff{ROWS}{OF_SUB_1}{OTHERS}{OF_SUB_1}".encode())
    (RAW / "site/derivatives/readings").mkdir(parents=True)
    (RAW / "site/derivatives/readings/rater-CD.csv").write_bytes(f"{ROWS}{OTHERS}{OF_SUB_1}".encode())
    write_scan(swi("sub-1", "locked"), 21)
    swi("sub-7", "locked").parent.mkdir(parents=True)
    swi("sub-7", "locked").write_bytes(gzip.compress(gzip.decompress(swi("sub-1").read_bytes()), 1))
    (RAW / "locked/annotations.csv").write_text("subject,session,x_mm,y_mm,z_mm,diameter_mm,label,rater\nsub-7,,1,2,3,3,cmb,AB\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Release 1, in production, was trained on sub-1 of site; release 2 on an earlier scan of that name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        for name in ("MLFLOW_TRACKING_URI", "CMB_SIGNING_KEY"):
            patch.delenv(name, raising=False)
        folder = tmp_path_factory.mktemp("withdraw") / "site"
        folder.mkdir()
        begin(folder)
        patch.chdir(folder)
        write_data()
        dvc(folder, "add", "data/raw/site", "data/raw/locked")
        trained = {"site_sub-1": sha256_of(swi("sub-1")), "site_sub-10": sha256_of(swi("sub-10"))}
        patch.setattr(registry_workspace, "LINEAGE", LINEAGE | {"training_scans": trained, "calibrated_on": ["site_sub-1"]})
        retrain(folder, GOOD)
        register(folder)
        promote("1", "first", folder)
        patch.setattr(registry_workspace, "LINEAGE", LINEAGE | {"training_scans": trained | {"site_sub-1": "0" * 64}})
        retrain(folder, GOOD | {"sensitivity": 0.9})
        register(folder)
        return folder


@pytest.fixture
def workspace(made, tmp_path, monkeypatch) -> Path:
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()  # MLflow remembers a run's place by its id, which all copies share
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = copy_site(made, tmp_path / "site")
    monkeypatch.chdir(folder)
    return folder


def tree() -> dict[str, bytes]:
    return {p.as_posix(): p.read_bytes() for p in sorted(RAW.rglob("*")) if p.is_file()}


def require_withdrawn(workspace: Path) -> None:
    """Nothing of the patient is left in data/raw, everything else is as it was, and DVC knows it."""
    left = {p.relative_to(RAW).as_posix() for p in RAW.rglob("*") if p.is_file() and p.suffix != ".dvc"}
    assert left == {
        ".gitignore",
        *("site/annotations.csv", "site/participants.tsv", "site/sub-10/swi/sub-10_swi.nii.gz", "site/sub-2/swi/sub-2_swi.nii.gz"),
        "site/derivatives/readings/rater-CD.csv",
        *("locked/annotations.csv", "locked/sub-1/swi/sub-1_swi.nii.gz", "phantom/annotations.csv"),
    }
    assert (RAW / "site/derivatives/readings/rater-CD.csv").read_bytes() == f"{ROWS}{OTHERS}".encode()
    assert not (RAW / "site/derivatives/masks").exists() and not (RAW / "locked/sub-7").exists()
    assert (RAW / "site/annotations.csv").read_bytes() == f"\ufeff{ROWS}{OTHERS}".encode()
    assert "sub-7" not in (RAW / "locked/annotations.csv").read_text()
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "Withdraw a subject")
    tracked = datasets_at(workspace, "HEAD")
    assert {n for n in listing(cache_dir(workspace), tracked["data/raw/site"]) if "sub-1/" in n} == set()
    assert not JOURNAL.exists()


def test_a_dry_run_changes_nothing(workspace):
    before = tree(), git(workspace, "status", "--porcelain")
    shown = cmb("data", "withdraw", "sub-1", "--dataset", "site", "--dry-run").output
    assert before == (tree(), git(workspace, "status", "--porcelain")) and not JOURNAL.exists()
    assert "would remove locked/sub-7, site/sub-1: 4 files, 2 of them scans, 4 rows" in shown and "nothing was changed" in shown


def test_a_patient_is_withdrawn_and_named_nowhere(workspace):
    content, removed = content_sha256(read_volume(swi("sub-1"))), sha256_of(swi("sub-1"))
    found = withdraw("sub-1", ["site"])
    require_withdrawn(workspace)
    assert [str(target) for target in found.plan.copies] == ["locked/sub-7"]
    assert [(u.release, u.aliases, u.roles, u.key) for u in found.uses] == [
        (1, ("production",), ("training", "calibration"), "site_sub-1")
    ]
    assert [(u.release, u.roles, u.key) for u in found.named] == [(2, ("training",), "site_sub-1")]
    (entry,) = read_entries(WITHDRAWAL_LOG)
    assert entry["scans"] == [content] and removed in entry["files"] and len(entry["files"]) == 4 and entry["rows"] == 4
    assert entry["releases"] == [{"release": 1, "roles": ["calibration", "training"]}]
    assert entry["releases_by_name"] == [{"release": 2, "roles": ["training"]}] and "Site Engineer" in entry["user"]
    assert first_fault(WITHDRAWAL_LOG) == "" and "sub-" not in WITHDRAWAL_LOG.read_text()


def test_what_remains_is_named(workspace, tmp_path):
    dvc(workspace, "remote", "add", "backup", str(tmp_path / "backup"))
    shown = cmb("data", "withdraw", "sub-1", "--dataset", "site", env={"COLUMNS": "300"}).output
    for words in (
        "locked/sub-7 has the same scan as sub-1",
        "remove sub-1 from data/raw/site/participants.tsv, then run `dvc add data/raw/site`",
        "release 1, trained on the patient, is production",
        "by name, with another content",
        "git add data/raw withdrawals.jsonl dvc.lock && git commit",
        "`dvc gc --workspace`",
        "`dvc gc --workspace --projects OTHER_WORKSPACE --cloud --remote backup`. Name every other workspace",
    ):
        assert words in shown
    assert shown.index("retrain: ") < shown.index("release 1, trained on the patient") < shown.index("`dvc gc --workspace`")
    assert "locked/annotations.csv" not in shown and "remove sub-1 from data/raw/site/derivatives" not in shown


def test_a_cache_shared_by_workspaces_is_not_emptied_for_the_others(workspace, tmp_path):
    shutil.move(".dvc/cache", tmp_path / "shared")
    dvc(workspace, "cache", "dir", "--local", str(tmp_path / "shared"))
    steps = " ".join(remaining(workspace, withdraw("sub-1", ["site"])))
    assert "`dvc gc --workspace --projects OTHER_WORKSPACE`" in steps


def test_two_withdrawals_in_one_second_are_both_logged(folder, monkeypatch):
    monkeypatch.setattr(module, "utc_now", lambda: "2026-01-01T00:00:00Z")
    hashes = [sha256_of(swi(subject)) for subject in ("sub-10", "sub-2")]
    withdraw("sub-10")
    withdraw("sub-2")
    assert [sha256 for entry in read_entries(WITHDRAWAL_LOG) for sha256 in entry["files"]] == hashes


def test_a_withdrawal_waits_for_imports_into_every_dataset(folder, monkeypatch):
    def require_locked(workspace, plan):
        for dataset in ("site", "locked"):
            with pytest.raises(BlockingIOError), exclusive(RAW / dataset, wait=False):
                pass

    monkeypatch.setattr(module, "_remove", require_locked)
    withdraw("sub-2")
    with exclusive(RAW / "site", wait=False), exclusive(RAW / "locked", wait=False):
        pass


def test_a_split_that_cannot_be_recomputed_says_what_to_do(workspace):
    found = replace(withdraw("sub-2"), split_fault="split-size: too few subjects; import more")
    steps = "\n".join(remaining(workspace, found))
    assert "too few subjects; import more" in steps and "dvc repro split" not in steps


def test_a_dataset_outside_dvc_of_a_trained_workspace_is_trained_again(workspace):
    for name in ("site", "locked"):
        Path(f"data/raw/{name}.dvc").unlink()
    steps = steps_of(workspace, "sub-1", ["site"])
    assert "retrain: `dvc repro`" in steps and "dvc gc" in steps


def test_what_is_left_of_the_patient_in_data_raw_is_named(folder):
    texts = {"site/import.log": "read sub-1\n".encode("utf-16"), "notes.txt": b"sub-1", "site/long.csv": b"x,\n" * 2**21 + b"sub-1"}
    for name, content in {**texts, "site/list.xlsx": b"PK", "site/odd.txt": "sub-1".encode("utf-16-le")}.items():
        (RAW / name).write_bytes(content)
    write_scan(RAW / "scan_sub-1_swi.nii.gz", 99)
    Path("check.html").touch()
    steps = steps_of(folder, "sub-1", ["site"])
    assert all(f"remove sub-1 from {RAW / name}" in steps for name in texts)
    assert "not searched for the patient, look yourself: data/raw/site/list.xlsx, data/raw/site/odd.txt" in steps
    assert "data/raw/scan_sub-1_swi.nii.gz has sub-1 in its name" in steps and "delete check.html" in steps


def test_a_linked_folder_is_hashed_and_what_it_names_remains(folder):
    store = folder / "store"
    shutil.move(RAW / "site/sub-1", store)
    (RAW / "site/sub-1").symlink_to(store)
    sha256, content = sha256_of(swi("sub-1")), content_sha256(read_volume(swi("sub-1")))
    steps = steps_of(folder, "sub-1", ["site"])
    assert not (RAW / "site/sub-1").is_symlink() and (store / "swi/sub-1_swi.nii.gz").is_file()
    (entry,) = read_entries(WITHDRAWAL_LOG)
    assert sha256 in entry["files"] and entry["scans"] == [content]
    assert steps.count(str(store)) == 1 and f"delete {store}, which data/raw/site/sub-1 linked to" in steps


@pytest.mark.parametrize("is_committed", [True, False])
def test_scans_that_git_once_had_are_named(folder, is_committed):
    git(folder, "add", str(swi("sub-1") if is_committed else swi("sub-2")))
    git(folder, "-c", "user.name=A", "-c", "user.email=a@b.example", "commit", "-qm", "Add")
    git(folder, "rm", "-q", "--cached", "-r", "data/raw")
    git(folder, "-c", "user.name=A", "-c", "user.email=a@b.example", "commit", "-qm", "Remove")
    assert ("git's history holds" in steps_of(folder, "sub-1", ["site"])) == is_committed


@pytest.mark.parametrize("is_used_elsewhere", [True, False])
def test_the_key_file_forgets_copies_under_another_code(folder, is_used_elsewhere):
    key = Key(folder / "key.json", "00" * 32, {s: Patient(f"P-{s}") for s in ("sub-1", "sub-7", "sub-10")}, {})
    key.save()
    if is_used_elsewhere:
        write_scan(swi("sub-7"), 77)
    steps = steps_of(folder, "sub-1", ["site"], key.path)
    steps = "\n".join(remaining(folder, withdraw("sub-10", key_file=key.path), key.path)) if not is_used_elsewhere else steps
    assert ("P-sub-7" in key.path.read_text()) == is_used_elsewhere and 'P-sub-1"' not in key.path.read_text()


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("step", ["rows_left", "_dvc_add", "_log", "append_entry", "_recompute_split"])
def test_an_interrupted_withdrawal_is_completed_by_the_same_command(workspace, monkeypatch, step):
    def die(*arguments, **more):
        if step == "append_entry":
            append_entry(*arguments, **more)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, step, die)
        withdraw("sub-1", ["site"])
    with refused("withdrawal-unfinished", got="sub-1"):
        withdraw("sub-2")
    assert read_entries(WITHDRAWAL_LOG) == [] or step in ("append_entry", "_recompute_split")
    found = withdraw("sub-1")  # the dataset is written down
    require_withdrawn(workspace)
    assert [use.release for use in found.uses] == [1]
    (entry,) = read_entries(WITHDRAWAL_LOG)
    assert entry["releases"] and len(entry["files"]) == 4


def test_git_ignores_what_names_the_subject_until_the_end(workspace):
    Path(".gitignore").write_text(GITIGNORE)
    assert git(workspace, "check-ignore", str(JOURNAL)) == str(JOURNAL)
    with pytest.raises(subprocess.CalledProcessError):
        git(workspace, "check-ignore", str(WITHDRAWAL_LOG))


def test_a_subject_that_is_not_there(workspace):
    with refused("subject-unknown", got="names like it: .*sub-10"):
        withdraw("sub-11")
    with refused("subject-unknown", got="none in locked"):
        withdraw("sub-2", ["locked"])
    with refused("subject-unknown", got="none in elsewhere"):
        withdraw("sub-1", ["site", "elsewhere"])
    with refused("option-count", got="one in each of locked, site"):
        withdraw("sub-1")


def test_two_patients_of_one_name_are_withdrawn_when_both_are_named(workspace):
    withdraw("sub-1", ["site", "locked"])
    assert not list(RAW.glob("*/sub-1"))


def test_a_copy_among_other_scans_takes_its_session_alone(workspace):
    write_scan(RAW / "locked/sub-7/ses-02/swi/sub-7_ses-02_swi.nii.gz", 72)
    found = withdraw("sub-1", ["site"])
    assert found.plan.others == ("locked/sub-7",)
    assert [p.name for p in (RAW / "locked/sub-7").rglob("*.gz")] == ["sub-7_ses-02_swi.nii.gz"]
    assert "locked/sub-7 has further scans" in " ".join(remaining(workspace, found))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The data of `write_data` in git alone: no DVC, no registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    git(tmp_path, "init", "-q")
    write_data()
    return tmp_path


def steps_of(folder: Path, *arguments, **more) -> str:
    return "\n".join(remaining(folder, withdraw(*arguments, **more)))


def constant() -> bytes:
    write_volume(Path("constant.nii.gz"), Volume(np.full((4, 5, 6), 7, np.float32), np.diag([1.0, 1, 2, 1])))
    return Path("constant.nii.gz").read_bytes()


@pytest.mark.parametrize("content", [lambda: b"", constant, lambda: b"cut short"], ids=["empty", "constant", "unreadable"])
def test_scans_without_a_readable_content_are_no_copies(folder, content):
    for file in (swi("sub-10"), swi("sub-2")):
        file.write_bytes(content())
    found = withdraw("sub-2")
    assert [str(target) for target in found.plan.targets] == ["site/sub-2"] and swi("sub-10").is_file()
    steps = "\n".join(remaining(folder, found))
    assert (f"{swi('sub-10')} has the same bytes as a removed file" in steps) == (content() == b"cut short")
    assert sha256_of(Path(shutil.copy(swi("sub-10"), "copy"))) in read_entries(WITHDRAWAL_LOG)[0]["files"] or content() == b""


@pytest.mark.parametrize("copy", ["", "ses-02"])
def test_of_a_subject_with_further_scans_only_the_copys_session_is_removed(folder, copy):
    sessions = {"": "", "ses-02": "_ses-02"}
    files = {s: RAW / "site/sub-2" / s / f"swi/sub-2{name}_swi.nii.gz" for s, name in sessions.items()}
    masks = {s: RAW / f"site/derivatives/masks/sub-2{name}_mask.nii.gz" for s, name in sessions.items()}
    for n, file in enumerate((*files.values(), *masks.values())):
        write_scan(file, 200 + n)
    table = RAW / "site/sub-2/sub-2_sessions.tsv"
    table.write_text("session_id\n")
    shutil.copy(swi("sub-1"), files[copy])
    withdraw("sub-1", ["site"])
    (other,) = sessions.keys() - {copy}
    assert not files[copy].exists() and files[other].exists() and table.exists()
    assert masks[""].exists() and masks["ses-02"].exists() == (copy == "")


def test_a_copy_whose_name_has_another_session_than_its_folder_is_removed_alone(folder):
    misnamed = shutil.copy(swi("sub-1"), swi("sub-2").with_name("sub-2_ses-02_swi.nii.gz"))
    withdraw("sub-1", ["site"])
    assert not Path(misnamed).exists() and swi("sub-2").exists()


@pytest.mark.parametrize(
    "place", ["site/derivatives/backup/scan1.nii.gz", "scan_sub-1_swi.nii.gz", "site/sub-2/swi/x.nii.gz.bak", "phantom/a/b.nii.gz"]
)
def test_a_copy_outside_the_layout_is_removed(workspace, place):
    (RAW / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(swi("sub-1"), RAW / place)
    before = Path("data/raw/phantom.dvc").read_text()
    if place.startswith("phantom"):
        dvc(workspace, "add", "data/raw/phantom")
    withdraw("sub-1", ["site"])
    assert not (RAW / place).exists() and swi("sub-2").exists() and Path("data/raw/phantom.dvc").read_text() == before


def test_a_broken_link_is_removed_as_any_other_file(folder):
    swi("sub-2").unlink()
    swi("sub-2").symlink_to("nowhere")
    withdraw("sub-2")
    assert not swi("sub-2").is_symlink()


def test_a_dataset_that_is_not_checked_out_may_hold_the_patient(workspace):
    shutil.rmtree(RAW / "locked")
    with refused("data-missing", got="no locked"):
        withdraw("sub-1", ["site"])


def test_a_damaged_log_stops_before_anything_is_removed(workspace):
    append_entry(WITHDRAWAL_LOG, user="a")
    WITHDRAWAL_LOG.write_text(WITHDRAWAL_LOG.read_text().replace('"user": "a"', '"user": "b"'))
    before = tree()
    with refused("log-damaged"):
        withdraw("sub-1", ["site"])
    assert tree() == before


def test_a_release_that_cannot_be_read_makes_the_answer_incomplete(workspace):
    for folder in ("serving-state", "releases"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in Path("mlartifacts").rglob("lineage.json"):
        file.unlink()
    done = cmb("data", "withdraw", "sub-1", "--dataset", "site")
    assert done.exit_code == 1 and "unreadable: release 1" in done.output and "unreadable: release 2" in done.output
    assert read_entries(WITHDRAWAL_LOG)[0]["unread"] == 2


def test_a_release_that_was_deleted_from_mlflow_is_still_named(workspace):
    from cmb_models.registry.mlflow.store import MODEL, open_registry

    with open_registry(workspace) as registry:
        registry.client.delete_registered_model_alias(MODEL, "production")
        registry.client.delete_model_version(MODEL, "1")
    assert [(use.release, use.aliases) for use in withdraw("sub-1", ["site"]).uses] == [(1, ("production",))]


def test_the_key_file_forgets_the_patient(workspace, tmp_path):
    series = {str((workspace / swi(subject)).resolve()): f"1.{n}" for n, subject in enumerate(("sub-1", "sub-10"))}
    key = Key(tmp_path / "key.json", "00" * 32, {s: Patient(f"P-{s}") for s in ("sub-1", "sub-10")}, series)
    key.save()
    withdraw("sub-1", ["site"], key.path)
    saved = json.loads(key.path.read_text())
    assert list(saved["patients"]) == ["sub-10"] and list(saved["series"].values()) == ["1.1"] and saved["secret"] == "00" * 32
    assert key.path.stat().st_mode & 0o777 == 0o600


def test_a_key_file_is_cleaned_after_the_withdrawal_too(workspace, tmp_path):
    key = Key(tmp_path / "key.json", "00" * 32, {"sub-2": Patient("P-2")}, {})
    key.save()
    withdraw("sub-2")
    command = ("data", "withdraw", "sub-2", "--key", str(key.path))
    assert "no longer says who sub-2 is" in cmb(*command).output and "P-2" not in key.path.read_text()
    with refused("subject-unknown"):
        raise cmb(*command).exception
    with refused("import-key"):
        withdraw("sub-10", key_file=tmp_path / "none.json")


def test_the_usual_key_file_is_pointed_at(workspace):
    from cmb_models.importing.identity import default_key

    file = default_key(workspace / RAW / "site")
    Key(file, "00" * 32, {"sub-2": Patient("P-2")}, {}).save()
    assert f"cmb data withdraw sub-2 --key {file}" in " ".join(remaining(workspace, withdraw("sub-2")))


def test_a_folder_without_dvc_or_releases(folder):
    found = withdraw("sub-1", ["site"])
    assert not swi("sub-1").exists() and not found.uses and not (folder / "mlflow.db").exists()
    assert not any("dvc" in step for step in remaining(folder, found))


def test_the_index_is_believed_only_for_the_file_that_it_describes(workspace):
    """sub-2 was replaced by a copy of sub-1 after the index was made."""
    shutil.copy(swi("sub-1"), swi("sub-2"))
    entries = [{"path": str(swi("sub-2")), "sha256": "0" * 64, "content_sha256": "1" * 64}]
    write_json(Path("data/index.json"), {"scans": entries})
    found = withdraw("sub-1", ["site"], dry_run=True)
    assert [str(target) for target in found.plan.copies] == ["locked/sub-7", "site/sub-2"]


def test_dvc_failures_leave_the_withdrawal_to_be_completed(workspace):
    content = Path("data/raw/site.dvc").read_text()
    Path("data/raw/site.dvc").write_text("outs: [")
    with refused("dvc-failed"):
        withdraw("sub-1", ["site"])
    Path("data/raw/site.dvc").write_text(content)
    withdraw("sub-1", ["site"])
    require_withdrawn(workspace)
    assert yaml.safe_load(Path("data/raw/site.dvc").read_text())["outs"][0]["nfiles"] == 5

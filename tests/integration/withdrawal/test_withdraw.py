"""`cmb data withdraw` on a workspace with real git, DVC and MLflow."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cmb_models.files import exclusive, sha256_of
from cmb_models.hash_chain import append_entry, first_fault, read_entries
from cmb_models.importing.identity import Key, Patient
from cmb_models.io.nifti import read_volume
from cmb_models.io.scan_id import content_sha256
from cmb_models.registry.withdrawal import withdraw as module
from cmb_models.registry.withdrawal.withdraw import JOURNAL, withdraw
from cmb_models.workspace.dvc_cache import cache_dir, datasets_at, listing
from cmb_models.workspace.paths import WITHDRAWAL_LOG
from cmb_models.workspace.template import GITIGNORE
from tests.integration.registry_workspace import git
from tests.integration.withdrawal.data import OTHERS, RAW, ROWS, swi, tree
from tests.support.command_line import cmb
from tests.support.refused import refused


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


def test_a_folder_from_which_nothing_may_be_removed(folder, monkeypatch):
    """Root, as whom tests may run, may remove everything."""
    unlink = Path.unlink

    def denied(path, *arguments, **more):
        if "sub-1" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", denied)
        with refused("folder-not-writable", case="site/.*sub-1", got="permission denied"):
            withdraw("sub-1", ["site"])
    assert [t.subject for t in withdraw("sub-1", ["site"]).plan.targets if t.dataset == "site"] == ["sub-1"]
    assert not swi("sub-1").exists()


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
    assert "no longer maps sub-2 to a patient" in cmb(*command).output and "P-2" not in key.path.read_text()
    with refused("subject-unknown"):
        raise cmb(*command).exception
    with refused("import-key"):
        withdraw("sub-10", key_file=tmp_path / "none.json")


def test_dvc_failures_leave_the_withdrawal_to_be_completed(workspace):
    content = Path("data/raw/site.dvc").read_text()
    Path("data/raw/site.dvc").write_text("outs: [")
    with refused("dvc-failed"):
        withdraw("sub-1", ["site"])
    Path("data/raw/site.dvc").write_text(content)
    withdraw("sub-1", ["site"])
    require_withdrawn(workspace)
    assert yaml.safe_load(Path("data/raw/site.dvc").read_text())["outs"][0]["nfiles"] == 5


def test_a_journal_of_an_earlier_version(folder, monkeypatch):
    """What it lacks is added where that is nothing; else it is refused in one sentence."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "_remove", lambda *arguments: (_ for _ in ()).throw(Killed))
        withdraw("sub-1", ["site"])
    whole = json.loads(JOURNAL.read_text())
    before = tree()
    for content in (json.dumps({k: v for k, v in whole.items() if k != "plan"}), "[]", "{", json.dumps(whole | {"plan": 3})):
        JOURNAL.write_text(content)
        with refused("withdrawal-unfinished", case="partial-withdrawal"):
            withdraw("sub-1", ["site"])
    assert tree() == before
    for name in ("others", "behind", "alike", "linked"):
        del whole["plan"][name]
    JOURNAL.write_text(json.dumps(whole))
    withdraw("sub-1")
    assert not swi("sub-1").exists() and not JOURNAL.exists()

"""What remains to be done after a withdrawal, in order."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cmb_models.files import sha256_of
from cmb_models.hash_chain import read_entries
from cmb_models.importing.identity import Key, Patient
from cmb_models.io.nifti import read_volume
from cmb_models.io.scan_id import content_sha256
from cmb_models.registry.withdrawal.remaining import remaining
from cmb_models.registry.withdrawal.withdraw import withdraw
from cmb_models.workspace.paths import WITHDRAWAL_LOG
from tests.integration.registry_workspace import dvc, git
from tests.integration.withdrawal.data import OF_SUB_1, RAW, steps_of, swi, write_scan
from tests.support.command_line import cmb


def test_what_remains_is_named(workspace, tmp_path):
    dvc(workspace, "remote", "add", "backup", str(tmp_path / "backup"))
    shown = cmb("data", "withdraw", "sub-1", "--dataset", "site", env={"COLUMNS": "300"}).output
    for words in (
        "locked/sub-7 has the same scan as sub-1",
        "remove sub-1 from data/raw/site/participants.tsv, then run `dvc add data/raw/site`",
        "release 1, trained on the patient, is production",
        "by name, with another content",
        "git add data/raw/locked.dvc data/raw/site.dvc withdrawals.jsonl dvc.lock && git commit",
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
    write_scan(RAW / "site/Sub-1/swi/Sub-1_swi.nii.gz", 98)
    Path("check.html").touch()
    steps = steps_of(folder, "sub-1", ["site"])
    assert all(f"remove sub-1 from {RAW / name}" in steps for name in texts)
    assert "not searched for the patient, look yourself: data/raw/site/list.xlsx, data/raw/site/odd.txt" in steps
    for image in ("scan_sub-1_swi.nii.gz", "site/Sub-1/swi/Sub-1_swi.nii.gz"):
        assert f"data/raw/{image} has sub-1 in its name" in steps
    assert "delete check.html" in steps


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


def test_the_usual_key_file_is_pointed_at(workspace):
    from cmb_models.importing.identity import default_key

    file = default_key(workspace / RAW / "site")
    Key(file, "00" * 32, {"sub-2": Patient("P-2")}, {}).save()
    assert f"cmb data withdraw sub-2 --key {file}" in " ".join(remaining(workspace, withdraw("sub-2")))


def test_a_folder_without_dvc_or_releases(folder):
    found = withdraw("sub-1", ["site"])
    assert not swi("sub-1").exists() and not found.uses and not (folder / "mlflow.db").exists()
    assert not any("dvc" in step for step in remaining(folder, found))


def test_the_commit_holds_what_changed_and_no_scan_of_others(folder):
    """site is outside DVC and git but for its table; locked is in git, with its scans."""
    git(folder, "add", "data/raw/site/annotations.csv", "data/raw/locked")
    git(folder, "-c", "user.name=A", "-c", "user.email=a@b.example", "commit", "-qm", "Add")
    (RAW / "other").mkdir()
    (RAW / "other/notes.txt").touch()
    steps = steps_of(folder, "sub-1", ["site"])
    command = re.search("commit: `(.*)`", steps)[1]
    subprocess.run(command.replace("git commit", "git -c user.name=A -c user.email=a@b.example commit"), shell=True, check=True)
    assert git(folder, "show", "--name-status", "--format=").split("\n") == [
        "M\tdata/raw/locked/annotations.csv",
        "D\tdata/raw/locked/sub-7/swi/sub-7_swi.nii.gz",
        "M\tdata/raw/site/annotations.csv",
        "A\twithdrawals.jsonl",
    ]


def test_a_linked_table_becomes_a_file_without_the_rows(folder):
    """What it names is somebody else's, and remains."""
    shared = folder / "shared.csv"
    shutil.move(RAW / "site/annotations.csv", shared)
    (RAW / "site/annotations.csv").symlink_to(shared)
    before = shared.read_bytes()
    steps = steps_of(folder, "sub-1", ["site"])
    assert f"remove the patient's rows from {shared}, which data/raw/site/annotations.csv linked to" in steps
    assert shared.read_bytes() == before and not (RAW / "site/annotations.csv").is_symlink()
    assert OF_SUB_1 not in (RAW / "site/annotations.csv").read_bytes().decode()

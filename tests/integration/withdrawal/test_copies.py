"""A patient's scans under other names, and scans of others that only look like copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cmb_models.files import sha256_of, write_json
from cmb_models.hash_chain import read_entries
from cmb_models.importing.identity import Key, Patient
from cmb_models.registry.withdrawal.remaining import remaining
from cmb_models.registry.withdrawal.withdraw import withdraw
from cmb_models.workspace.paths import WITHDRAWAL_LOG
from tests.integration.registry_workspace import dvc
from tests.integration.withdrawal.data import RAW, constant, steps_of, swi, write_scan


def test_a_copy_among_other_scans_takes_its_session_alone(workspace):
    write_scan(RAW / "locked/sub-7/ses-02/swi/sub-7_ses-02_swi.nii.gz", 72)
    found = withdraw("sub-1", ["site"])
    assert found.plan.others == ("locked/sub-7",)
    assert [p.name for p in (RAW / "locked/sub-7").rglob("*.gz")] == ["sub-7_ses-02_swi.nii.gz"]
    assert "locked/sub-7 has further scans" in " ".join(remaining(workspace, found))


@pytest.mark.parametrize("content", [lambda: b"", constant, lambda: b"cut short"], ids=["empty", "constant", "unreadable"])
def test_scans_without_a_readable_content_are_no_copies(folder, content):
    for file in (swi("sub-10"), swi("sub-2")):
        file.write_bytes(content())
    found = withdraw("sub-2")
    assert [str(target) for target in found.plan.targets] == ["site/sub-2"] and swi("sub-10").is_file()
    steps = "\n".join(remaining(folder, found))
    assert (f"{swi('sub-10')} has the same bytes as a removed file" in steps) == (content() == b"cut short")
    files = read_entries(WITHDRAWAL_LOG)[0]["files"]  # which no other patient may have
    assert (sha256_of(swi("sub-10")) in files) == (content() == b"cut short")


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


def test_the_index_is_believed_only_for_the_file_that_it_describes(workspace):
    """sub-2 was replaced by a copy of sub-1 after the index was made."""
    shutil.copy(swi("sub-1"), swi("sub-2"))
    entries = [{"path": str(swi("sub-2")), "sha256": "0" * 64, "content_sha256": "1" * 64}]
    write_json(Path("data/index.json"), {"scans": entries})
    found = withdraw("sub-1", ["site"], dry_run=True)
    assert [str(target) for target in found.plan.copies] == ["locked/sub-7", "site/sub-2"]


@pytest.mark.parametrize("is_used_elsewhere", [True, False])
def test_the_key_file_forgets_copies_under_another_code(folder, is_used_elsewhere):
    key = Key(folder / "key.json", "00" * 32, {s: Patient(f"P-{s}") for s in ("sub-1", "sub-7", "sub-10")}, {})
    key.save()
    if is_used_elsewhere:
        write_scan(swi("sub-7"), 77)
    steps = steps_of(folder, "sub-1", ["site"], key.path)
    steps = "\n".join(remaining(folder, withdraw("sub-10", key_file=key.path), key.path)) if not is_used_elsewhere else steps
    assert ("P-sub-7" in key.path.read_text()) == is_used_elsewhere and 'P-sub-1"' not in key.path.read_text()


def test_a_broken_link_is_removed_as_any_other_file(folder):
    swi("sub-2").unlink()
    swi("sub-2").symlink_to("nowhere")
    withdraw("sub-2")
    assert not swi("sub-2").is_symlink()

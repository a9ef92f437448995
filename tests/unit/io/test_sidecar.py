"""Which sidecars a NIfTI file has, and what counts where they differ."""

from __future__ import annotations

import json

import pytest

from cmb_models.io.sidecar import read_sidecar

PATH = "sub-01/ses-1/anat/sub-01_ses-1_acq-hr_swi.nii.gz"


@pytest.mark.parametrize(
    ("sidecar", "is_inherited"),
    [
        ("swi.json", True),
        ("ses-1_swi.json", True),
        ("acq-hr_swi.json", True),
        ("sub-01/sub-01_swi.json", True),
        ("sub-01/ses-1/sub-01_ses-1_swi.json", True),
        ("sub-01/ses-1/anat/sub-01_ses-1_swi.json", True),
        ("sub-01/ses-1/anat/sub-01_ses-1_acq-hr_swi.json", True),
        ("T2star.json", False),
        ("acq-lr_swi.json", False),
        ("sub-02_swi.json", False),
        ("sub-01/sub-01_part-mag_swi.json", False),
        ("sub-02/swi.json", False),
        ("../swi.json", False),  # above the dataset
    ],
)
def test_what_bids_inherits(sidecar, is_inherited, tmp_path):
    file = tmp_path / "bids" / sidecar
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"EchoTime": 0.02}))
    assert bool(read_sidecar(tmp_path / "bids" / PATH)) == is_inherited


def test_the_nearest_value_counts(tmp_path, monkeypatch):
    """Of each key; one that cannot be read counts for nothing."""
    values = {
        "swi.json": {"A": 1, "B": 1, "C": 1},
        "sub-01/sub-01_swi.json": {"B": 2, "C": 2},
        "sub-01/swi/sub-01_swi.json": {"C": 3},
    }
    for name, content in values.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "sub-01_swi.json").write_text("{")
    file = tmp_path / "sub-01/swi/sub-01_swi.nii.gz"
    assert read_sidecar(file) == {"A": 1, "B": 2, "C": 3}
    monkeypatch.chdir(file.parent)
    assert read_sidecar(type(file)(file.name)) == {"A": 1, "B": 2, "C": 3}


def test_a_file_in_no_folder_of_its_subject_inherits_from_its_own_folder(tmp_path):
    (tmp_path / "flat").mkdir()
    for folder in (tmp_path, tmp_path / "flat"):
        (folder / "swi.json").write_text(json.dumps({"from": folder.name}))
    assert read_sidecar(tmp_path / "flat/sub-01_swi.nii.gz") == {"from": "flat"}
    assert read_sidecar(tmp_path / "flat/patient_swi.nii.gz") == {}

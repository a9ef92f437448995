"""Folders of DICOM files as scans of a cohort: the SWI and its phase are chosen, and nothing names the patient."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cmb_models.cohort.manifest import CohortScan, read_manifest
from cmb_models.cohort.reading import read_images, require_readers
from cmb_models.errors import InputError
from tests.support.dicom_export import SECRET, VENDORS, write_study
from tests.support.refused import refused
from tests.support.sources import same_place, scan


def study(folder: Path, vendor: str = "SIEMENS", kinds=("swi", "phase", "magnitude", "minip", "t1"), seed: int = 0) -> Path:
    write_study(folder, vendor, f"patient{seed}", scan(seed), np.random.default_rng(seed), kinds)
    return folder


def listed(folder: Path, phase: Path | None = None) -> CohortScan:
    return CohortScan(0, "visit", folder, phase, is_folder=True)


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_swi_of_a_study_is_chosen_with_its_phase(tmp_path, vendor):
    folder = study(tmp_path / "in", vendor)
    swi, phase = read_images(listed(folder), requires_phase=True)
    assert same_place(swi, scan(0)) and swi.in_scanner
    assert phase.data.shape == swi.data.shape and np.allclose(phase.affine, swi.affine, atol=1e-3) and phase.data.min() < 0
    assert read_images(listed(folder), requires_phase=False)[1] is None


def test_a_phase_series_may_lie_in_a_folder_of_its_own(tmp_path):
    study(tmp_path / "in", kinds=("swi", "phase"))
    swi, phase = tmp_path / "in/0001", tmp_path / "in/0002"
    assert read_images(listed(swi, phase), requires_phase=True)[1].data.min() < 0
    with refused("phase-missing", case="0001"):
        read_images(listed(swi), requires_phase=True)
    assert same_place(read_images(listed(swi), requires_phase=False)[0], scan(0))


def test_faults_name_the_folder_and_not_the_patient(tmp_path):
    """Each is a code of its scan; a site may have written the patient's name into the description of a series, too."""
    none = study(tmp_path / "none", kinds=("t1", "minip"))
    incomplete = study(tmp_path / "incomplete")
    (incomplete / "0001/IM00005").unlink()
    damaged = study(tmp_path / "damaged", kinds=("swi",))
    file = damaged / "0001/IM00003"
    file.write_bytes(file.read_bytes().replace(b"\x18\x00\x81\x00DS", b"\x18\x00\x81\x00ZZ"))  # a type that does not exist
    cut = study(tmp_path / "cut", kinds=("swi",))
    file = cut / "0001/IM00003"
    file.write_bytes(file.read_bytes()[:-2000])
    twice = tmp_path / "twice"
    for n in range(2):
        study(twice / str(n), kinds=("swi",), seed=n)
    (tmp_path / "empty").mkdir()
    expected = {
        none: ("scan-series", "none among 2 DICOM series"),
        incomplete: ("import-conversion", "1 of 16 slices missing, between 5 and 6"),
        damaged: ("import-conversion", "1 that cannot be read"),
        cut: ("import-conversion", ""),
        twice: ("scan-series", "SWI of 2 studies"),
        tmp_path / "empty": ("scan-series", "none among 0"),
    }
    for folder, (code, got) in expected.items():
        with refused(code, case=folder.name, got=got) as caught:
            read_images(listed(folder), requires_phase=False)
        assert SECRET not in str(caught.value) and "SWI_Images" not in str(caught.value)


def test_two_swi_of_one_study_are_named_by_number(tmp_path):
    import pydicom

    study(tmp_path / "in", kinds=("swi", "magnitude"))
    for file in (tmp_path / "in/0002").iterdir():
        image = pydicom.dcmread(file)
        image.SeriesDescription = f"SWI {SECRET}"
        image.save_as(file)
    with refused("scan-series", got=r"2: number 1 \(echo 20 ms\), number 2 \(echo 20 ms\)") as caught:
        read_images(listed(tmp_path / "in"), requires_phase=False)
    assert SECRET not in str(caught.value)


def test_folders_are_named_by_their_relative_path(tmp_path):
    study(tmp_path / "site/0001/dicom", kinds=("swi",))
    (tmp_path / "site/a_swi.nii").touch()
    (tmp_path / "site/list.csv").write_text("scan,phase,name\n0001/dicom,,\n0001/dicom/0001,,second\na_swi.nii,,\n")
    found = read_manifest(tmp_path / "site/list.csv")
    assert [(s.name, s.is_folder) for s in found] == [("0001/dicom", True), ("second", True), ("a_swi", False)]
    (tmp_path / "site/list.csv").write_text("scan,phase\n0001/dicom,a_swi.nii\n")
    with refused("manifest-invalid", got="1 phase images of another kind than their scan"):
        read_manifest(tmp_path / "site/list.csv")


def test_missing_packages_are_found_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_readers([CohortScan(0, "file", tmp_path / "a.nii")])
    with refused("package-missing", case=tmp_path.name, got="no pydicom and no dcm2niix"):
        require_readers([CohortScan(0, "file", tmp_path / "a.nii"), listed(tmp_path)])


@pytest.mark.parametrize("kilobytes", [12, 48])
def test_a_full_disk_is_no_fault_of_the_scan(tmp_path, monkeypatch, kilobytes):
    """A file system of this size: too small for the links to the slices, or for the image, which dcm2niix does not report."""
    folder, small = study(tmp_path / "in", kinds=("swi",)), tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(small))
        with refused("disk-full"):
            read_images(listed(folder), requires_phase=False)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_names_of_unreadable_files_are_left_out(tmp_path):
    """Exports name folders after patients."""
    folder = study(tmp_path / "in", kinds=("swi",))
    content = (folder / "0001/IM00003").read_bytes()
    (folder / f"{SECRET}.dcm").write_bytes(content.replace(b"\x18\x00\x81\x00DS", b"\x18\x00\x81\x00ZZ"))
    with pytest.raises(InputError) as caught:
        read_images(listed(folder), requires_phase=False)
    assert caught.value.code == "import-conversion" and SECRET not in str(caught.value)

"""Gradient echoes that are no SWI, of one echo or several: in one file, or in a file each."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cmb_models.importing.scans import Imported, Options, import_scans
from cmb_models.io.nifti import read_volume
from cmb_models.volume import Volume
from tests.support.command_line import cmb
from tests.support.refused import refused
from tests.support.sources import scan, write_nifti

NOT_SWI = "it is no SWI: a release that was trained on SWI will not fit it"
ECHOES = [scan(n).data for n in (1, 2, 3)]


def run(tmp_path: Path, **options) -> Imported:
    return import_scans([tmp_path / "in"], tmp_path / "data", tmp_path / "key.json", options=Options(**options))


def targets(imported: Imported) -> dict[str, str]:
    """By the name of each image: its target's ending, or why it has none."""
    return {s.image.name: s.target.name.partition("_")[2] if s.target else s.reason for s in imported.steps}


def write_4d(path: Path, volumes=ECHOES, dtype=np.int16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.stack(volumes, axis=-1).astype(dtype), scan(1).affine)
    image.set_sform(scan(1).affine, 1)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", ["p1_GRE.nii.gz", "sub-p1_T2starw.nii.gz", "p1_mag.nii.gz"])
def test_one_echo_is_a_magnitude_with_a_warning(name, tmp_path):
    write_nifti(tmp_path / "in" / name, scan(1))
    (step,) = run(tmp_path).steps
    assert (step.target.name.partition("_")[2], step.reason) == ("part-mag_swi.nii.gz", NOT_SWI)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_volume_of_a_4d_file(suffix, tmp_path):
    """By its number: nothing in a header says which echo it is, or whether the fourth axis is one of echoes."""
    write_4d(tmp_path / f"in/p1_mag{suffix}")
    write_4d(tmp_path / f"in/p1_phase{suffix}", [-e for e in ECHOES])
    (reason, _) = targets(run(tmp_path)).values()
    assert "an array of shape (40, 48, 16, 3)" in reason and "--volume" in reason
    for number in (0, 4):
        assert not any(s.target for s in run(tmp_path, volume=number).steps)
    imported = run(tmp_path, volume=2)
    assert targets(imported) == {
        f"p1_mag{suffix}, volume 2 of 3": "part-mag_swi.nii.gz",
        f"p1_phase{suffix}, volume 2 of 3": "part-phase_swi.nii.gz",
    }
    magnitude, phase = (read_volume(tmp_path / "data" / s.target) for s in imported.steps)
    assert np.array_equal(magnitude.data, ECHOES[1]) and np.array_equal(phase.data, -ECHOES[1])
    again = [s.reason for s in run(tmp_path, volume=2).steps if s.target]
    assert len(again) == 2 and all(reason.startswith("already imported") for reason in again)
    assert "another image is there" in run(tmp_path, volume=3).steps[0].reason


def test_the_number_does_not_matter_for_other_files(tmp_path):
    write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1))
    (step,) = run(tmp_path, volume=3).steps
    assert (step.target is not None, step.image.name) == (True, "p1_swi.nii.gz")


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_damage_in_another_volume_is_found(number, suffix, tmp_path):
    """As in a file of one volume: bytes that are missing, and bytes that are too many."""
    whole = write_4d(tmp_path / f"mag{suffix}").read_bytes()
    for content in (whole[:-100], whole + (b"\0" * 5000 if suffix == ".nii" else whole)):
        (tmp_path / f"mag{suffix}").write_bytes(content)
        with refused("scan-file"):
            read_volume(tmp_path / f"mag{suffix}", number=number)


def test_echoes_in_files_of_their_own(tmp_path):
    for n, echo_s in enumerate((0.0075, 0.02, 0.0325), 1):
        write_nifti(
            tmp_path / f"in/sub-p1_echo-{n}_MEGRE.nii.gz",
            scan(1),
            {"EchoTime": echo_s, "SeriesDescription": "gre", "ImageType": []},
        )
    assert set(targets(run(tmp_path)).values()) == {"3 echoes of one series, of 7.5, 20, 32.5 ms: pass one of them with --echo"}
    (step,) = (s for s in run(tmp_path, echo_ms=20).steps if s.target)
    assert (step.image.name, step.reason) == ("sub-p1_echo-2_MEGRE.nii.gz", NOT_SWI)


def test_echoes_as_dcm2niix_names_them_are_of_one_patient(tmp_path):
    """With a sidecar that numbers the echoes, and without one."""
    for n in (1, 2):
        for part in ("", "_ph"):
            more = {"EchoNumber": n, "EchoTime": n / 100, "SeriesDescription": "gre", "ImageType": []}
            write_nifti(tmp_path / f"in/p1_gre_e{n}{part}.nii.gz", Volume(scan(10 * n + len(part)).data, scan(1).affine), more)
        write_nifti(tmp_path / f"in/p2_gre_e{n}.nii.gz", scan(n + 50))
    imported = run(tmp_path, echo_ms=20)
    subjects = {s.image.name: s.subject for s in imported.steps}
    assert len({subjects[name] for name in subjects if name.startswith("p1")}) == 1
    assert len({subjects[name] for name in subjects if name.startswith("p2")}) == 1
    assert targets(imported)["p1_gre_e2.nii.gz"] == "part-mag_swi.nii.gz"
    assert targets(imported)["p1_gre_e1.nii.gz"] == "another echo than 20 ms"


def test_values_of_inherited_sidecars(tmp_path):
    """The name of the file says nothing but its sidecar at the top of the dataset does; it is no stray file."""
    write_nifti(tmp_path / "in/sub-p1/anat/sub-p1_swi.nii.gz", scan(1))
    (tmp_path / "in/swi.json").write_text(json.dumps({"EchoTime": 0.02, "ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI"]}))
    (tmp_path / "in/sub-p1/sub-p1_swi.json").write_text(json.dumps({"MagneticFieldStrength": 3}))
    imported = run(tmp_path)
    assert not imported.others
    target = tmp_path / "data" / imported.steps[0].target
    values = json.loads(target.with_name(target.name.replace(".nii.gz", ".json")).read_text())
    assert (values["EchoTime"], values["MagneticFieldStrength"]) == (0.02, 3)


def test_the_command(tmp_path):
    write_4d(tmp_path / "in/p1_mag.nii.gz")
    paths = [str(tmp_path / name) for name in ("in", "data", "key.json")]
    result = cmb("import", paths[0], "--into", paths[1], "--key", paths[2], "--volume", "2")
    assert result.exit_code == 0 and "no SWI" in " ".join(result.output.split())

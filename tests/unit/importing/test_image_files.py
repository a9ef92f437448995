"""Image files of BIDS datasets, of a site's folders and of public sets: each imported right, or refused in words that are right."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from cmb_models.dataset.layout import find_scans
from cmb_models.importing.scans import THERE, Imported, Options, import_scans
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.volume import Volume
from tests.support.command_line import cmb
from tests.support.dicom_export import SECRET, write_study
from tests.support.refused import refused
from tests.support.sources import digest, scan, write_nifti

DATA = Path(__file__).parents[4] / "shared/data"
KEEP = Options(keep_subjects=True)


def run(source: Path, out: Path, options: Options | None = None, **more) -> Imported:
    return import_scans([source], out / "data", out / "key.json", options=options, **more)


def phase(seed: int) -> Volume:
    """Another image in the grid of scan(seed)."""
    return Volume(scan(seed + 50).data, scan(seed).affine)


def outcomes(imported: Imported) -> dict[str, str]:
    """By the name of each image: its target's name, or why it has none."""
    return {s.image.name: s.target.name if s.target else s.reason for s in imported.steps}


def test_a_bids_dataset(tmp_path):
    source = tmp_path / "bids"
    for n, session in enumerate(["ses-1", "ses-2"]):
        folder = source / f"sub-01/{session}/anat"
        write_nifti(folder / f"sub-01_{session}_swi.nii.gz", scan(n), {})
        write_nifti(folder / f"sub-01_{session}_part-phase_swi.nii.gz", phase(n), {})
    write_nifti(source / "sub-02/swi/sub-02_acq-hr_SWI.nii", scan(3))
    write_nifti(source / "sub-02/swi/sub-02_acq-hr_part-mag_SWI.nii", phase(3))
    write_nifti(source / "sub-02/swi/sub-02_minIP.nii", scan(3))
    write_nifti(source / "sub-03/anat/sub-03_run-1_swi.nii.gz", scan(4))
    write_nifti(source / "sub-03/anat/sub-03_run-2_swi.nii.gz", scan(5))
    (source / "participants.tsv").write_text("participant_id\nsub-01\n")
    before = digest(source)
    imported = run(source, tmp_path, KEEP)
    assert digest(source) == before
    reasons = outcomes(imported)
    first = "sub-01/ses-1/anat/sub-01_ses-1"
    assert reasons[f"{first}_swi.nii.gz"] == "sub-01_ses-1_swi.nii.gz"
    assert reasons[f"{first}_part-phase_swi.nii.gz"] == "sub-01_ses-1_part-phase_swi.nii.gz"
    assert reasons["sub-02/swi/sub-02_acq-hr_SWI.nii"] == "sub-02_swi.nii.gz"
    assert reasons["sub-02/swi/sub-02_acq-hr_part-mag_SWI.nii"] == "sub-02_part-mag_swi.nii.gz"
    assert reasons["sub-02/swi/sub-02_minIP.nii"] == "a projection over several slices"
    runs = {reason for name, reason in reasons.items() if name.startswith("sub-03")}
    assert len(runs) == 1 and "one of several" in runs.pop()
    assert [f.name for f in imported.others] == ["participants.tsv"]
    found = find_scans(tmp_path / "data")
    assert [(s.subject, s.session) for s in found] == [("sub-01", "ses-1"), ("sub-01", "ses-2"), ("sub-02", "")]
    sources = [*sorted(source.rglob("sub-01_*[0-9]_swi.nii.gz")), source / "sub-02/swi/sub-02_acq-hr_SWI.nii"]
    assert [read_volume(s.path) for s in found] == [read_volume(file) for file in sources]  # every voxel, and the affine
    coded = run(source, tmp_path / "coded")
    assert [s.session for s in find_scans(tmp_path / "coded/data")].count("ses-02") == 1
    assert "ses-1" not in " ".join(str(s.target) for s in coded.steps)


def test_a_folder_of_files(tmp_path):
    source = tmp_path / "site"
    for n in range(3):
        write_nifti(source / f"patient_{n}_SWI.nii.gz", scan(n))
    write_nifti(source / "patient_1_SWI_phase.nii.gz", phase(1))
    write_nifti(source / "patient_1_T1.nii.gz", scan(1))
    write_nifti(source / "patient_1_SWI_mask.nii.gz", scan(1))
    write_nifti(source / "patient_2_extra_SWI.nii.gz", scan(8), {"SeriesDescription": "mIP_Images(SW)"})
    imported = run(source, tmp_path)
    assert sum(s.target is not None for s in imported.steps) == 4 and not any(s.is_fault for s in imported.steps)
    reasons = outcomes(imported)
    assert reasons["patient_1_SWI_mask.nii.gz"] == "a label mask: import it with `cmb import marks`"
    assert reasons["patient_2_extra_SWI.nii.gz"] == "a projection over several slices, by its sidecar"
    volumes = [read_volume(s.path) for s in find_scans(tmp_path / "data")]
    assert all(read_volume(source / f"patient_{n}_SWI.nii.gz") in volumes for n in range(3))


def test_public_sets(tmp_path):
    masked = scan(1).data.copy()
    masked[:5] = np.nan
    valdo = tmp_path / "Task2/sub-101"
    write_nifti(valdo / "sub-101_space-T2S_desc-masked_T2S.nii.gz", Volume(masked, scan(1).affine))
    for name in ("T1", "T2"):
        write_nifti(valdo / f"sub-101_space-T2S_desc-masked_{name}.nii.gz", scan(1))
    write_nifti(valdo / "sub-101_space-T2S_CMB.nii.gz", Volume(masked == 7, scan(1).affine))
    for n in range(2):
        write_nifti(tmp_path / f"dou/nii/{n:02}.nii", scan(n))
        write_nifti(tmp_path / f"csiro/rCMB_DefiniteSubject/S{n}_SWI_axial.nii.gz", scan(n))
    air = Options(keep_subjects=True, nan_as_air=True)
    (t2s,) = (s for s in run(tmp_path / "Task2", tmp_path / "a", air).steps if s.target)
    assert (t2s.target.name, "it is no SWI" in t2s.reason) == ("sub-101_part-mag_swi.nii.gz", True)
    as_swi = Options(keep_subjects=True, nan_as_air=True, gre_as_swi=True)
    run(tmp_path / "Task2", tmp_path / "b", as_swi)
    (found,) = find_scans(tmp_path / "b/data")
    assert np.array_equal(read_volume(found.path).data, np.nan_to_num(masked))
    assert json.loads(found.path.with_name("sub-101_swi.json").read_text()) == {"NanVoxelsSetToZero": int(np.isnan(masked).sum())}
    unnamed = run(tmp_path / "dou", tmp_path / "c").steps
    assert [s.reason for s in unnamed] == ["neither name nor sidecar says what it shows: used as SWI"] * 2
    assert len({s.subject for s in run(tmp_path / "csiro", tmp_path / "d").steps if s.target}) == 2


NAN = {"around the image": (0, False), "within the image": (20, False), "both, as air": (20, True)}


@pytest.mark.parametrize(("place", "nan_as_air"), NAN.values(), ids=NAN)
def test_nan_is_refused(place, nan_as_air, tmp_path):
    data = scan(1).data.copy()
    data[0], data[place, 20, 8] = np.nan, np.nan
    write_nifti(tmp_path / "in/p_swi.nii.gz", Volume(data, scan(1).affine))
    for dry_run in (True, False):
        (step,) = run(tmp_path / "in", tmp_path, Options(nan_as_air=nan_as_air), dry_run=dry_run).steps
        assert (step.code, step.target, step.is_fault) == ("scan-not-finite", None, True)
    assert ("--nan-as-air" in step.reason) == (place == 0)
    assert not list((tmp_path / "data").rglob("*.nii.gz"))


def test_nobody_is_identified(tmp_path):
    source = tmp_path / SECRET
    write_nifti(source / f"sub-{SECRET}/ses-20240117/swi/sub-{SECRET}_ses-20240117_swi.nii.gz", scan(0), {})
    write_nifti(source / f"sub-{SECRET}/ses-20240117/swi/sub-{SECRET}_ses-20240117_part-phase_swi.nii.gz", phase(0), {})
    write_nifti(source / f"{SECRET}_Anna_20240117/swi.nii", scan(1), {})
    write_nifti(source / f"{SECRET}_Bert_SWI.nii.gz", scan(2), {"ImageType": f"M_{SECRET}_0815", "EchoTime": "19520304"})
    assert sum(s.target is not None for s in run(source, tmp_path).steps) == 4
    key = tmp_path / "key.json"
    assert SECRET in key.read_text() and stat.S_IMODE(key.stat().st_mode) == 0o600
    files = [f for f in (tmp_path / "data").rglob("*") if f.is_file()]
    assert len(files) == 8  # four images, three sidecars, annotations.csv
    for file in files:
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
        for secret in (SECRET, SECRET.upper(), "Anna", "Bert", "19520304", "20240117", "0815", "SWI "):
            assert secret.encode() not in content, f"{secret} in {file}"
            assert secret not in str(file.relative_to(tmp_path))
    sidecars = [json.loads(f.read_text()) for f in files if f.suffix == ".json"]
    assert all(s["Manufacturer"] == "Siemens" and s["ScanningSequence"] == "GR" for s in sidecars)
    assert sorted(s.get("ImageType", []) for s in sidecars) == [["M"]] + [["ORIGINAL", "PRIMARY", "M", "SWI"]] * 2


def test_a_second_import_changes_nothing_and_a_killed_one_goes_on(tmp_path):
    for n in range(3):
        write_nifti(tmp_path / f"in/p{n}_swi.nii.gz", scan(n))
    first = run(tmp_path / "in", tmp_path).steps
    lost = tmp_path / "data" / first[1].target
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "data").rglob("*_swi.nii.gz") if f != lost}
    content = read_volume(lost)
    lost.unlink()
    again = run(tmp_path / "in", tmp_path).steps
    assert [s.target for s in again] == [s.target for s in first]
    assert [s.reason == THERE for s in again] == [True, False, True]
    assert {f: f.stat().st_mtime_ns for f in before} == before and read_volume(lost) == content
    # By another path it is the same file.
    shutil.copytree(tmp_path / "in", tmp_path / "wider/baseline")
    assert {s.reason.split(" sub-")[0] for s in run(tmp_path / "wider", tmp_path).steps} == {"the same file as the imported"}
    assert len(find_scans(tmp_path / "data")) == 3


def test_a_killed_process_leaves_nothing_half_written(tmp_path):
    """Killed while it writes the third image: the next import takes what is missing, under the same codes."""
    for n in range(4):
        write_nifti(tmp_path / f"in/p{n}_swi.nii", scan(n))
    command = [sys.executable, "-c", "from cmb_models.cli import main; main()", "import", str(tmp_path / "in")]
    command += ["--into", str(tmp_path / "data"), "--key", str(tmp_path / "key.json")]
    killed_at_third = """
import os, signal
from cmb_models.io import nifti
save, count = nifti.nib.save, []
def save_and_count(image, path):
    save(image, path)
    count.append(path)
    if len(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
nifti.nib.save = save_and_count
"""
    command[2] = killed_at_third + command[2]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert len(find_images(tmp_path / "data")) == 2 and len(list((tmp_path / "data").rglob(".partial-*"))) == 1
    (tmp_path / ".partial-ab12cd34-key.json").write_text("of one that was killed while it wrote the key file")
    before = {f: f.stat().st_mtime_ns for f in find_images(tmp_path / "data")}
    steps = run(tmp_path / "in", tmp_path).steps
    assert [s.reason == THERE for s in steps].count(True) == 2 and len(find_images(tmp_path / "data")) == 4
    assert {f: f.stat().st_mtime_ns for f in before} == before and not list(tmp_path.rglob(".partial-*"))
    assert len(json.loads((tmp_path / "key.json").read_text())["patients"]) == 4


def find_images(dataset: Path) -> list[Path]:
    return sorted(f for f in dataset.rglob("*.nii.gz") if not f.name.startswith("."))


@pytest.mark.parametrize("other_key", [False, True])
def test_two_sets_with_the_same_numbers_are_not_mixed(other_key, tmp_path):
    """The second set's scan is refused, and its phase is not put next to the first's SWI; a file that is there already is seen."""
    write_nifti(tmp_path / "a/sub-01_swi.nii.gz", scan(1))
    write_nifti(tmp_path / "b/sub-01_swi.nii.gz", scan(2))
    write_nifti(tmp_path / "b/sub-01_part-phase_swi.nii.gz", phase(2))
    run(tmp_path / "a", tmp_path, KEEP)
    key = tmp_path / ("other.json" if other_key else "key.json")
    steps = import_scans([tmp_path / "b"], tmp_path / "data", key, options=KEEP).steps
    assert sorted((s.target, s.is_fault, s.reason[:26]) for s in steps) == [
        (None, False, "its SWI was not imported"),
        (None, True, "another image is there as "),
    ]
    assert import_scans([tmp_path / "a"], tmp_path / "data", key, options=KEEP).steps[0].reason == THERE
    (found,) = find_scans(tmp_path / "data")
    assert read_volume(found.path) == read_volume(tmp_path / "a/sub-01_swi.nii.gz")


def test_one_unusable_file_does_not_stop_the_others(tmp_path):
    good = write_nifti(tmp_path / "in/a_swi.nii.gz", scan(1))
    damaged = bytearray(good.read_bytes())
    damaged[-4] ^= 1
    (tmp_path / "in/b_swi.nii.gz").write_bytes(damaged)
    (tmp_path / "in/c_swi.nii.gz").write_bytes(good.read_bytes()[:200])
    (tmp_path / "in/d_swi.nii.gz").write_bytes(b"")
    image = scan(2).to_nibabel()
    image.set_qform(np.diag([-1, 1, 1, 1]) @ image.affine, code=1)
    image.to_filename(tmp_path / "in/e_swi.nii.gz")
    write_volume(tmp_path / "in/f_swi.nii.gz", Volume(scan(1).data > 990, scan(1).affine))
    write_nifti(tmp_path / "in/sub-01/sub-02_swi.nii.gz", scan(3))
    steps = {s.image.name: s for s in run(tmp_path / "in", tmp_path).steps}
    assert steps.pop("a_swi.nii.gz").target
    assert len(steps) == 6 and all(s.is_fault and s.target is None for s in steps.values())
    for name, words in {
        "b_swi.nii.gz": "damaged gzip",
        "c_swi.nii.gz": "damaged gzip",
        "d_swi.nii.gz": "an empty file",
        "e_swi.nii.gz": "mirrored against each other",
        "f_swi.nii.gz": "a label mask; import it with `cmb import marks`",
        "sub-01/sub-02_swi.nii.gz": "in the folder of sub-01",
    }.items():
        assert words in steps[name].reason
    assert len(list((tmp_path / "data").rglob("*.nii.gz"))) == 1


def test_what_does_not_belong_together(tmp_path):
    """A phase image of another place, a run that is damaged next to a whole one, and a gradient echo that is damaged."""
    write_nifti(tmp_path / "in/sub-01_swi.nii.gz", scan(1))
    moved = phase(1).affine + np.outer([1, 0, 0, 0], [0, 0, 0, 1])
    write_nifti(tmp_path / "in/sub-01_part-phase_swi.nii.gz", Volume(phase(1).data, moved))
    write_nifti(tmp_path / "in/sub-02_run-2_swi.nii.gz", scan(2))
    image = scan(3).to_nibabel()
    image.set_qform(np.diag([-1, 1, 1, 1]) @ image.affine, code=1)
    image.to_filename(tmp_path / "in/sub-02_run-1_swi.nii.gz")
    write_nifti(tmp_path / "in/sub-03_T2starw.nii.gz", scan(4))
    (tmp_path / "in/sub-03_T2starw.nii.gz").write_bytes(b"")
    steps = {s.image.name: s for s in run(tmp_path / "in", tmp_path, KEEP).steps}
    assert steps["sub-01_part-phase_swi.nii.gz"].reason == "without an SWI of its grid"
    assert steps["sub-02_run-1_swi.nii.gz"].is_fault and steps["sub-02_run-2_swi.nii.gz"].target
    assert steps["sub-03_T2starw.nii.gz"].is_fault


def test_groups_that_number_their_patients_alike(tmp_path):
    """Folders of groups are refused where they share a name; folders of time points are sessions."""
    for n, folder in enumerate(("PD", "control", "baseline", "2021")):
        write_nifti(tmp_path / f"in{n // 2}/{folder}/p01_swi.nii.gz", scan(n))
    write_nifti(tmp_path / "in0/control/p02_swi.nii.gz", scan(5))
    steps = run(tmp_path / "in0", tmp_path / "a").steps
    assert {(s.image.name, s.is_fault) for s in steps} == {
        ("PD/p01_swi.nii.gz", True),
        ("control/p01_swi.nii.gz", True),
        ("control/p02_swi.nii.gz", False),
    }
    assert "p01 is in PD/ and control/: name the folders ses-01" in next(s.reason for s in steps if s.is_fault)
    run(tmp_path / "in1", tmp_path / "b")
    assert sorted(s.session for s in find_scans(tmp_path / "b/data")) == ["", "ses-02"]


def test_values_are_kept(tmp_path):
    """Whole numbers beyond 16 bits, and fractions."""
    for n, values in enumerate((scan(1).data * 100, scan(1).data + np.float32(0.25))):
        image = Volume(values, scan(1).affine).to_nibabel()
        (tmp_path / "in").mkdir(exist_ok=True)
        image.to_filename(tmp_path / f"in/sub-p{n}_swi.nii")
    run(tmp_path / "in", tmp_path, KEEP)
    for n, found in enumerate(find_scans(tmp_path / "data")):
        assert read_volume(found.path) == read_volume(tmp_path / f"in/sub-p{n}_swi.nii")


def test_sidecars_and_headers_overrule_names(tmp_path):
    write_nifti(tmp_path / "in/sub-a_swi.nii.gz", scan(1), {"SeriesDescription": "Ax T2 FLAIR", "ImageType": ["ORIGINAL"]})
    write_nifti(
        tmp_path / "in/sub-b_swi.nii.gz", scan(1), {"SeriesDescription": "Pha_Images", "ImageType": ["ORIGINAL", "PRIMARY", "P"]}
    )
    write_nifti(tmp_path / "in/sub-c_swi.nii.gz", scan(1), {"SeriesDescription": "Venography", "ImageType": ["ORIGINAL"]})
    reasons = outcomes(run(tmp_path / "in", tmp_path, KEEP))
    assert reasons == {
        "sub-a_swi.nii.gz": "FLAIR, not SWI, by its sidecar",
        "sub-b_swi.nii.gz": "without an SWI of its grid",
        "sub-c_swi.nii.gz": "sub-c_swi.nii.gz",
    }


def test_unnamed_files_next_to_an_swi(tmp_path):
    write_nifti(tmp_path / "in/p1/swi.nii.gz", scan(1))
    write_nifti(tmp_path / "in/p1/scan.nii.gz", scan(2))
    write_nifti(tmp_path / "in/p1/drawn.nii.gz", Volume(scan(2).data > 990, scan(2).affine))
    write_nifti(tmp_path / "in/p2/mag.nii.gz", scan(3))
    steps = run(tmp_path / "in", tmp_path, Options(by_folder=True)).steps
    assert {s.image.name: s.target.name.partition("_")[2] if s.target else s.reason for s in steps} == {
        "p1/swi.nii.gz": "swi.nii.gz",
        "p1/scan.nii.gz": "not named as SWI, as another file of the session is",
        "p1/drawn.nii.gz": "a label mask: import it with `cmb import marks`",
        "p2/mag.nii.gz": "part-mag_swi.nii.gz",
    }


def test_metaimage_and_nrrd(tmp_path, monkeypatch):
    volume = scan(1, tilt=0.2)
    image = SimpleITK.GetImageFromArray(volume.data.T.astype(np.int16))
    lps = np.diag([-1, -1, 1, 1]) @ volume.affine
    image.SetSpacing(volume.spacing_mm)
    image.SetDirection((lps[:3, :3] / volume.spacing_mm).ravel())
    image.SetOrigin(lps[:3, 3])
    (tmp_path / "in").mkdir()
    for n, ending in enumerate(("mha", "mhd", "nrrd")):
        SimpleITK.WriteImage(image + n, str(tmp_path / f"in/sub-{ending}_swi.{ending}"))
    text = (tmp_path / "in/sub-mhd_swi.mhd").read_text().replace("TransformMatrix", "NoMatrix")
    (tmp_path / "in/sub-nowhere_swi.mhd").write_text(text)
    (tmp_path / "in/sub-cut_swi.mha").write_bytes((tmp_path / "in/sub-mha_swi.mha").read_bytes()[:-9])
    imported = run(tmp_path / "in", tmp_path, KEEP)
    assert not imported.others
    faults = {s.image.name: s.reason for s in imported.steps if s.is_fault}
    assert set(faults) == {"sub-nowhere_swi.mhd", "sub-cut_swi.mha"} and "no orientation" in faults["sub-nowhere_swi.mhd"]
    for n, found in enumerate(find_scans(tmp_path / "data")):
        written = read_volume(found.path)
        assert np.allclose(written.affine, volume.affine, atol=1e-4) and np.array_equal(written.data, volume.data + n)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with refused("package-missing"):
        run(tmp_path / "in", tmp_path / "other")


def test_kinds_of_sources(tmp_path):
    write_study(tmp_path / "in/dicom", "SIEMENS", "one", scan(1), np.random.default_rng(0), ["swi"])
    write_nifti(tmp_path / "in/two_swi.nii.gz", scan(2))
    assert len(run(tmp_path / "in", tmp_path).steps) == 2
    assert [f.name for f in run(tmp_path / "in", tmp_path, Options("dicom"), dry_run=True).others] == ["two_swi.nii.gz"]
    assert len(run(tmp_path / "in", tmp_path, Options("nifti"), dry_run=True).others) == 16
    with refused("options-conflict"):
        run(tmp_path / "in", tmp_path, KEEP)
    sidecars = [json.loads(f.read_text()) for f in sorted((tmp_path / "data").rglob("*_swi.json"))]
    assert sorted(s.get("EchoTime", 0) for s in sidecars) == [0, 0.02]  # of DICOM from its headers; the NIfTI file has no sidecar


def test_nifti_without_the_packages_for_dicom(tmp_path, monkeypatch):
    write_nifti(tmp_path / "in/a_swi.nii.gz", scan(1))
    (tmp_path / "in/note.txt").write_text("x")
    for module in ("cmb_models.importing.dicom.series", "cmb_models.importing.dicom.convert"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with refused("package-missing", got="pydicom"):
        run(tmp_path / "in", tmp_path)
    assert run(tmp_path / "in", tmp_path, Options("nifti")).steps[0].target


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_nifti(tmp_path / "in/sub-p1_T2starw.nii.gz", scan(1))
    (tmp_path / "in/note.txt").write_text("x")
    arguments = ("import", str(tmp_path / "in"), "--into", str(tmp_path / "data"), "--keep-subjects", "--gre-as-swi")
    planned = cmb(*arguments, "--dry-run", "--from", "nifti")
    assert planned.exit_code == 0 and "sub-p1" in planned.output and "note.txt" in planned.output
    assert not (tmp_path / "data").exists()
    assert "1 subject, 1 SWI scan; 0 skipped, 0 not usable" in cmb(*arguments).output
    assert cmb(*arguments, "--from", "dicom").exit_code != 0
    write_nifti(tmp_path / "none/p1_T1.nii.gz", scan(1))
    assert cmb("import", str(tmp_path / "none"), "--into", str(tmp_path / "data")).exit_code == 1  # nothing was imported


@pytest.mark.skipif(not DATA.is_dir(), reason="no real files here")
def test_real_files(tmp_path):
    assert outcomes(run(DATA / "gbb7t", tmp_path)) == {
        "mean_data.nii.gz": "functional, not SWI, by its header",
        "mean_epi.nii.gz": "functional, not SWI",
        "vein1.nii.gz": "a label mask: import it with `cmb import marks`",
        "vein2.nii.gz": "a label mask: import it with `cmb import marks`",
    }
    for reason in outcomes(run(DATA / "gre_crop", tmp_path)).values():
        assert "(51, 51, 41, 3); pass one echo or time point at a time" in reason
    last = run(DATA / "gre_crop", tmp_path, Options(volume=3))
    assert {s.image.name: s.target and s.target.name.partition("_")[2] for s in last.steps} == {
        "mag.nii.gz, volume 3 of 3": "part-mag_swi.nii.gz",
        "phase.nii.gz, volume 3 of 3": "part-phase_swi.nii.gz",
    }

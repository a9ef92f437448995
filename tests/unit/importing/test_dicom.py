"""A simulated export of three vendors: every SWI imported right, everything else skipped by name, and nobody identified."""

from __future__ import annotations

import gzip
import shutil
import stat
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cmb_models.dataset.layout import find_scans
from cmb_models.importing.dicom.series import Header, read_headers, stacks_of
from cmb_models.importing.file_names import files_of
from cmb_models.importing.identity import default_key
from cmb_models.importing.plan import RENAMED
from cmb_models.importing.scans import THERE, Options, import_scans, summary
from cmb_models.io.nifti import read_volume
from cmb_models.io.series_role import GRE, MAGNITUDE, PHASE, SKIPPED, SWI, role_of
from tests.support.command_line import cmb
from tests.support.dicom_export import SECRET, VENDORS, write_study
from tests.support.refused import refused
from tests.support.sources import digest, same_place, scan

GE_FIELD_MAP = Path(__file__).parents[4] / "shared/data/dicom_ge"


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Five patients of each vendor, mixed in one folder: patient to scan, and the folder."""
    folder, scans = tmp_path_factory.mktemp("export"), {}
    for n in range(15):
        vendor = list(VENDORS)[n % 3]
        scans[f"patient{n:02}"] = scan(n, tilt=0.2 * (n % 2))
        write_study(folder / f"{n % 4}/DISC{n}", vendor, f"patient{n:02}", scans[f"patient{n:02}"], np.random.default_rng(n))
    (folder / "0/README").write_text("not DICOM")
    return folder, scans


@pytest.fixture(scope="module")
def imported(export, tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    before = digest(export[0])
    steps = imported_steps([export[0]], out / "data", out / "keys/site.json")
    assert digest(export[0]) == before  # nothing in the source was changed
    return out, steps


def imported_steps(*arguments, **options):
    return import_scans(*arguments, **options).steps


def test_every_subject_is_right(export, imported):
    _, scans = export
    out, steps = imported
    found = find_scans(out / "data")
    assert len(found) == 15 and len({s.subject for s in found}) == 15
    volumes = [read_volume(s.path) for s in found]
    for volume in scans.values():
        assert sum(same_place(volume, other) for other in volumes) == 1
    assert summary(steps).startswith("15 subjects, 15 SWI scans; ")


def test_phase_and_magnitude_come_with_it(imported):
    out, steps = imported
    roles = [s.image.role for s in steps if s.target]
    assert {role: roles.count(role) for role in set(roles)} == {SWI: 15, PHASE: 15, MAGNITUDE: 5}
    for found in find_scans(out / "data"):
        phase = read_volume(found.path.with_name(found.path.name.replace("_swi", "_part-phase_swi")))
        assert phase.data.min() < -1000 and np.allclose(phase.affine, read_volume(found.path).affine)


def test_every_distractor_is_skipped_by_name(imported):
    _, steps = imported
    reasons = {(s.image.first.text("SeriesDescription"), s.reason) for s in steps if s.image.role == SKIPPED}
    assert reasons == {
        ("mIP_Images(SW)", "a projection over several slices"),
        ("MIN IP: Ax SWAN", "a projection over several slices"),
        ("SWIp mIP", "a projection over several slices"),
        ("t1_mprage_sag", "T1-weighted, not SWI"),
        ("t2_tirm_tra_dark-fluid", "FLAIR, not SWI"),
        ("Ax T2 PROPELLER", "T2-weighted, not SWI"),
        ("DWI_b1000", "diffusion, not SWI"),
        ("B0map", "a map, not an image"),
        ("localizer", "a localizer"),
        ("3Plane Loc", "a localizer"),
        ("Survey", "a localizer"),
    }
    assert not any(s.is_fault for s in steps)


def test_nobody_is_identified(imported):
    out, _ = imported
    key = out / "keys/site.json"
    assert SECRET in key.read_text() and stat.S_IMODE(key.stat().st_mode) == 0o600
    for file in (f for f in (out / "data").rglob("*") if f.is_file()):
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        for secret in (SECRET, "patient", "19520304", "20240117", "081523", "0815", "SWI_Images", "clinic"):
            assert secret.encode() not in content, f"{secret} in {file}"
            assert secret not in str(file.relative_to(out))


def test_a_second_import_changes_nothing_and_a_killed_one_goes_on(export, imported, tmp_path):
    folder, _ = export
    out, first = imported
    shutil.copytree(out, tmp_path / "site")
    data, key = tmp_path / "site/data", tmp_path / "site/keys/site.json"
    lost = [s.target for s in first if s.target][3]
    (data / lost).unlink()
    (data / lost.parent / ".partial-abc-x.nii.gz").write_bytes(b"cut")
    before = {f: f.stat().st_mtime_ns for f in data.rglob("*.nii.gz") if not f.name.startswith(".")}
    again = imported_steps([folder], data, key)
    assert [s.target for s in again] == [s.target for s in first]
    assert [s.target for s in again if s.target and s.reason != THERE] == [lost]
    assert all(f.stat().st_mtime_ns == t for f, t in before.items())
    assert same_place(read_volume(data / lost), read_volume(out / "data" / lost))


def test_a_dry_run_writes_nothing(export, tmp_path):
    steps = imported_steps([export[0]], tmp_path / "data", tmp_path / "key.json", dry_run=True)
    assert sum(s.target is not None for s in steps) == 35 and not list(tmp_path.iterdir())


def test_two_studies_of_one_patient_become_sessions(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(2):
        write_study(tmp_path / f"export/{n}", "SIEMENS", "one", scan(n), rng, ["swi"])
    imported_steps([tmp_path / "export/0"], tmp_path / "data", tmp_path / "key.json")
    imported_steps([tmp_path / "export"], tmp_path / "data", tmp_path / "key.json")
    assert [s.session for s in find_scans(tmp_path / "data")] == ["ses-02", ""]
    assert len({s.subject for s in find_scans(tmp_path / "data")}) == 1


def stack_of(folder: Path):
    (stack,) = stacks_of(read_headers(files_of([folder]))[0])
    return stack


def changed(file: Path, change) -> None:
    image = pydicom.dcmread(file)
    change(image)
    image.save_as(file)


def test_faulty_series_are_named(tmp_path):
    def study(name: str, seed: int) -> list[Path]:
        write_study(tmp_path / name, "SIEMENS", name, scan(seed), np.random.default_rng(0), ["swi"])
        return sorted((tmp_path / name / "0001").iterdir())

    study("missing", 1)[5].unlink()
    assert stack_of(tmp_path / "missing").fault == "1 of 16 slices missing, between 5 and 6"
    files = study("tilted", 2)
    changed(files[3], lambda image: setattr(image, "ImagePositionPatient", [0, 0, 500]))
    assert "slices" in stack_of(tmp_path / "tilted").fault
    files = study("twice", 3)
    shutil.copy(files[0], files[0].with_name("again"))  # the same instance
    assert stack_of(tmp_path / "twice").fault == ""
    changed(files[0].with_name("again"), lambda image: setattr(image, "SOPInstanceUID", pydicom.uid.generate_uid()))
    assert stack_of(tmp_path / "twice").fault == "1 positions with two images"
    steps = imported_steps([tmp_path / "missing"], tmp_path / "data", tmp_path / "key.json")
    assert [s.is_fault for s in steps] == [True] and not list((tmp_path / "data").rglob("*.nii.gz"))


def test_several_swi_of_a_study_are_not_guessed(tmp_path):
    rng = np.random.default_rng(0)
    write_study(tmp_path / "a", "SIEMENS", "one", scan(1), rng, ["swi"])
    write_study(tmp_path / "b", "SIEMENS", "one", scan(2), rng, ["swi"])
    study = pydicom.dcmread(next(files_of([tmp_path / "a"]))).StudyInstanceUID
    for file in files_of([tmp_path / "b"]):
        changed(file, lambda image: setattr(image, "StudyInstanceUID", study))
    steps = imported_steps([tmp_path / "a", tmp_path / "b"], tmp_path / "data", tmp_path / "key.json")
    assert [(s.target, s.is_fault) for s in steps] == [(None, True)] * 2 and "one of several" in steps[0].reason


def test_what_cannot_be_imported(tmp_path):
    (tmp_path / "empty").mkdir()
    with refused("import-nothing", got="no file"):
        imported_steps([tmp_path / "empty"], tmp_path / "data", tmp_path / "key.json")
    with refused("file-not-found"):
        imported_steps([tmp_path / "none"], tmp_path / "data", tmp_path / "key.json")
    write_study(tmp_path / "a", "SIEMENS", "one", scan(1), np.random.default_rng(0), ["swi"])
    with refused("import-key", got="one in"):
        imported_steps([tmp_path / "a"], tmp_path / "data", tmp_path / "data/key.json")
    (tmp_path / "open.json").write_text("{}")
    (tmp_path / "open.json").chmod(0o644)
    with refused("import-key", got="mode 644"):
        imported_steps([tmp_path / "a"], tmp_path / "data", tmp_path / "open.json")
    for file in files_of([tmp_path / "a"]):
        changed(file, lambda image: (setattr(image, "PatientID", ""), setattr(image, "PatientName", "")))
    (step,) = imported_steps([tmp_path / "a"], tmp_path / "data", tmp_path / "key.json")
    assert (step.code, step.subject, step.target, step.is_fault) == ("import-identity", "", None, True)


def test_the_key_is_kept_outside_the_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_key(tmp_path / "data").is_relative_to(tmp_path / "home")


@pytest.mark.skipif(not GE_FIELD_MAP.is_dir(), reason="no real files here")
def test_a_field_map_of_a_real_scanner_is_refused(tmp_path):
    (step,) = imported_steps([GE_FIELD_MAP], tmp_path / "data", tmp_path / "key.json")
    assert (step.target, step.reason) == (None, "a map, not an image")


def test_the_command_shows_what_becomes_of_each_series(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for n in range(2):
        write_study(tmp_path / f"export/{n}", "SIEMENS", f"patient{n}", scan(n), np.random.default_rng(n), ["swi", "minip"])
    next(f for f in files_of([tmp_path / "export/1/0001"]) if f.name == "IM00004").unlink()
    arguments = ("import", str(tmp_path / "export"), "--into", str(tmp_path / "data"))
    planned = cmb(*arguments, "--dry-run")
    place = f"not usable: series 1 SWI_Images, in {tmp_path / 'export/1/0001'}"
    assert place in planned.output and "archives, not opened" not in planned.output
    (tmp_path / "export/third.ZIP").write_bytes(b"PK")
    (tmp_path / "export/DICOMDIR").write_bytes(b"")
    assert "new 1" in planned.output and "sub-" not in planned.output and "nothing written" in planned.output
    assert not (tmp_path / "data").exists() and not (tmp_path / "home").exists()
    done = cmb(*arguments)
    assert done.exit_code == 1  # one SWI is not whole
    assert place in done.output
    assert "import again: third.ZIP\nneither DICOM nor another format read here: DICOMDIR\n" in done.output
    assert "1 subject, 1 SWI scan; 2 skipped, 1 not usable" in done.output and "a projection" in done.output
    assert [f.stat().st_mode & 0o777 for f in (tmp_path / "home").rglob("*.json")] == [0o600]


def test_a_dry_run_shows_what_is_imported_already(tmp_path):
    for n in range(2):
        write_study(tmp_path / f"export/{n}", "SIEMENS", f"p{n}", scan(n), np.random.default_rng(n), ["swi"])
    imported_steps([tmp_path / "export/0"], tmp_path / "data", tmp_path / "key.json")
    steps = imported_steps([tmp_path / "export"], tmp_path / "data", tmp_path / "key.json", dry_run=True)
    assert sorted(s.reason for s in steps) == ["", "already imported"]


def test_a_header_says_what_its_series_is():
    values = pydicom.Dataset()
    values.Modality, values.ScanningSequence, values.EchoTime = "MR", ["GR", "SP"], 20.0
    values.SeriesDescription, values.ProtocolName, values.ImageType = "t2_fl2d_tra_hemo", "swi", ["ORIGINAL", "PRIMARY", "M"]
    facts = Header(Path("file"), values).facts(40)
    assert (facts.kinds, facts.echo_ms, facts.slices) == ({"ORIGINAL", "PRIMARY", "M"}, 20.0, 40)
    assert role_of(facts)[0] == GRE


def test_files_of_one_frame_each(tmp_path):
    write_study(tmp_path, "SIEMENS", "one", scan(1), np.random.default_rng(0), ["swi"])
    for file in files_of([tmp_path]):
        changed(file, lambda image: setattr(image, "NumberOfFrames", 1))
    assert (stack_of(tmp_path).fault, stack_of(tmp_path).slices) == ("", 16)


def test_links_are_followed_once(tmp_path):
    write_study(tmp_path / "archive", "SIEMENS", "one", scan(1), np.random.default_rng(0), ["swi"])
    (tmp_path / "export").mkdir()
    (tmp_path / "export/disc").symlink_to(tmp_path / "archive")
    (tmp_path / "archive/up").symlink_to(tmp_path)
    assert len(list(files_of([tmp_path / "export"]))) == 16


def test_another_series_does_not_take_the_place_of_an_imported_one(tmp_path):
    """The same study with another reconstruction: the SWI stays, and the other's phase is not put next to it."""
    rng = np.random.default_rng(0)
    write_study(tmp_path / "first", "SIEMENS", "one", scan(1), rng, ["swi"])
    write_study(tmp_path / "second", "SIEMENS", "one", scan(2), rng, ["swi", "phase"])
    study = pydicom.dcmread(next(files_of([tmp_path / "first"]))).StudyInstanceUID
    for file in files_of([tmp_path / "second"]):
        changed(file, lambda image: setattr(image, "StudyInstanceUID", study))
    imported_steps([tmp_path / "first"], tmp_path / "data", tmp_path / "key.json")
    steps = imported_steps([tmp_path / "second"], tmp_path / "data", tmp_path / "key.json")
    assert [(s.target, s.is_fault) for s in steps] == [(None, True), (None, False)]
    assert "another series is there" in steps[0].reason and steps[1].reason == "its SWI was not imported"
    (found,) = find_scans(tmp_path / "data")
    assert same_place(read_volume(found.path), scan(1))


def test_one_patient_is_one_subject(tmp_path):
    """With an issuer of its ID or without; and everybody under one name is refused."""
    rng = np.random.default_rng(0)
    for n in range(2):
        write_study(tmp_path / f"export/{n}", "SIEMENS", "one", scan(n), rng, ["swi"])
    for file in files_of([tmp_path / "export/1"]):
        changed(file, lambda image: setattr(image, "IssuerOfPatientID", "PACS"))
    steps = imported_steps([tmp_path / "export"], tmp_path / "data", tmp_path / "key.json", dry_run=True)
    assert len({s.subject for s in steps}) == 1
    for file in files_of([tmp_path / "export/1"]):
        changed(file, lambda image: setattr(image, "PatientBirthDate", "19610101"))
    steps = imported_steps([tmp_path / "export"], tmp_path / "data", tmp_path / "key.json", dry_run=True)
    assert [(s.code, s.target) for s in steps] == [("import-identity", None)] * 2 and "several birth dates" in steps[0].reason
    assert default_key(tmp_path / "raw/site") == default_key(tmp_path / "raw/locked") != default_key(tmp_path / "other/site")


@pytest.mark.parametrize(("second", "is_one"), [("Meier^Jörg", False), ("MUELLER Jorg", True), ("", True)])
def test_one_id_with_several_names(second, is_one, tmp_path):
    """One ID of several patients, with the names but no birth dates. In one import, and in two."""
    for n, name in enumerate(("Müller^Jörg", second)):
        write_study(tmp_path / f"export/{n}", "SIEMENS", "one", scan(n), np.random.default_rng(n), ["swi"])
        for file in files_of([tmp_path / f"export/{n}"]):
            changed(file, lambda image: setattr(image, "SpecificCharacterSet", "ISO_IR 192"))
            changed(file, lambda image: (setattr(image, "PatientID", "P1"), setattr(image, "PatientBirthDate", "")))
            changed(file, lambda image, name=name: setattr(image, "PatientName", name))
    together = imported_steps([tmp_path / "export"], tmp_path / "a/data", tmp_path / "a.json")
    first = imported_steps([tmp_path / "export/0"], tmp_path / "b/data", tmp_path / "b.json")
    then = imported_steps([tmp_path / "export/1"], tmp_path / "b/data", tmp_path / "b.json")
    assert [s.is_fault for s in (*together, *first, *then)] == [not is_one, not is_one, False, not is_one]
    assert is_one or all("several names" in s.reason and s.code == "import-identity" for s in (*together, *then))
    assert "ller" not in (tmp_path / "b.json").read_text().lower()


@pytest.mark.parametrize("born", ["19520304", ""])
def test_a_patient_who_married_is_one_by_an_option(born, tmp_path):
    """In one import, and in two; with a note."""
    for n, name in enumerate(("Mueller^Petra", "Meier^Petra")):
        write_study(tmp_path / f"export/{n}", "SIEMENS", "one", scan(n), np.random.default_rng(n), ["swi"])
        for file in files_of([tmp_path / f"export/{n}"]):
            changed(file, lambda image, name=name: (setattr(image, "PatientName", name), setattr(image, "PatientBirthDate", born)))
    renamed = Options(may_be_renamed=True)
    together = import_scans([tmp_path / "export"], tmp_path / "a/data", tmp_path / "a.json", options=renamed).steps
    for n in (0, 1):
        then = import_scans([tmp_path / f"export/{n}"], tmp_path / "b/data", tmp_path / "b.json", options=renamed).steps
    for steps in (together, then):
        assert {(s.target is not None, s.code, RENAMED in s.reason) for s in steps} == {
            (True, "", True) if born else (False, "import-identity", False)
        }
    assert not born or sorted(s.session for s in together) == ["", "ses-02"]

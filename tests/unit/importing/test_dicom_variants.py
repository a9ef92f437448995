"""DICOM as archives send it: compressed, multi-frame, incomplete, mixed up. Each is imported right, or refused in right words."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from cmb_models.dataset.layout import find_scans
from cmb_models.importing.dicom.series import Header, without_names
from cmb_models.importing.plan import Step
from cmb_models.importing.scans import Options, import_scans
from cmb_models.io.nifti import read_volume
from cmb_models.io.series_role import PHASE
from cmb_models.volume import Volume
from tests.support.command_line import cmb
from tests.support.dicom_export import VENDORS, write_multiframe, write_series, write_study
from tests.support.sources import same_place, scan


def run(folder: Path, options: Options | None = None) -> list[Step]:
    return import_scans([folder / "in"], folder / "data", folder / "key.json", options=options).steps


def study(folder: Path, patient: str = "one", seed: int = 1) -> list[Path]:
    """The files of an SWI, by slice."""
    write_study(folder, "SIEMENS", patient, scan(seed, tilt=0.2), np.random.default_rng(0), ["swi"])
    return sorted((folder / "0001").iterdir())


def each(files, change) -> None:
    for file in files:
        image = pydicom.dcmread(file)
        change(image)
        image.save_as(file)


def encapsulated(image: pydicom.Dataset, frame: bytes, syntax: pydicom.uid.UID) -> None:
    image.PixelData = encapsulate([frame])
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = syntax


def rle(image):
    image.compress(RLELossless)


def jpeg_2000(image):
    image.PixelRepresentation = 0
    pixels = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    encapsulated(image, stream.getvalue(), JPEG2000Lossless)


def jpeg_lossless(image):
    """By ITK, whose frame is put into the image."""
    name = f"{image.filename}.itk.dcm"
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.SetFileName(name)
    writer.Execute(SimpleITK.GetImageFromArray(image.pixel_array.astype(np.int16)))
    written = pydicom.dcmread(name)
    assert written.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    Path(name).unlink()
    encapsulated(image, next(generate_frames(written.PixelData, number_of_frames=1)), JPEGLosslessSV1)


def deflated(image):
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def implicit(image):
    image.remove_private_tags()
    image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


@pytest.mark.parametrize("syntax", [rle, jpeg_2000, jpeg_lossless, deflated, implicit])
def test_compressed_series(syntax, tmp_path):
    each(study(tmp_path / "in"), syntax)
    (step,) = run(tmp_path)
    assert same_place(read_volume(tmp_path / "data" / step.target), scan(1, tilt=0.2))


def test_big_endian(tmp_path):
    for file in study(tmp_path / "in"):
        source = pydicom.dcmread(file)
        source.remove_private_tags()
        image = pydicom.Dataset()
        image.update(source)
        image.file_meta = source.file_meta
        image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        image.PixelData = np.frombuffer(source.PixelData, "<i2").astype(">i2").tobytes()
        image.save_as(file, implicit_vr=False, little_endian=False, enforce_file_format=True)
    (step,) = run(tmp_path)
    assert same_place(read_volume(tmp_path / "data" / step.target), scan(1, tilt=0.2))


def cut(syntax):
    """The change of an image to one that is compressed and ends too early."""

    def change(image):
        syntax(image)
        frame = next(generate_frames(image.PixelData, number_of_frames=1))
        encapsulated(image, frame[: len(frame) // 3], image.file_meta.TransferSyntaxUID)

    return change


DAMAGED = {
    "RLE": (rle, cut(rle)),
    "JPEG 2000": (jpeg_2000, cut(jpeg_2000)),
    "JPEG": (jpeg_lossless, cut(jpeg_lossless)),
    "JPEG-LS": (lambda image: encapsulated(image, b"\xff\xd8\xff\xf7nothing", JPEGLSLossless),) * 2,
    "HTJ2K, which nothing here decodes": (lambda image: encapsulated(image, b"\xff\x4f\xff\x51nothing", HTJ2KLossless),) * 2,
    "not compressed": (lambda image: None, lambda image: setattr(image, "PixelData", image.PixelData[:-1000])),
}


@pytest.mark.parametrize(("whole", "damaged"), DAMAGED.values(), ids=DAMAGED)
def test_an_image_that_cannot_be_decoded(whole, damaged, tmp_path):
    """One in sixteen: nothing is written of its scan, and the other patient's is imported."""
    files = study(tmp_path / "in/bad")
    each(files[:5] + files[6:], whole)
    each(files[5:6], damaged)
    study(tmp_path / "in/good", "two", 2)
    steps = run(tmp_path)
    assert sorted((s.code, s.is_fault, s.target is None) for s in steps) == [("", False, False), ("import-conversion", True, True)]
    (found,) = find_scans(tmp_path / "data")
    assert same_place(read_volume(found.path), scan(2, tilt=0.2))
    assert len([f for f in (tmp_path / "data").rglob("*") if f.is_file()]) == 3  # scan, sidecar, annotations.csv


@pytest.mark.parametrize("order", ["as scanned", "reversed", "shuffled"])
def test_multi_frame_files(order, tmp_path):
    file = tmp_path / "in/image"
    write_multiframe(file, scan(1, tilt=0.2))
    image = pydicom.dcmread(file)
    frames = list(range(16))
    if order == "reversed":
        frames.reverse()
    elif order == "shuffled":
        np.random.default_rng(0).shuffle(frames)
    size = len(image.PixelData) // 16
    image.PixelData = b"".join(image.PixelData[n * size : (n + 1) * size] for n in frames)
    image.PerFrameFunctionalGroupsSequence = [image.PerFrameFunctionalGroupsSequence[n] for n in frames]
    image.save_as(file)
    (step,) = run(tmp_path)
    assert same_place(read_volume(tmp_path / "data" / step.target), scan(1, tilt=0.2))


def test_multi_frame_files_that_are_no_whole_swi(tmp_path):
    write_multiframe(tmp_path / "a/in/image", scan(1), missing=5)
    (step,) = run(tmp_path / "a")
    assert (step.is_fault, step.reason) == (True, "1 of 16 slices missing, between 5 and 6")
    write_multiframe(tmp_path / "b/in/image", scan(1), component="PHASE")
    (step,) = run(tmp_path / "b")
    assert (step.target, step.reason) == (None, "without an SWI of its grid")
    write_multiframe(tmp_path / "c/in/image", scan(1))
    each([tmp_path / "c/in/image"], lambda image: delattr(image, "PerFrameFunctionalGroupsSequence"))
    (step,) = run(tmp_path / "c")
    assert (step.is_fault, step.reason) == (True, "slices without a position")


def test_every_second_slice_is_missing(tmp_path):
    for file in study(tmp_path / "in")[::2]:
        file.unlink()
    (step,) = run(tmp_path)
    assert (step.is_fault, step.reason) == (True, "slices 4.00 mm apart, 2.00 mm by their headers: others are missing")


@pytest.mark.parametrize("part", [slice(8), slice(None, None, 2)])
def test_one_scan_with_two_series_uids(part, tmp_path):
    files, uid = study(tmp_path / "in"), generate_uid()
    each(files[part], lambda image: setattr(image, "SeriesInstanceUID", uid))
    steps = run(tmp_path)
    assert [(s.target, s.is_fault) for s in steps] == [(None, True)] * 2


def test_two_patients_in_one_folder(tmp_path):
    """Also where an anonymiser gave both the same UIDs."""
    (tmp_path / "in").mkdir()
    for n in range(2):
        files = study(tmp_path / f"export{n}", f"patient{n}", n)
        for k, file in enumerate(files):
            image = pydicom.dcmread(file)
            image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = "1.2.3", "1.2.4", f"1.2.5.{k}"
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            image.save_as(tmp_path / f"in/{n}-{k}")
    run(tmp_path)
    found = find_scans(tmp_path / "data")
    assert len({s.subject for s in found}) == 2
    for n in range(2):
        assert sum(same_place(read_volume(s.path), scan(n, tilt=0.2)) for s in found) == 1


def test_one_patient_in_two_folders(tmp_path):
    """Half of the slices in each, some in both."""
    files = study(tmp_path / "export")
    for folder, own in (("in/a", files[:9]), ("in/b", files[7:])):
        (tmp_path / folder).mkdir(parents=True)
        for file in own:
            shutil.copy(file, tmp_path / folder)
    (step,) = run(tmp_path)
    assert same_place(read_volume(tmp_path / "data" / step.target), scan(1, tilt=0.2))


def test_echoes_of_one_series(tmp_path):
    swi = VENDORS["GE MEDICAL SYSTEMS"]["swi"]
    about = {"study": "1.2.3", "series": "1.2.4", "number": 1, "patient": "one", "vendor": "GE MEDICAL SYSTEMS"}
    for n, echo in enumerate((7.5, 20.0, 32.5)):
        write_series(tmp_path / f"in/{n}", scan(n), swi, about)
        each((tmp_path / f"in/{n}").iterdir(), lambda image, echo=echo: setattr(image, "EchoTime", echo))
    steps = run(tmp_path)
    assert {(s.is_fault, s.reason) for s in steps} == {
        (True, "3 echoes of one series, of 7.5, 20, 32.5 ms: pass one of them with --echo")
    }
    assert all(s.is_fault for s in run(tmp_path, Options(echo_ms=11)))
    steps = run(tmp_path, Options(echo_ms=20))
    assert sorted(s.reason for s in steps) == ["", "another echo than 20 ms", "another echo than 20 ms"]
    (found,) = find_scans(tmp_path / "data")
    assert same_place(read_volume(found.path), scan(1))


def test_the_phase_of_the_same_echo_is_taken(tmp_path):
    about = {"study": "1.2.3", "number": 1, "patient": "one", "vendor": "SIEMENS"}
    kinds = VENDORS["SIEMENS"]
    for n, (kind, echo) in enumerate((("phase", 7.5), ("phase", 20.0), ("swi", 20.0))):
        write_series(
            tmp_path / f"in/{n}",
            Volume(scan(n).data, scan(0).affine),
            kinds[kind],
            about | {"series": "1.2.4" if kind == "swi" else "1.2.5"},
        )
        each((tmp_path / f"in/{n}").iterdir(), lambda image, echo=echo: setattr(image, "EchoTime", echo))
    steps = run(tmp_path)
    (phase,) = (s for s in steps if s.target and s.image.role == PHASE)
    assert same_place(read_volume(tmp_path / "data" / phase.target), Volume(scan(1).data, scan(0).affine))
    assert [s.reason for s in steps if s.target is None] == ["a second phase"]


def test_an_image_without_a_patient_does_not_stop_the_others(tmp_path):
    each(study(tmp_path / "in/a"), lambda image: (setattr(image, "PatientID", ""), setattr(image, "PatientName", "")))
    study(tmp_path / "in/b", "two", 2)
    steps = run(tmp_path)
    assert sorted((s.code, s.is_fault, s.target is None) for s in steps) == [("", False, False), ("import-identity", True, True)]


@pytest.mark.parametrize("number", ["ANON", "anonymized", "Unknown", "0000", "de-identified"])
def test_a_placeholder_is_no_patients_id(tmp_path, number):
    """Or all patients of an anonymised export would become sessions of one subject."""
    for n in range(2):
        files = study(tmp_path / f"in/{n}", f"p{n}", n)
        for tag, value in (("PatientID", number), ("PatientName", ""), ("PatientBirthDate", "")):
            each(files, lambda image, tag=tag, value=value: setattr(image, tag, value))
    assert [(s.code, s.target) for s in run(tmp_path)] == [("import-identity", None)] * 2


@pytest.mark.parametrize("number", ["ANON-001", "X0012", "anon7"])
def test_a_pseudonym_is_a_patients_id(tmp_path, number):
    each(study(tmp_path / "in/a"), lambda image: setattr(image, "PatientID", number))
    assert [s.is_fault for s in run(tmp_path)] == [False]


def test_one_patient_under_two_ids_is_pointed_out(tmp_path):
    """In one import, and in the next: an archive that fills IDs with zeros."""
    files = [study(tmp_path / f"in/{n}", "one", n) for n in range(2)]
    each(files[0], lambda image: setattr(image, "PatientID", "0004711"))
    study(tmp_path / "in/2", "two", 2)
    steps = run(tmp_path)
    warned = [s for s in steps if "same name and birth date as" in s.reason]
    assert len(warned) == 2 and len({s.subject for s in steps}) == 3 and not any(s.is_fault for s in steps)
    again = [s.reason for s in run(tmp_path) if s.subject == warned[0].subject]
    assert again == [f"already imported; {warned[0].reason}"] and warned[1].subject in warned[0].reason
    each(files[0], lambda image: setattr(image, "PatientBirthDate", ""))
    assert not any("same name" in s.reason for s in import_scans([tmp_path / "in"], tmp_path / "b", tmp_path / "b.json").steps)


def test_an_export_that_was_not_complete_at_the_first_import(tmp_path):
    """Nothing shows that the last slices are missing; later they are there."""
    files = study(tmp_path / "in")
    for file in files[12:]:
        file.rename(tmp_path / file.name)
    (first,) = run(tmp_path)
    for file in files[12:]:
        (tmp_path / file.name).rename(file)
    (second,) = run(tmp_path)
    assert (
        second.is_fault and second.reason == f"imported with 12 slices, of which there are 16 now: remove {first.target.name} first"
    )
    (tmp_path / "data" / first.target).unlink()
    (third,) = run(tmp_path)
    assert not third.is_fault and read_volume(tmp_path / "data" / third.target).data.shape[2] == 16


def test_damaged_headers(tmp_path, recwarn):
    """A value that pydicom cannot convert, and one of which its warning would print the patient's name."""
    files = study(tmp_path / "in/a")
    files[5].write_bytes(files[5].read_bytes().replace(b"\x18\x00\x81\x00DS", b"\x18\x00\x81\x00ZZ"))
    each(study(tmp_path / "in/b", "two", 2), lambda image: setattr(image, "PatientID", "Mueller" * 10))
    recwarn.clear()
    imported = import_scans([tmp_path / "in"], tmp_path / "data", tmp_path / "key.json")
    assert not imported.others and imported.unread == {files[5]: "a damaged DICOM header"}
    assert sorted(s.reason for s in imported.steps) == ["", "1 of 16 slices missing, between 5 and 6"]
    assert not [w for w in recwarn if "Mueller" in str(w.message)]


DESCRIPTIONS = {
    "SWI Müller": "SWI",
    "SWI_MULLER_tra": "SWI__tra",
    "SWIMüller tra": "tra",
    "ax swi hans-peter": "ax swi -",
    "SWI 4711": "SWI",
    "t2 Li tra": "t2 tra",
    "t2 line": "t2 line",
    "19520304 SWI": "SWI",
    "SWI_Images": "SWI_Images",
    "SWI Mueller Hans": "SWI",
    "SWIMUELLER": "",
}


@pytest.mark.parametrize(("description", "shown"), DESCRIPTIONS.items(), ids=DESCRIPTIONS)
def test_descriptions_without_names(description, shown):
    values = pydicom.Dataset()
    values.PatientName, values.PatientID, values.PatientBirthDate = "Müller-Li^Hans Peter", "KH-4711", "19520304"
    assert without_names(description, Header(Path("file"), values)) == shown


TYPED = [("Müller^Jörg", "SWI Mueller Joerg"), ("Mueller^Joerg", "SWI Müller Jörg"), ("Groß^Änne", "SWI GROSS AENNE")]


@pytest.mark.parametrize(("name", "description"), TYPED, ids=[name for name, _ in TYPED])
def test_transliterated_names(name, description):
    values = pydicom.Dataset()
    values.PatientName = name
    assert without_names(description, Header(Path("file"), values)) == "SWI"


def test_the_table_names_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for n in range(2):
        each(study(tmp_path / f"in/{n}", "Mueller"), lambda image: setattr(image, "StudyInstanceUID", "1.2.3"))
    each((tmp_path / "in").rglob("IM*"), lambda image: setattr(image, "SeriesDescription", "SWI Mueller"))
    each((tmp_path / "in").rglob("IM*"), lambda image: setattr(image, "PatientName", "Mueller^Anna"))
    done = cmb("import", str(tmp_path / "in"), "--into", str(tmp_path / "data"))
    assert done.exit_code == 1 and "one of several" in done.output.replace("\n", " ") and "series 1 SWI" in done.output
    assert "ueller" not in done.output


def turned(image: pydicom.Dataset) -> None:
    image.ImageOrientationPatient = [1, 0, 0, 0, round(np.cos(0.3), 6), round(np.sin(0.3), 6)]


OTHER_GRIDS = {
    "the same": (lambda image: None, True),
    "turned": (turned, False),
    "coarser": (lambda image: setattr(image, "PixelSpacing", [1.8, 1.8]), False),
    "without places": (lambda image: delattr(image, "ImagePositionPatient"), False),
}


@pytest.mark.parametrize(("change", "is_taken"), OTHER_GRIDS.values(), ids=OTHER_GRIDS)
def test_the_phase_of_another_grid_is_not_taken(change, is_taken, tmp_path):
    write_study(tmp_path / "in", "SIEMENS", "one", scan(1), np.random.default_rng(0), ["swi", "phase"])
    each((tmp_path / "in/0002").iterdir(), change)
    assert [s.target is not None for s in run(tmp_path)] == [True, is_taken]


@pytest.mark.parametrize("shift_mm", [0.0, 30.0])
def test_the_phase_of_another_place_is_not_taken_of_multi_frame_files(shift_mm, tmp_path):
    affine = scan(1).affine + np.outer([1, 0, 0, 0], [0, 0, 0, shift_mm])
    write_multiframe(tmp_path / "in/swi", scan(1))
    write_multiframe(tmp_path / "in/phase", Volume(scan(2).data, affine), component="PHASE")
    each((tmp_path / "in").iterdir(), lambda image: setattr(image, "StudyInstanceUID", "1.2.3"))
    assert sorted(s.target is not None for s in run(tmp_path)) == [shift_mm == 0, True]


@pytest.mark.parametrize("kind", ["phase", "magnitude"])
def test_an_swi_cut_at_its_end_next_to_a_whole_phase(kind, tmp_path):
    write_study(tmp_path / "in", "SIEMENS", "one", scan(1), np.random.default_rng(0), ["swi", kind])
    for file in sorted((tmp_path / "in/0001").iterdir())[11:]:
        file.unlink()
    swi, other = run(tmp_path)
    assert (swi.is_fault, swi.reason) == (True, f"11 of the 16 slices that its {other.image.role} has")
    assert other.target is None


NUMBERS = {
    "whole": (range(1, 17), False),
    "from the top": (range(16, 0, -1), False),
    "from 0": (range(16), False),
    "cut at its begin": (range(6, 17), True),
    "cut at its begin, from the top": (range(16, 5, -1), True),
    "not contiguous": ([1, 2, *range(5, 15)], True),
    "drawn": ([7, 12, 3, 45, 9, 30], False),
    "all alike": ([1] * 16, False),
}


@pytest.mark.parametrize(("numbers", "is_fault"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_the_images_of_an_swi(numbers, is_fault, tmp_path):
    files = study(tmp_path / "in")
    for n, file in enumerate(files):
        if n < len(numbers):
            each([file], lambda image, n=n: setattr(image, "InstanceNumber", numbers[n]))
        else:
            file.unlink()
    (step,) = run(tmp_path)
    assert (step.is_fault, "others are missing" in step.reason) == (is_fault, is_fault)

"""DICOM SEG and SR of detections: valid by other programs' validators, at the right places, of the right patient and release."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cmb_models.client.outputs import ScanResult
from cmb_models.detection import RESEARCH_USE, Detection, DetectionResult
from cmb_models.importing.dicom.folder import read_scan_folder
from cmb_models.outputs.dicom import objects
from cmb_models.outputs.dicom.objects import write_dicom
from cmb_models.outputs.dicom.source import FORMS, TEXTS, frames_of, read_source
from cmb_models.outputs.extent import instance_labels
from cmb_models.volume import Volume, index_from_world, world_from_index
from tests.support.dicom_export import write_multiframe, write_study
from tests.support.refused import refused
from tests.support.sources import SHAPE, SPACING_MM

MANIFEST = "a1" * 32
SPOTS = ((10, 12, 8), (22, 30, 5), (30, 20, 12))
TO_LPS = np.diag([-1.0, -1.0, 1.0])
VALIDATOR = pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy of dicom3tools")
READER = pytest.mark.skipif(not shutil.which("dsrdump"), reason="needs dsrdump of dcmtk")


def turned(axis: int, angle: float) -> np.ndarray:
    """Rotation (3, 3) about an axis."""
    one, other = (n for n in range(3) if n != axis)
    turn = np.eye(3)
    turn[[one, one, other, other], [one, other, one, other]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return turn


def spotted(kind: str) -> Volume:
    """Tissue with three dark balls; slices axial, oblique or sagittal."""
    directions = {"axial": np.eye(3), "oblique": turned(0, 0.3) @ turned(2, 0.2), "sagittal": np.eye(3)[:, [1, 2, 0]]}
    affine = np.eye(4)
    affine[:3, :3] = directions[kind.removeprefix("multi-frame ")] @ np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2]])
    affine[:3, 3] = 21.0, 33.3, -14.2
    data = 500 + np.random.default_rng(1).normal(0, 8, SHAPE)
    for spot in SPOTS:
        axes = [(np.arange(n) - c) * s for n, c, s in zip(SHAPE, spot, SPACING_MM, strict=True)]
        data[sum(np.square(a) for a in np.ix_(*axes)) <= 2.2**2] = 60
    return Volume(np.rint(data).astype(np.float32), affine)


def found_in(folder: Path, count: int, release: int = 7, threshold: float | None = None) -> tuple[ScanResult, Volume, tuple]:
    """A result with the first spots of `spotted`, the volume as it was read, and the DICOM files."""
    read = read_scan_folder(folder, None, requires_phase=False)
    places = world_from_index(np.array(SPOTS), spotted((folder / "kind").read_text()).affine)[:count]
    index = np.rint(index_from_world(places, read.swi.affine)).astype(int)
    detections = tuple(
        Detection(tuple(map(float, p)), tuple(map(int, i)), 4.4, 0.95 - 0.1 * n, 0.9, 0.8)
        for n, (p, i) in enumerate(zip(places, index, strict=True))
    )
    answer = DetectionResult(detections, 0.5, release, MANIFEST)
    return ScanResult("head", str(folder), answer, threshold=threshold), read.swi, read.files


def exported(folder: Path, kind: str) -> Path:
    """`spotted` as DICOM."""
    folder.mkdir(parents=True)
    (folder / "kind").write_text(kind)
    if kind.startswith("multi-frame"):
        write_multiframe(folder / "image", spotted(kind))
    else:
        write_study(folder, "SIEMENS", "p1", spotted(kind), np.random.default_rng(0), ("swi", "phase"))
    return folder


KINDS = ("axial", "oblique", "sagittal", "multi-frame axial", "multi-frame oblique")


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """Result, volume and written files of a scan with three detections."""
    place = tmp_path_factory.mktemp("made")
    result, volume, files = found_in(exported(place / "in", request.param), 3)
    sr, seg = write_dicom(place, result, volume, read_source(files, place))
    return result, volume, sr, seg


def errors_of(file: Path) -> list[str]:
    report = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=False)
    lines = (report.stdout + report.stderr).splitlines()
    assert any("Segmentation" in line or "SR" in line for line in lines), lines  # it knew what to check
    return [line for line in lines if line.startswith("Error")]


@VALIDATOR
def test_an_independent_validator_finds_no_errors(made):
    *_, sr, seg = made
    assert errors_of(sr) == [] and errors_of(seg) == []


@VALIDATOR
@READER
def test_no_detections_are_a_report_of_none_without_segmentation(tmp_path):
    result, volume, files = found_in(exported(tmp_path / "in", "axial"), 0)
    assert [f.name for f in write_dicom(tmp_path, result, volume, read_source(files, tmp_path))] == ["head_cmb_sr.dcm"]
    assert errors_of(tmp_path / "head_cmb_sr.dcm") == []
    assert '"Quantity")="0.0"' in dumped(tmp_path / "head_cmb_sr.dcm")


@VALIDATOR
def test_the_validator_is_one_that_can_fail(made, tmp_path):
    broken = pydicom.dcmread(made[3])
    del broken.SegmentSequence[0].SegmentAlgorithmType
    broken.save_as(tmp_path / "broken.dcm")
    assert errors_of(tmp_path / "broken.dcm")


def dumped(file: Path) -> str:
    done = subprocess.run(["dsrdump", "+Pl", "+U8", file], capture_output=True, text=True, check=True)
    return done.stdout


@READER
def test_another_reader_finds_the_centres_and_the_scores(made):
    result, _, sr, _ = made
    text = dumped(sr)
    numbers = re.findall(r"SCOORD3D:.*\(POINT,,([-\d.e]+)/([-\d.e]+)/([-\d.e]+)\)", text)
    places = np.array(numbers, dtype=float) @ TO_LPS
    np.testing.assert_allclose(places, [d.position_mm for d in result.detections], atol=0.01)
    scores = [float(n) for n in re.findall(r'"Certainty of Finding"\)="([\d.]+)"', text)]
    np.testing.assert_allclose(scores, [100 * d.score for d in result.detections], atol=1e-3)
    assert "Verification Flag   : UNVERIFIED" in text and '"Quantity")="3.0"' in text
    for words in (f"manifest SHA-256: {MANIFEST}", "release 7, cmb-models", "threshold: 0.500000", RESEARCH_USE):
        assert words in text


def test_each_segment_lies_on_its_microbleed(made):
    """By the attributes of the standard alone: the places of the pixels of each frame."""
    result, volume, _, seg = made
    image = pydicom.dcmread(seg)
    assert [s.SegmentNumber for s in image.SegmentSequence] == [1, 2, 3]
    shared = image.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    places: dict[int, list] = {1: [], 2: [], 3: []}
    for frame, pixels in zip(image.PerFrameFunctionalGroupsSequence, image.pixel_array, strict=True):
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for row, column in np.argwhere(pixels):
            place = position + orientation[:3] * column * between_columns + orientation[3:] * row * between_rows
            places[number].append(place @ TO_LPS)
    labels = instance_labels(volume, result.detections)
    for number, found in places.items():
        expected = world_from_index(np.argwhere(labels == number), volume.affine)
        assert len(found) == len(expected) > 5
        np.testing.assert_allclose(np.mean(found, axis=0), expected.mean(axis=0), atol=0.01)
        np.testing.assert_allclose(np.mean(found, axis=0), result.detections[number - 1].position_mm, atol=1.1)


def test_both_belong_to_the_study_and_point_at_its_images(made, tmp_path):
    result, _, sr, seg = made
    source = [pydicom.dcmread(f) for f in read_scan_folder(Path(result.file), None, requires_phase=False).files]
    images = {str(image.SOPInstanceUID) for image in source}
    report, segmentation = pydicom.dcmread(sr), pydicom.dcmread(seg)
    for made_of in (report, segmentation):
        for name in ("PatientName", "PatientID", "StudyInstanceUID"):
            assert made_of[name].value == source[0][name].value
        assert made_of.SeriesInstanceUID != source[0].SeriesInstanceUID
    assert segmentation.FrameOfReferenceUID == source[0].FrameOfReferenceUID
    referenced = segmentation.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source[0].SeriesInstanceUID
    shown = {str(i.ReferencedSOPInstanceUID) for i in referenced.ReferencedInstanceSequence}
    assert shown and shown <= images
    tracked = [str(s.TrackingUID) for s in segmentation.SegmentSequence]
    assert all(uid in sr.read_bytes().decode("latin-1") for uid in tracked)
    evidence = [s for study in report.CurrentRequestedProcedureEvidenceSequence for s in study.ReferencedSeriesSequence]
    assert {s.SeriesInstanceUID for s in evidence} == {source[0].SeriesInstanceUID, segmentation.SeriesInstanceUID}


def test_the_same_result_is_the_same_object_and_another_one_is_not(tmp_path):
    folder = exported(tmp_path / "in", "axial")

    def uids(count: int = 2, of_images: dict | None = None, **changes) -> tuple[str, ...]:
        result, volume, files = found_in(folder, count, **changes)
        source = read_source(files, folder)
        for image in source.images:
            image.update(of_images or {})
        written = [pydicom.dcmread(file) for file in write_dicom(tmp_path, result, volume, source)]
        return tuple(str(file[name].value) for file in written for name in ("SeriesInstanceUID", "SOPInstanceUID"))

    assert uids() == uids()
    others = [uids(), uids(release=8), uids(threshold=0.3), uids(3), uids(of_images={"PatientName": "Other"})]
    others += [uids(of_images={"StudyInstanceUID": "1.2.3"})]
    everything = [uid for one in others for uid in one]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("frames", ["", "2"])
def test_images_without_one_frame_of_reference_are_refused(tmp_path, frames):
    folder = exported(tmp_path / "in", "axial")
    *_, files = found_in(folder, 0)
    for n, file in enumerate(files):
        image = pydicom.dcmread(file)
        if frames:
            image.FrameOfReferenceUID = f"1.2.{n % 2}"
        else:
            del image.FrameOfReferenceUID
        image.save_as(file)
    with refused("dicom-frame-of-reference", case=str(folder), got="2" if frames else "none"):
        read_source(files, folder)


@pytest.mark.parametrize("moved_mm", [(2.0, 0, 0), (0, 0, 2.0), (0, 0, 40.0)])
def test_a_volume_of_other_images_is_refused(tmp_path, moved_mm):
    _, volume, files = found_in(exported(tmp_path / "in", "axial"), 1)
    moved = volume.affine.copy()
    moved[:3, 3] += moved_mm
    with refused("dicom-header", got="images at other places"):
        frames_of(np.zeros(volume.data.shape, np.uint16), moved, read_source(files, tmp_path))


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    """The disk is full after some bytes of the second file."""
    result, volume, files = found_in(exported(tmp_path / "in", "axial"), 1)
    source, out = read_source(files, tmp_path), tmp_path / "out"
    out.mkdir()
    save = pydicom.Dataset.save_as

    def filling(what, file, **options):
        if what.Modality == "SEG":
            Path(file).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(what, file, **options)

    monkeypatch.setattr(pydicom.Dataset, "save_as", filling)
    with refused("disk-full"):
        write_dicom(out, result, volume, source)
    assert [f.name for f in out.iterdir()] == ["head_cmb_sr.dcm"]


NAME, PERSON = "PatientName", "Zzyzx^p1"
HEADERS = {
    "no birth date, sex, physician and times": {n: None for n in (*TEXTS, *FORMS) if n != NAME},
    "values of other forms": {"PatientBirthDate": "04.03.1952", "StudyDate": "2024", "StudyTime": "noon", "PatientSex": "f"},
    "dates and times that do not exist": {"PatientBirthDate": "00000000", "StudyDate": "19520000", "StudyTime": "256199"},
    "midnight at the end of a day": {"StudyTime": "240000"},
    "a time of three digits": {"StudyTime": "123"},
    "Japanese": {"SpecificCharacterSet": ["", "ISO 2022 IR 87"]},
    "Korean": {"SpecificCharacterSet": ["", "ISO 2022 IR 149"]},
    "default repertoire by name": {"SpecificCharacterSet": "ISO_IR 6"},
    "misspelled": {"SpecificCharacterSet": "ISO-IR 100"},
    "UTF-8": {"SpecificCharacterSet": "ISO_IR 192", NAME: "Müller^Jörg"},
    "Latin-1": {"SpecificCharacterSet": "ISO_IR 100", NAME: "Müller^Jörg"},
    "no slice thickness": {"SliceThickness": None},
    "cosines with three decimals": {"ImageOrientationPatient": [0.999, 0.0, 0.001, 0.0, 0.999, 0.0]},
}


@VALIDATOR
@pytest.mark.filterwarnings("ignore")  # of pydicom, for values that are not valid
@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_headers_as_they_come(tmp_path, change):
    """By scanners and anonymisers: what may be empty is, and the rest is kept."""
    folder = exported(tmp_path / "in", "axial")
    for file in read_scan_folder(folder, None, requires_phase=False).files:
        image = pydicom.dcmread(file)
        with pydicom.config.disable_value_validation():
            for name, value in change.items():
                if value is None:
                    del image[name]
                else:
                    setattr(image, name, value)
            image.save_as(file)
    result, volume, files = found_in(folder, 2)
    sr, seg = write_dicom(tmp_path, result, volume, read_source(files, tmp_path))
    assert errors_of(sr) == [] and errors_of(seg) == []
    for file in (sr, seg):
        assert str(pydicom.dcmread(file).PatientName) == change.get(NAME, PERSON)


@VALIDATOR
def test_measures_of_each_frame_count_where_frames_share_none(tmp_path):
    folder = exported(tmp_path / "in", "multi-frame oblique")
    image = pydicom.dcmread(folder / "image")
    [shared] = image.SharedFunctionalGroupsSequence
    for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        for frame in image.PerFrameFunctionalGroupsSequence:
            setattr(frame, name, shared[name].value)
        delattr(shared, name)
    image.save_as(folder / "image")
    result, volume, files = found_in(folder, 2)
    assert [errors_of(f) for f in write_dicom(tmp_path, result, volume, read_source(files, tmp_path))] == [[], []]


def test_slices_at_slightly_uneven_distances_are_placed(tmp_path):
    """As far as the reader takes them: the second half 1.5 % further apart."""
    folder = exported(tmp_path / "in", "axial")
    files = read_scan_folder(folder, None, requires_phase=False).files
    for n, file in enumerate(files):
        image = pydicom.dcmread(file)
        image.ImagePositionPatient[2] += 0.03 * max(0, n - 8)
        image.save_as(file)
    result, volume, files = found_in(folder, 3)
    seg = write_dicom(tmp_path, result, volume, read_source(files, tmp_path))[1]
    voxels = sum(int(frame.sum()) for frame in pydicom.dcmread(seg).pixel_array)
    assert voxels == np.count_nonzero(instance_labels(volume, result.detections)) > 20


@pytest.mark.parametrize("name", ["StudyInstanceUID", "ImagePositionPatient"])
def test_a_series_that_no_result_can_refer_to_is_refused_without_its_values(tmp_path, name):
    folder = exported(tmp_path / "in", "axial")
    *_, files = found_in(folder, 1)
    for file in files:
        image = pydicom.dcmread(file)
        del image[name]
        image.save_as(file)
    with refused("dicom-header", case=str(tmp_path)) as error:
        read_source(files, tmp_path)
    assert "Zzyzx" not in str(error.value)


def test_an_error_of_the_writer_names_the_folder_alone(made, tmp_path, monkeypatch):
    result, volume, *_ = made

    def fail(*_, **__):
        raise ValueError("Zzyzx^p1 is no name")

    monkeypatch.setattr(objects, "_report", fail)
    files = read_scan_folder(Path(result.file), None, requires_phase=False).files
    with refused("dicom-header", got="ValueError") as error:
        write_dicom(tmp_path, result, volume, read_source(files, tmp_path))
    assert "Zzyzx" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_segmentation_of_an_earlier_call_does_not_stay(tmp_path):
    folder = exported(tmp_path / "in", "axial")
    for count, expected in ((2, 2), (0, 1)):
        result, volume, files = found_in(folder, count)
        written = write_dicom(tmp_path, result, volume, read_source(files, tmp_path))
        assert sorted(tmp_path.glob("*.dcm")) == sorted(written) and len(written) == expected


@READER
def test_a_finding_whose_voxels_belong_to_another_has_no_volume(tmp_path):
    result, volume, files = found_in(exported(tmp_path / "in", "axial"), 1)
    [detection] = result.detections
    twice = replace(result, answer=replace(result.answer, candidates=(detection, replace(detection, score=0.7))))
    sr, seg = write_dicom(tmp_path, twice, volume, read_source(files, tmp_path))
    assert dumped(sr).count('"Volume"') == 1 and len(pydicom.dcmread(seg).SegmentSequence) == 2

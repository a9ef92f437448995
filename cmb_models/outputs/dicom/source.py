"""The images that a DICOM result refers to: their headers, with the patient's identity, in memory alone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM

from cmb_models import __version__
from cmb_models.client.outputs import ScanResult
from cmb_models.errors import InputError
from cmb_models.importing.dicom.series import Header
from cmb_models.volume import index_from_world

LPS = np.diag([-1.0, -1.0, 1.0])  # DICOM's patient coordinates from RAS, and back
# Attributes that every result has a copy of. REQUIRED must have values by the standard (type 1). The others may be empty (type 2);
# files of anonymisers and of old scanners lack them, or have values that no result may repeat.
REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
TEXTS = ("PatientID", "PatientName", "StudyID", "AccessionNumber", "ReferringPhysicianName")
DATE, TIME = r"\d{8}", r"\d{2}(\d{2}){0,2}(\.\d{1,6})?"
FORMS = {"PatientBirthDate": DATE, "StudyDate": DATE, "StudyTime": TIME, "PatientSex": "[MFO]"}
UTF8 = "ISO_IR 192"
SHARED, OF_A_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
OFF_CENTRE_VOX = 0.5  # between the middle of a frame and of its slice: cosines and positions in headers are rounded


@dataclass(frozen=True, repr=False)
class Source:
    """A series of images. Its values have no `repr`, since its headers name the patient.

    Attributes:
        images: Headers of its files without pixels, by position; valid, with text in UTF-8.
        places: Orientation (6) and position (3) in LPS mm of each frame, in the order of the images and of their frames.
        spacing_mm: Between rows and between columns.
        case: The folder, in errors.
    """

    images: Sequence[pydicom.Dataset]
    places: Sequence[tuple[tuple[float, ...], tuple[float, ...]]]
    spacing_mm: tuple[float, ...]
    case: Path

    @property
    def frame_of_reference(self) -> str:
        """UID of the patient coordinates that its positions are in."""
        return str(self.images[0].FrameOfReferenceUID)


@contextmanager
def header_errors(case: Path) -> Iterator[None]:
    """Errors of headers that no result can be made of, as InputError that names the folder alone."""
    try:
        yield
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # highdicom and pydicom raise nearly everything, with values of headers in the message
        got = f"one that they cannot be made of ({type(error).__name__})"
        remedy = "export the series again, or leave out --dicom"
        raise InputError("dicom-header", case, "a series that DICOM results can refer to", got, remedy) from error


def read_source(files: Sequence[Path], case: Path) -> Source:
    """Read the headers of the images of one SWI.

    Values that may be empty and are missing or not valid are empty in what is returned.

    Args:
        files: As `importing.dicom.folder.DicomScan` has them.
        case: Their folder, in errors.

    Raises:
        InputError: If they have no frame of reference, or different ones, without which no viewer can place results; if they lack
            an attribute that every result needs.
    """
    with header_errors(case), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they would print values, such as names
        headers = [Header(file, pydicom.dcmread(file, stop_before_pixels=True)) for file in files]
        places = [place for header in headers for place in header.places]
        spacing_mm = headers[0].spacing
        thickness_mm = _slice_distance_mm(places)
        for header in headers:
            _complete(header.values, thickness_mm)
    frames = {header.text("FrameOfReferenceUID") for header in headers}
    remedy = "export the series again, or leave out --dicom"
    if len(frames) > 1 or "" in frames:
        got = f"{len(frames)}" if len(frames) > 1 else "none"
        raise InputError("dicom-frame-of-reference", case, "one frame of reference in the SWI series", got, remedy)
    if missing := [name for name in REQUIRED if not all(header.text(name) for header in headers)]:
        raise InputError("dicom-header", case, f"images with {', '.join(missing)}", "some without", remedy)
    return Source([header.values for header in headers], places, spacing_mm, case)


def _complete(image: pydicom.Dataset, thickness_mm: float) -> None:
    """Make a header one that results can copy from."""
    image.decode()
    image.SpecificCharacterSet = UTF8
    for name in TEXTS:
        if name not in image:
            setattr(image, name, None)
    for name, form in FORMS.items():
        if not _is_valid(image.get(name), form):
            setattr(image, name, None)
    groups = image
    if OF_A_FRAME in image:
        shared, first = image[SHARED][0] if SHARED in image else pydicom.Dataset(), image[OF_A_FRAME][0]
        setattr(image, SHARED, [shared])
        for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            if name not in shared:  # the standard lets each frame have its own; in a stack they are the same
                setattr(shared, name, first[name].value)
        groups = shared.PixelMeasuresSequence[0]
        _normalise(shared.PlaneOrientationSequence[0])
    else:
        _normalise(image)
    if not next(iter(Header(Path(), groups).numbers("SliceThickness")), 0.0) > 0:
        groups.SliceThickness = f"{thickness_mm:.6g}"


def _is_valid(value: object, form: str) -> bool:
    """Whether a value has a form and, of dates and times, exists: anonymisers write 00000000."""
    if value is None or not re.fullmatch(form, str(value)):
        return False
    try:
        _ = DA(str(value)) if form == DATE else TM(str(value)) if form == TIME else None
    except ValueError:
        return False
    return True


def _normalise(plane: pydicom.Dataset) -> None:
    """Give the cosines of an orientation, which headers round, the length 1."""
    cosines = np.array(plane.ImageOrientationPatient, dtype=float).reshape(2, 3)
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    plane.ImageOrientationPatient = [f"{value:.10g}" for value in cosines.ravel()]


def _slice_distance_mm(places: Sequence[tuple[tuple[float, ...], tuple[float, ...]]]) -> float:
    """Median distance between neighbouring slices."""
    normal = np.cross(places[0][0][:3], places[0][0][3:])
    return float(np.median(np.diff(sorted(float(np.dot(normal, position)) for _, position in places))))


def frames_of(labels: np.ndarray, affine: np.ndarray, source: Source) -> np.ndarray:
    """The voxels of a volume in the order of the images' frames.

    dcm2niix flips and permutes axes and leaves voxels as they are: which axes is read from the orientation, which slice from the
    place of a frame's middle.

    Args:
        labels: (I, J, K), of a volume that was read from these images.
        affine: (4, 4), of the volume, voxel index to RAS mm.
        source: The images, F frames.

    Returns:
        (F, rows, columns), of the type of `labels`.

    Raises:
        InputError: If slices and frames do not correspond: the volume is of other images.
    """
    size = np.array([int(source.images[0].Columns), int(source.images[0].Rows)])
    spacing_mm = np.array(source.spacing_mm)[::-1]  # along a row is between columns
    found = np.zeros((len(source.places), size[1], size[0]), labels.dtype)
    slices = []
    for n, (orientation, position) in enumerate(source.places):
        steps_mm = np.array(orientation).reshape(2, 3) * spacing_mm[:, None]
        middle = index_from_world((np.array(position) + ((size - 1) / 2) @ steps_mm) @ LPS, affine)[0]
        steps_vox = steps_mm @ LPS @ np.linalg.inv(affine[:3, :3]).T
        axes = np.abs(steps_vox).argmax(axis=1)
        through = 3 - int(axes.sum())
        expected = (np.array(labels.shape) - 1) / 2
        expected[through] = slice_index = round(middle[through])
        off_centre = np.abs(middle - expected)
        if len({*axes, through}) < 3 or not 0 <= slice_index < labels.shape[through] or off_centre.max() > OFF_CENTRE_VOX:
            raise _other_images(source.case)
        slices.append(slice_index)
        plane = np.take(labels, slice_index, axis=through)  # axes in ascending order
        plane = plane if axes[0] > axes[1] else plane.T  # to (rows, columns)
        flips = tuple(slice(None, None, -1 if steps_vox[which, axes[which]] < 0 else 1) for which in (1, 0))
        if plane.shape != found.shape[1:]:
            raise _other_images(source.case)
        found[n] = plane[flips]
    if sorted(slices) != list(range(len(slices))):
        raise _other_images(source.case)
    return found


def _other_images(case: Path) -> InputError:
    remedy = "export the series again, or leave out --dicom"
    return InputError("dicom-header", case, "images at the places of the volume's slices", "images at other places", remedy)


def result_uid(kind: str, result: ScanResult, source: Source, *depends_on: str) -> str:
    """A UID that the same findings of the same release in the same images of the same patient always have.

    So a result that is stored twice is one object for a PACS, and one with other content is another object. depends_on: what else
    the content of this kind depends on.
    """
    assert result.answer is not None
    image = source.images[0]
    of_whom = [str(image.StudyInstanceUID), str(image.PatientID), str(image.PatientName)]
    images = sorted(str(image.SOPInstanceUID) for image in source.images)
    answer = [result.answer.manifest_sha256, str(result.answer.release), f"{result.threshold_used:.9f}", __version__]
    found = [f"{d.index} {d.score:.3f} {d.diameter_mm:.1f}" for d in result.detections]
    return str(generate_uid(entropy_srcs=[kind, *depends_on, *of_whom, *answer, result.input_sha256, *found, *images]))


def algorithm_version(result: ScanResult) -> str:
    """The release and the library."""
    assert result.answer is not None
    of = f"release {result.answer.release}" if result.answer.release else "base release" if result.answer.origin else "unregistered"
    return f"{of}, cmb-models {__version__}"


def algorithm_parameters(result: ScanResult) -> dict[str, str]:
    """What identifies a run of the algorithm, besides its version."""
    assert result.answer is not None
    return {"manifest SHA-256": result.answer.manifest_sha256 or "unknown", "threshold": f"{result.threshold_used:.6f}"}


def positions_lps(result: ScanResult) -> np.ndarray:
    """Centres (N, 3) of the detections in the patient coordinates of DICOM, mm."""
    centres = np.array([d.position_mm for d in result.detections]).reshape(-1, 3)
    moved: np.ndarray = centres @ LPS
    return moved

"""The images that a DICOM result refers to: their headers, with the patient's identity, in memory alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from cmb_models import __version__
from cmb_models.client.outputs import ScanResult
from cmb_models.errors import InputError
from cmb_models.importing.dicom.series import Header
from cmb_models.volume import index_from_world

LPS = np.diag([-1.0, -1.0, 1.0])  # DICOM's patient coordinates from RAS, and back
# May be empty by the standard (type 2) and are missing from files of some anonymisers.
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
MOST_APART_VOX = 0.1  # between a pixel's centre and a voxel's: dcm2niix only flips and permutes axes, headers are rounded


@dataclass(frozen=True, repr=False)
class Source:
    """A series of images. Not shown in messages: its headers name the patient.

    Attributes:
        images: Headers of its files without pixels, by position.
        places: Orientation (6) and position (3) in LPS mm of each frame, in the order of the images and of their frames.
        spacing_mm: Between rows and between columns.
    """

    images: Sequence[pydicom.Dataset]
    places: Sequence[tuple[tuple[float, ...], tuple[float, ...]]]
    spacing_mm: tuple[float, ...]

    @property
    def frame_of_reference(self) -> str:
        """UID of the patient coordinates that its positions are in."""
        return str(self.images[0].FrameOfReferenceUID)


def read_source(files: Sequence[Path], case: Path) -> Source:
    """Read the headers of the images of one SWI.

    Args:
        files: As `importing.dicom.folder.DicomScan` has them.
        case: Their folder, in errors.

    Raises:
        InputError: If they have no frame of reference, or different ones, without which no viewer can place results.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they would print values, such as names
        headers = [Header(file, pydicom.dcmread(file, stop_before_pixels=True)) for file in files]
    for header in headers:
        for name in MAY_BE_EMPTY:
            if name not in header.values:
                setattr(header.values, name, None)
    frames = {header.text("FrameOfReferenceUID") for header in headers}
    if len(frames) > 1 or "" in frames:
        got = f"{len(frames)}" if len(frames) > 1 else "none"
        remedy = "export the series again, or leave out --dicom"
        raise InputError("dicom-frame-of-reference", case, "one frame of reference in the SWI series", got, remedy)
    return Source([h.values for h in headers], [place for h in headers for place in h.places], headers[0].spacing)


def frames_of(labels: np.ndarray, affine: np.ndarray, source: Source) -> np.ndarray:
    """The voxels of a volume in the order of the images' frames.

    Args:
        labels: (I, J, K), of a volume that was read from these images.
        affine: (4, 4), of the volume, voxel index to RAS mm.
        source: The images, F frames.

    Returns:
        (F, rows, columns), of the type of `labels`.

    Raises:
        ValueError: If voxels and pixels are at different places: the volume is of other images.
    """
    rows, columns = int(source.images[0].Rows), int(source.images[0].Columns)
    between_rows, between_columns = source.spacing_mm
    found = np.zeros((len(source.places), rows, columns), labels.dtype)
    for n, (orientation, position) in enumerate(source.places):
        along_row, along_column = np.array(orientation[:3]) * between_columns, np.array(orientation[3:]) * between_rows
        corners = np.array(position) + [[0.0] * 3, along_row * (columns - 1), along_column * (rows - 1)]
        index = index_from_world(corners @ LPS, affine)
        first, last_column, last_row = np.rint(index).astype(int)
        if np.abs(index - np.rint(index)).max() > MOST_APART_VOX:
            raise ValueError("the images and the volume have different voxels")
        column_step, row_step = (last_column - first) // max(columns - 1, 1), (last_row - first) // max(rows - 1, 1)
        r, c = np.ogrid[:rows, :columns]
        found[n] = labels[tuple(first[axis] + r * row_step[axis] + c * column_step[axis] for axis in range(3))]
    return found


def result_uid(kind: str, result: ScanResult, source: Source) -> str:
    """A UID that the same images, release and threshold always have: a result that is stored twice is one object for a PACS."""
    assert result.answer is not None
    images = sorted(str(image.SOPInstanceUID) for image in source.images)
    answer = [result.answer.manifest_sha256, str(result.answer.release), f"{result.threshold_used:.9f}", __version__]
    return str(generate_uid(entropy_srcs=[kind, *answer, *images]))


def algorithm_version(result: ScanResult) -> str:
    """The release and the library."""
    assert result.answer is not None
    release = (
        f"release {result.answer.release}" if result.answer.release else "base release" if result.answer.origin else "unregistered"
    )
    return f"{release}, cmb-models {__version__}"


def algorithm_parameters(result: ScanResult) -> dict[str, str]:
    """What identifies a run of the algorithm, besides its version."""
    assert result.answer is not None
    return {"manifest SHA-256": result.answer.manifest_sha256 or "unknown", "threshold": f"{result.threshold_used:.6f}"}


def positions_lps(result: ScanResult) -> np.ndarray:
    """Centres (N, 3) of the detections in the patient coordinates of DICOM, mm."""
    centres = np.array([d.position_mm for d in result.detections]).reshape(-1, 3)
    moved: np.ndarray = centres @ LPS
    return moved

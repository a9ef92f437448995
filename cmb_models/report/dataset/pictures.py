"""Pictures of a dataset's scans and marks as JPEG data URIs, drawn while the scans are read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cmb_models.dataset.check.frames import darkness as darkness_of
from cmb_models.dataset.check.marks import NOT_DARK
from cmb_models.dataset.layout import ScanFile
from cmb_models.figures.slices import cut_slice
from cmb_models.figures.views import CROP_MM, RING, View
from cmb_models.io.annotations import Annotation
from cmb_models.report.pictures import data_uri
from cmb_models.volume import Volume, index_from_world

if TYPE_CHECKING:
    from PIL.Image import Image

PIXEL_MM = 0.9  # of the overview of a scan: a head is some 240 pixels high
CROP_PIXEL_MM = 0.25
NEAR_MM = 4.0  # marks nearer to the slice shown are ringed in full, others thinly
LEAST_RADIUS_MM = 4.0  # of a ring: one of 1 mm would hide its lesion
OTHER_MARK = "#6db3f2"
QUALITY = 82


@dataclass(frozen=True)
class MarkPicture:
    """A microbleed, 30 mm wide in the axial plane. dark: whether it is darker than most of what lies around."""

    uri: str
    place: str
    diameter_mm: float
    rater: str
    dark: bool


@dataclass(frozen=True)
class ScanPicture:
    """A scan with its marks ringed. uri: "" where it could not be read."""

    scan: ScanFile
    uri: str = ""
    marks: list[MarkPicture] = field(default_factory=list)


def draw_scan(scan: ScanFile, ras: Volume | None) -> ScanPicture:
    """The axial slice with the most marks, all of them ringed, and each microbleed enlarged.

    Args:
        scan: The scan.
        ras: Its volume in RAS+ order; None if it cannot be read.
    """
    if ras is None:
        return ScanPicture(scan)
    finite = Volume(np.nan_to_num(ras.data, posinf=0, neginf=0), ras.affine)
    view = View(finite)
    cmbs = [a for a in scan.annotations if a.is_cmb]
    centres = np.array([a.centre_mm for a in cmbs]).reshape(-1, 3)
    darkness = darkness_of(finite, index_from_world(centres, finite.affine))
    marks = [_mark(view, a, bool(dark >= NOT_DARK)) for a, dark in zip(cmbs, darkness, strict=True)]
    return ScanPicture(scan, _overview(view, scan.annotations), marks)


def _overview(view: View, annotations: Sequence[Annotation]) -> str:
    from PIL import ImageDraw

    places = np.array([view.voxel(a.centre_mm) for a in annotations]).reshape(-1, 3)
    heights = places[:, 2] * view.spacing_mm[2]
    near = np.abs(heights[:, None] - heights) <= NEAR_MM
    middle = view.limits_mm(2).mean() + 10.0  # above the middle of what is imaged lies the middle of the brain
    shown = float(heights[near.sum(axis=0).argmax()]) if len(heights) else middle
    k = int(np.clip(np.rint(shown / view.spacing_mm[2]), 0, view.data.shape[2] - 1))
    (left, right), (low, high) = view.limits_mm(0), view.limits_mm(1)
    image = _image(view, k, (left, right), (low, high), PIXEL_MM)
    pen = ImageDraw.Draw(image)
    for annotation, place, height in zip(annotations, places, heights, strict=True):
        # The patient's right is on the left, the front is up.
        x, y = (right - place[0] * view.spacing_mm[0]) / PIXEL_MM, (high - place[1] * view.spacing_mm[1]) / PIXEL_MM
        radius = max(LEAST_RADIUS_MM, annotation.diameter_mm) / PIXEL_MM
        color = RING if annotation.is_cmb else OTHER_MARK
        width = 2 if abs(height - shown) <= NEAR_MM else 1
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=width)
    return _uri(image)


def _mark(view: View, annotation: Annotation, dark: bool) -> MarkPicture:
    place = view.voxel(annotation.centre_mm)
    k = int(np.clip(np.rint(place[2]), 0, view.data.shape[2] - 1))
    x, y = (place[axis] * view.spacing_mm[axis] for axis in (0, 1))
    half = CROP_MM / 2
    image = _image(view, k, (x - half, x + half), (y - half, y + half), CROP_PIXEL_MM)
    return MarkPicture(
        _uri(image), ", ".join(f"{round(value)}" for value in annotation.centre_mm), annotation.diameter_mm, annotation.rater, dark
    )


def _image(view: View, k: int, x_mm: tuple[float, float], y_mm: tuple[float, float], pixel_mm: float) -> Image:
    """Slice k between positions in mm from voxel 0, in radiological convention; black outside the scan."""
    from PIL import Image

    return Image.fromarray(cut_slice(view, 2, k, np.array(x_mm), np.array(y_mm), pixel_mm).grey).convert("RGB")


def _uri(image: Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=QUALITY)
    return data_uri(stream.getvalue(), "image/jpeg")

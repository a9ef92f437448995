"""Pictures of a scan's findings: three planes of each, and minimum-intensity slabs with all of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_models.detection import Detection
from cmb_models.figures.findings import SLAB_MM, SLABS
from cmb_models.figures.slices import Picture, cut_plane, cut_slice
from cmb_models.figures.views import CROP_MM, MARGIN_MM, PLANES, View
from cmb_models.report.pictures import data_uri

PLANE_NAMES = ("axial", "coronal", "sagittal")  # in the order of PLANES
PIXEL_MM = 1 / 6  # of three planes: 180 pixels wide each
GAP_MM = 0.5  # between two planes
BAR_MM, SLAB_BAR_MM, SMALL_BAR_MM = 5.0, 50.0, 10.0  # scale bars; the small one in a slab narrower than two of the others
SLAB_PIXEL_MM = 0.6
LEAST_RING_MM = 4.0  # radius in a slab, where a ring of 1 mm would not be seen
MOST_SLABS = 8
THICKNESSES_MM = (SLAB_MM, 1.5 * SLAB_MM, 2 * SLAB_MM)  # the first with which MOST_SLABS hold all findings, else the last
QUALITY, SLAB_QUALITY = 88, 82  # of JPEG


@dataclass(frozen=True)
class Ring:
    """A circle in a picture: centre and radius in mm from its left and upper edges. number: of the finding, from 1."""

    x: float
    y: float
    radius: float
    number: int


@dataclass(frozen=True)
class Letter:
    """A text in a picture, x and y in mm. anchor: start, middle or end."""

    x: float
    y: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True)
class Drawing:
    """A picture with what is drawn over it, in mm. uri: JPEG. bar: left end, right end and height of a scale bar.

    text_mm: height of letters. alt: the picture in words.
    """

    uri: str
    width: float
    height: float
    rings: tuple[Ring, ...]
    letters: tuple[Letter, ...]
    bar: tuple[float, float, float]
    text_mm: float
    alt: str


@dataclass(frozen=True)
class Slab:
    """A minimum-intensity projection. height_mm: z of its middle, scanner RAS. numbers: of the findings in it, from 1."""

    drawing: Drawing
    height_mm: float
    thickness_mm: float
    numbers: tuple[int, ...]


def draw_triplet(view: View, finding: Detection, number: int) -> Drawing:
    """Axial, coronal and sagittal slices through a finding, CROP_MM wide, the finding in the middle of each.

    Args:
        view: The scan.
        finding: In scanner space.
        number: Of the finding, from 1.
    """
    centre = view.voxel(finding.position_mm)
    pictures, rings, letters = [], [], []
    for n, (normal, sides) in enumerate(PLANES):
        across, up = (axis for axis in range(3) if axis != normal)
        around = [centre[axis] * view.spacing_mm[axis] + np.array([-0.5, 0.5]) * CROP_MM for axis in (across, up)]
        picture = cut_slice(view, normal, int(np.rint(centre[normal])), around[0], around[1], PIXEL_MM)
        left = n * (CROP_MM + GAP_MM)
        x, y = picture.place(centre[across] * view.spacing_mm[across], centre[up] * view.spacing_mm[up])
        rings.append(Ring(left + x, y, finding.diameter_mm / 2 + MARGIN_MM, number))
        letters += [Letter(left + 0.6, CROP_MM / 2, sides[0], "start"), Letter(left + CROP_MM - 0.6, CROP_MM / 2, sides[1], "end")]
        letters.append(Letter(left + 0.8, 1.9, PLANE_NAMES[n], "start"))
        pictures.append(picture.grey)
    gap = np.zeros((len(pictures[0]), round(GAP_MM / PIXEL_MM)), np.uint8)
    grey = np.hstack([pictures[0], gap, pictures[1], gap, pictures[2]])
    width = 3 * CROP_MM + 2 * GAP_MM
    bar = (CROP_MM - 1.2 - BAR_MM, CROP_MM - 1.2, CROP_MM - 1.2)
    letters.append(Letter((bar[0] + bar[1]) / 2, CROP_MM - 2.8, f"{BAR_MM:g} mm"))
    alt = f"finding {number}: axial, coronal and sagittal slice, {CROP_MM:g} mm wide each"
    return Drawing(_jpeg(grey, QUALITY), width, CROP_MM, tuple(rings), tuple(letters), bar, 1.9, alt)


def draw_slabs(view: View, findings: Sequence[Detection]) -> list[Slab]:
    """Axial minimum-intensity slabs, from the top of the head down, that hold every finding; at least SLABS.

    Args:
        view: The scan.
        findings: In scanner space, best first.
    """
    heights = [float(np.clip(view.voxel(d.position_mm)[2], 0, view.data.shape[2] - 1)) for d in findings]
    firsts, slices = choose_slabs(view, heights)
    return [_slab(view, first, slices, findings, heights) for first in sorted(firsts, reverse=True)]


def choose_slabs(view: View, heights: Sequence[float]) -> tuple[list[int], int]:
    """First slices of slabs that hold all heights (fractional slice numbers), and how many slices a slab has.

    The fewest that do: each begins at the lowest height not yet held (optimal for intervals of one length), and is then centred on
    what it holds. Others are added where the head is far from all of them, up to SLABS.
    """
    shape, slices, groups = view.data.shape[2], 1, [[0.0]]
    for thickness_mm in THICKNESSES_MM:
        slices = int(np.clip(round(thickness_mm / view.spacing_mm[2]), 1, shape))
        groups = _groups(heights, slices)
        if len(groups) <= MOST_SLABS:
            break
    centres = [(group[0] + group[-1]) / 2 for group in groups]
    low, high = view.box[2]
    spread = [low + (high - low) * part for part in (0.5, 0.35, 0.65, 0.8, 0.2)]
    while len(centres) < SLABS:
        centres.append(max(spread, key=lambda c: min((abs(c - other) for other in centres), default=0.0)))
    # A height belongs to the slice that it rounds to, so that the middle of 2 n slices lies half a slice up.
    return [int(np.clip(np.ceil(c - slices / 2), 0, shape - slices)) for c in centres], slices


def _groups(heights: Sequence[float], slices: int) -> list[list[float]]:
    """Sorted heights in the fewest groups of which a slab of so many slices holds each."""
    groups: list[list[float]] = []
    for height in sorted(heights):
        # One slice less than the slab: centred on its heights, it may lie up to half a slice off.
        if groups and height - groups[-1][0] <= max(0.0, slices - 1):
            groups[-1].append(height)
        else:
            groups.append([height])
    return groups


def _slab(view: View, first: int, slices: int, findings: Sequence[Detection], heights: Sequence[float]) -> Slab:
    end = first + slices
    limits = [np.clip(view.limits_mm(axis), -0.5 * s, (n - 0.5) * s) for axis, s, n in _in_plane(view)]
    picture = cut_plane(
        view.data[:, :, first:end].min(axis=2), view.spacing_mm[:2], view.window, limits[0], limits[1], SLAB_PIXEL_MM
    )
    held = [n for n, height in enumerate(heights) if first - 0.5 <= height <= end - 0.5]
    rings = tuple(_ring(view, picture, findings[n], n + 1) for n in held)
    middle = [(view.data.shape[0] - 1) / 2, (view.data.shape[1] - 1) / 2, (first + end - 1) / 2, 1]
    z_mm, thickness_mm = float((view.affine @ middle)[2]), slices * float(view.spacing_mm[2])
    wide, high = picture.width_mm, picture.height_mm
    sides = [Letter(2.5, high / 2, "R", "start"), Letter(wide - 2.5, high / 2, "L", "end")]
    long_mm = SLAB_BAR_MM if wide > 2 * SLAB_BAR_MM else SMALL_BAR_MM
    bar = (wide - 5 - long_mm, wide - 5, high - 5.0)
    sides.append(Letter((bar[0] + bar[1]) / 2, high - 11, f"{long_mm / 10:g} cm"))
    numbers = tuple(n + 1 for n in held)
    inside = f"findings {', '.join(map(str, numbers))} circled" if numbers else "no findings in it"
    alt = f"axial minimum-intensity projection over {thickness_mm:.0f} mm at z = {z_mm:.0f} mm, {inside}"
    drawing = Drawing(_jpeg(picture.grey, SLAB_QUALITY), wide, high, rings, tuple(sides), bar, 8.5, alt)
    return Slab(drawing, z_mm, thickness_mm, numbers)


def _in_plane(view: View) -> list[tuple[int, float, int]]:
    """Axis, spacing in mm and voxels of both axes of an axial slice."""
    return [(axis, float(view.spacing_mm[axis]), view.data.shape[axis]) for axis in (0, 1)]


def _ring(view: View, picture: Picture, finding: Detection, number: int) -> Ring:
    at = view.voxel(finding.position_mm)[:2] * view.spacing_mm[:2]
    return Ring(*picture.place(float(at[0]), float(at[1])), max(LEAST_RING_MM, finding.diameter_mm / 2 + MARGIN_MM), number)


def _jpeg(grey: np.ndarray, quality: int) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).save(stream, "jpeg", quality=quality, optimize=True)
    return data_uri(stream.getvalue(), "image/jpeg")

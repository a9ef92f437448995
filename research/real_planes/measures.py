"""What is measured on real and simulated images alike: how dark and wide microbleeds are, and the texture of the brain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from research.real_planes.images import PIXEL_MM, SIDE, Planes, Slice

CORE_MM, RING_MM = 2.0, (5.0, 9.0)  # a microbleed's darkest point lies within the first; its surroundings in the second
EDGE_MM = 4.0  # texture is measured this far inside the brain's outline
SCALES_MM = (1.0, 2.0, 3.0)


def darkness(plane: np.ndarray) -> float:
    """The darkest pixel of a plane's core over the median of its surroundings, without what lies outside the brain."""
    away = _away_mm()
    ring = plane[(away >= RING_MM[0]) & (away <= RING_MM[1])]
    ring = ring[ring > 0]
    return float(plane[away <= CORE_MM].min() / np.median(ring)) if len(ring) else float("nan")


def width_mm(plane: np.ndarray, axis: int) -> float:
    """Width in mm at half depth through the darkest pixel of the core, along an axis of the plane, linear between pixels."""
    away = _away_mm()
    ring = plane[(away >= RING_MM[0]) & (away <= RING_MM[1])]
    level = float(np.median(ring[ring > 0])) if np.any(ring > 0) else 0.0
    at = np.unravel_index(np.argmin(np.where(away <= CORE_MM, plane, np.inf)), plane.shape)
    line = plane[:, at[1]] if axis == 0 else plane[at[0]]
    half = (level + line[at[axis]]) / 2
    ends = []
    for step in (1, -1):
        k = at[axis]
        while 0 <= k + step < SIDE and line[k + step] < half:
            k += step
        beyond = k + step
        part = (half - line[k]) / (line[beyond] - line[k]) if 0 <= beyond < SIDE else 0.0
        ends.append(abs(k - at[axis]) + part)
    return float(sum(ends) * PIXEL_MM)


def lesion_figures(planes: Sequence[Planes]) -> dict:
    """Median and 5 to 95 % of darkness in the axial plane, and of width in plane and through plane."""
    dark = [darkness(p.pixels[0]) for p in planes]
    in_plane = [np.mean([width_mm(p.pixels[0], a) for a in (0, 1)]) for p in planes]
    through = [np.mean([width_mm(p.pixels[n], 1) for n in (1, 2)]) for p in planes]
    return {
        "lesions": len(planes),
        "darkest_over_surround": _spread(dark),
        "width_in_plane_mm": _spread(in_plane),
        "width_through_plane_mm": _spread(through),
    }


def texture_figures(slices: Sequence[Slice]) -> dict:
    """Median over slices of the standard deviation, mean gradient and dark line strength at some scales, over brain's median."""
    rows = [_texture(s.pixels) for s in slices]
    return {"slices": len(rows), **{key: _spread([r[key] for r in rows if r]) for key in next(r for r in rows if r)}}


def _texture(image: np.ndarray) -> dict[str, float]:
    half = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    small = half.reshape(half.shape[0] // 2, 2, half.shape[1] // 2, 2).mean(axis=(1, 3))  # 1 mm pixels
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(small > 0, iterations=2))
    inner = ndimage.distance_transform_edt(brain) > EDGE_MM
    if inner.sum() < 500:
        return {}
    small = small / np.median(small[inner])
    gradient = np.hypot(*np.gradient(small))
    figures = {"sd": small[inner].std(), "gradient_per_mm": gradient[inner].mean()}
    for scale in SCALES_MM:
        xx, yy, xy = (ndimage.gaussian_filter(small, scale, order=o) * scale**2 for o in ((2, 0), (0, 2), (1, 1)))
        largest = (xx + yy) / 2 + np.sqrt(((xx - yy) / 2) ** 2 + xy**2)  # across a dark line
        figures[f"line_strength_{scale:g}mm"] = np.clip(largest, 0, None)[inner].mean()
    figures["dark_share"] = np.mean(small[inner] < 0.7)
    return {k: float(v) for k, v in figures.items()}


def _away_mm() -> np.ndarray:
    at = (np.arange(SIDE) - SIDE // 2) * PIXEL_MM
    return np.hypot(at[:, None], at[None, :])


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.nanpercentile(np.asarray(values, float), (5, 50, 95))
    return {"median": round(float(middle), 4), "p5": round(float(low), 4), "p95": round(float(high), 4)}

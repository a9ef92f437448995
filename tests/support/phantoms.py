"""A lone lesion in a uniform medium, for the phantom's tests and benchmarks."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.isolated_lesion import uniform_signal
from cmb_models.phantom.lesions.lesion import Lesion
from cmb_models.phantom.scanner.slab import Slab, make_slab


def lone_slab(spacing=(1.0, 1.0, 1.0), field_t=3.0, te_ms=20.0, window=0.32, **more) -> Slab:
    """About 64 mm each way around the origin, without guards."""
    fov = tuple(2 * int(np.ceil(32 / s)) * s for s in spacing)
    config = PhantomConfig(
        spacing_mm=spacing,
        fov_mm=fov,
        fov_centre_mm=(0.0, 0.0, 0.0),
        guard_mm=(0.0, 0.0, 0.0),
        field_t=field_t,
        te_ms=te_ms,
        tr_ms=1000.0,
        highpass_vox=max(8, round(window * fov[0])),
        **more,
    )
    return make_slab(config)


def alone(slab: Slab, lesion: Lesion) -> np.ndarray:
    """Complex signal on slab.fine of a lesion amid a signal of 1."""
    return uniform_signal(slab, [lesion])


def body(label: str = "cmb", radius_mm: float = 2.0, chi_ppm: float = 1.0, **more) -> Lesion:
    return Lesion(label, "", (0.0, 0.0, 0.0), 4.0, radius_mm, chi_ppm, **more)


def at(values: np.ndarray, slab: Slab, point_mm) -> np.ndarray:
    """Values on slab.fine at points (..., 3) in slab mm, linearly."""
    index = slab.fine.index(np.reshape(point_mm, (-1, 3))).T
    return ndimage.map_coordinates(values, index, order=1).reshape(np.shape(point_mm)[:-1])


def voxel(slab: Slab, index) -> tuple[float, float, float]:
    """Head mm of a voxel of slab.fine."""
    slab_mm = [slab.fine.axis_mm(a)[n] for a, n in enumerate(index)]
    return tuple(slab.to_head.apply(slab_mm))

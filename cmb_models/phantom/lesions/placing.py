"""Free places for lesions: in view, apart from one another, and as near to veins as asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial import KDTree

from cmb_models.phantom.head.template import Template
from cmb_models.phantom.head.warp import Warp
from cmb_models.phantom.scanner.slab import Slab
from cmb_models.phantom.veins.raster import Veins
from cmb_models.volume import triple

APART_MM = 8.0  # between any two centres; plus half of what the larger one's diameter exceeds LARGE_MM by
LARGE_MM = 6.0
MARGIN_MM = 8.0  # from the field of view's faces
CLEAR_MM = 1.5  # from veins, where none is asked for: would be lost in the vein
VEIN_MM = 0.3  # least radius of veins that count: thinner ones hide nothing
THICK_MM = 0.5  # distances are to a vein's axis, beyond this radius to where it would be with this radius
NEAREST = 8  # points of veins considered: the nearest may be a thin vein next to a thick one
TRIES, BLOCK = 400, 25
ANYWHERE = (0.0, np.inf)
Shows = Callable[
    [np.ndarray, float], np.ndarray
]  # places (N, 3) in head mm and a diameter to which of them will do (N,): `Surroundings.show`


class Placer:
    """Finds free places in the head; keeps what has been placed so far."""

    def __init__(self, rng: np.random.Generator, template: Template, warp: Warp, slabs: Sequence[Slab], veins: Veins | None):
        """veins: None for a head without. A place must lie within the field of view of all slabs."""
        self._rng, self.template, self.warp, self._slabs = rng, template, warp, tuple(slabs)
        self._centres, self._diameters = np.zeros((0, 3)), np.zeros(0)
        self._veins, self._thick_mm = None, np.zeros(0)
        if veins is not None:
            wide = veins.radius_mm >= VEIN_MM
            self._veins = KDTree(warp.to_head(veins.points_mm[wide]))
            self._thick_mm = np.append(np.maximum(veins.radius_mm[wide] - THICK_MM, 0), 0.0)  # the last is KDTree's "none"

    def continued(self, rng: np.random.Generator) -> Placer:
        """A placer that knows what has been placed, with a random stream of its own."""
        other = Placer(rng, self.template, self.warp, self._slabs, None)
        other._centres, other._diameters = self._centres, self._diameters
        other._veins, other._thick_mm = self._veins, self._thick_mm
        return other

    def place(
        self,
        head_mm: np.ndarray,
        diameter_mm: float,
        vein_mm: tuple[float, float] = (CLEAR_MM, np.inf),
        apart_mm: float = APART_MM,
    ) -> int | None:
        """Take the first free one of places (N, 3) in head mm: its number; None when there is none.

        vein_mm: least and largest distance to the nearest vein. apart_mm: least distance to the other centres.
        """
        free = np.flatnonzero(self._in_view(head_mm, diameter_mm))
        free = free[self._apart(head_mm[free], diameter_mm, apart_mm)]
        for some in np.split(free, range(BLOCK, len(free), BLOCK)):  # the first will mostly do
            if vein_mm != ANYWHERE and len(some):
                distance = self.vein_distance_mm(head_mm[some])
                some = some[(distance >= vein_mm[0]) & (distance <= vein_mm[1])]
            if len(some):
                self._centres = np.vstack([self._centres, head_mm[some[0]]])
                self._diameters = np.append(self._diameters, diameter_mm)
                return int(some[0])
        return None

    def place_in(
        self,
        region: str,
        diameter_mm: float,
        vein_mm: tuple[float, float] = (CLEAR_MM, np.inf),
        around: tuple[np.ndarray, float, float] | None = None,
        shows: Shows | None = None,
    ) -> tuple[float, float, float] | None:
        """Take a free place, head mm, in a region of Template.places; None when TRIES drawn ones are not free.

        around: a point (3,) in head mm, and the least and largest distance to it. shows: at which places a lesion can be seen.
        """
        places = self.template.places[region]
        if around is not None:
            middle = self.warp.to_template(np.reshape(around[0], (1, 3)))
            places = places[np.all(np.abs(places - middle) < 1.2 * around[2], axis=1)]  # 1.2: heads are that much larger at most
        if not len(places):
            return None
        drawn = places[self._rng.integers(0, len(places), TRIES)] + self._rng.uniform(-0.5, 0.5, (TRIES, 3))
        head = self.warp.to_head(drawn)
        if around is not None:
            distance = np.linalg.norm(head - around[0], axis=1)
            head = head[(distance > around[1]) & (distance < around[2])]
        if shows is not None:
            head = head[shows(head, diameter_mm)]
        number = self.place(head, diameter_mm, vein_mm)
        return None if number is None else triple(float(v) for v in head[number])

    def vein_distance_mm(self, head_mm: np.ndarray) -> np.ndarray:
        """From points (N, 3) to the axis of the nearest vein, thick ones as if THICK_MM: (N,), infinite without veins."""
        if self._veins is None:
            return np.full(len(head_mm), np.inf)
        away, which = self._veins.query(head_mm, k=NEAREST)
        return (away - self._thick_mm[which]).min(axis=1)

    def _in_view(self, head_mm: np.ndarray, diameter_mm: float) -> np.ndarray:
        seen = np.ones(len(head_mm), bool)
        for slab in self._slabs:
            seen &= slab.holds(head_mm, max(MARGIN_MM, diameter_mm / 2 + max(slab.config.spacing_mm)))
        return seen

    def _apart(self, head_mm: np.ndarray, diameter_mm: float, apart_mm: float) -> np.ndarray:
        """Which points (N, 3) keep their distance, and would be marked in voxels that do not touch in any slab: (N,) bool."""
        away = head_mm[:, None] - self._centres
        larger = np.maximum(diameter_mm, self._diameters)
        apart = np.linalg.norm(away, axis=-1) >= apart_mm + np.maximum(0, larger - LARGE_MM) / 2
        for slab in self._slabs:
            spacing = np.array(slab.config.spacing_mm)
            along = np.abs(slab.to_head.rotation.inv().apply(away.reshape(-1, 3)).reshape(away.shape))
            reach = np.maximum(diameter_mm / 2, spacing / 2) + np.maximum(self._diameters[:, None] / 2, spacing / 2)
            apart &= np.any(along > reach + 2 * spacing, axis=-1)
        return apart.all(axis=1)

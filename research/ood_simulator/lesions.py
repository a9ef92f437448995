"""Microbleeds and what is mistaken for them, as dark bodies in the picture: no field, no echo, an edge that is soft."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from research.ood_simulator.anatomy import REGIONS, Head

# docs/explanation/phantom.md: 957 marked microbleeds. Their diameter as seen is lognormal; by definition it is 2 to 10 mm.
MEDIAN_MM, SIGMA, SEEN_MM = 2.7, 0.36, (2.0, 10.0)
SHARES = {
    "subcortical white matter": 0.40,
    "cortex": 0.33,
    "cerebellum": 0.08,
    "basal ganglia": 0.08,
    "thalamus": 0.05,
    "brainstem": 0.04,
}
DARKNESS = (1.2, 4.0)  # of microbleeds, black by definition (Greenberg 2009): they take 70 to 98 % of a voxel that they fill
POINT_MM = 0.35  # distance of the points at which a body is drawn, before voxels average them
WAVES = 6  # of a body's uneven outline


@dataclass(frozen=True)
class Body:
    """A dark body: its signal falls by exp(-darkness) where it fills a voxel, by exp(-darkness / 2) where it fills half of one.

    So a dark spot stays dark in a thick slice and is seen about as wide as it is. label: as in annotations.csv; region: of the
    brain, or "". centre_mm: (3,) of the head. axes, turn: semi-axes relative to diameter_mm / 2, and their directions. uneven:
    waves of its outline. glow: how much brighter a rim is, on the side of `rim` (3,), a unit vector.
    """

    label: str
    region: str
    centre_mm: np.ndarray
    diameter_mm: float
    axes: np.ndarray
    turn: np.ndarray
    uneven: np.ndarray
    edge_mm: float
    darkness: float
    glow: float
    rim: np.ndarray

    def parts(self, away_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Share of the body and of its bright rim, (N,) each, at places (N, 3) in mm from its centre."""
        local = away_mm @ self.turn / self.axes
        out = np.linalg.norm(local, axis=1)
        unit = local / np.maximum(out, 1e-6)[:, None]
        radius = self.diameter_mm / 2 * (1 + np.sin(unit @ self.uneven[:, :3].T * 2.5 + self.uneven[:, 3]) @ self.uneven[:, 4])
        inside = 1 / (1 + np.exp(np.clip((out - radius) / self.edge_mm, -30, 30)))
        ring = np.exp(-(((out - radius - 2 * self.edge_mm) / (2 * self.edge_mm)) ** 2)) * np.maximum(0, unit @ self.rim)
        return inside, ring


def draw_diameter(rng: np.random.Generator) -> float:
    """A microbleed's diameter as seen, in mm."""
    while True:
        diameter = float(rng.lognormal(np.log(MEDIAN_MM), SIGMA))
        if SEEN_MM[0] <= diameter <= SEEN_MM[1]:
            return diameter


def draw_body(
    rng: np.random.Generator, label: str, region: str, centre_mm: np.ndarray, diameter_mm: float, darkness: tuple[float, float]
) -> Body:
    """A body of this size at a place, with everything else drawn; darkness: its bounds."""
    axes = np.exp(rng.normal(0, 0.09 if label == "cmb" else 0.18, 3))
    uneven = np.column_stack([rng.standard_normal((WAVES, 3)), rng.uniform(0, 2 * np.pi, WAVES), rng.normal(0, 0.04, WAVES)])
    rim = rng.standard_normal(3)
    return Body(
        label,
        region,
        centre_mm,
        diameter_mm,
        axes / np.cbrt(axes.prod()),
        np.linalg.qr(rng.standard_normal((3, 3)))[0],
        uneven,
        float(rng.uniform(0.1, 0.25) + 0.02 * diameter_mm),
        float(rng.uniform(*darkness)),
        float(rng.uniform(0.15, 0.6)) if label == "mimic:calcification" else 0.0,
        rim / np.linalg.norm(rim),
    )


def draw_cmb(rng: np.random.Generator, head: Head, diameter_mm: float) -> Body:
    """A microbleed somewhere in a region drawn by SHARES."""
    region = str(rng.choice(list(SHARES), p=np.array(list(SHARES.values())) / sum(SHARES.values())))
    return draw_body(rng, "cmb", region, _somewhere(rng, head, head.region == REGIONS.index(region)), diameter_mm, DARKNESS)


def draw_mimics(rng: np.random.Generator, head: Head) -> list[Body]:
    """Calcifications, iron spots, flow voids and patches at the skull's base: some of each, labelled by kind."""
    found = [_calcification(rng, head) for _ in range(rng.poisson(1.6))]
    pallidum = [_beside(rng, head, (18, 15, 0), 3.5) for _ in range(rng.poisson(1.2))]
    found += [draw_body(rng, "mimic:iron", "basal ganglia", p, rng.uniform(1.8, 5), (0.4, 1.6)) for p in pallidum]
    arteries = [((0, 8, -30), 1), ((9, 24, -18), 2), ((22, 22, -16), 3), ((38, 18, -10), 3), ((2, 34, -10), 1)]
    for centre, spread in arteries:
        if rng.random() < 0.35:
            body = draw_body(rng, "mimic:flow_void", "", _beside(rng, head, centre, spread), rng.uniform(1.8, 3.6), (0.6, 2.5))
            found.append(body)
    for centre in ((0, 42, -19), (44, -10, -30), (30, 30, -18)):
        if rng.random() < 0.4:
            body = draw_body(rng, "mimic:air_bone", "", _beside(rng, head, centre, 6), rng.uniform(3, 8), (0.8, 3))
            found.append(body)
    return found


def _calcification(rng: np.random.Generator, head: Head) -> Body:
    """In the choroid plexus, the pineal gland, the pallidum, or anywhere in the brain."""
    kind = rng.choice(4, p=[0.35, 0.15, 0.2, 0.3])
    if kind == 3:
        centre = _somewhere(rng, head, head.region > 0)
    else:
        centre = _beside(rng, head, ((22, -30, 13), (0, -26, 8), (18, 13, -1))[kind], 2.5)
    return draw_body(rng, "mimic:calcification", "", centre, float(rng.uniform(2, 6)), (0.6, 3))


def _beside(rng: np.random.Generator, head: Head, centre: tuple[float, float, float], spread_mm: float) -> np.ndarray:
    """A place near one of the textbook's head, on either side."""
    at = np.array(centre) * (rng.choice((-1, 1)), 1, 1) + rng.normal(0, spread_mm / 2, 3)
    return head.from_textbook(at[None])[0]


def _somewhere(rng: np.random.Generator, head: Head, mask: np.ndarray) -> np.ndarray:
    """A random place (3,) in mm inside a mask (I, J, K)."""
    at = rng.choice(np.flatnonzero(mask))
    return head.place(np.array(np.unravel_index(at, mask.shape)) + rng.uniform(-0.5, 0.5, 3))


def window(body: Body, to_index: np.ndarray, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], np.ndarray] | None:
    """The voxels around a body as slices, and what it leaves of each one's signal (I, J, K); None where it reaches the border.

    to_index: (4, 4), head mm to voxel index.
    """
    reach = body.diameter_mm / 2 * 1.4 + 5 * body.edge_mm
    half = np.ceil(reach * np.linalg.norm(to_index[:3, :3], axis=1)).astype(int)
    middle = np.rint(to_index[:3, :3] @ body.centre_mm + to_index[:3, 3]).astype(int)
    low, high = middle - half, middle + half + 1
    if np.any(low < 0) or np.any(high > shape):
        return None
    points = np.ceil(1 / np.linalg.norm(to_index[:3, :3], axis=1) / POINT_MM).astype(int)
    lines = [(np.arange(a, b)[:, None] + (np.arange(n) + 0.5) / n - 0.5).ravel() for a, b, n in zip(low, high, points, strict=True)]
    index = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3)
    back = np.linalg.inv(to_index)
    sizes = [n for a, b, m in zip(low, high, points, strict=True) for n in (b - a, m)]
    inside, ring = (
        part.reshape(sizes).mean(axis=(1, 3, 5)) for part in body.parts(index @ back[:3, :3].T + back[:3, 3] - body.centre_mm)
    )
    left = np.exp(-body.darkness * inside) * (1 + body.glow * ring)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), left

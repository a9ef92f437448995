"""The ways veins take: named veins through points read off the template, and walks that follow the brain's surface and sulci."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from cmb_models.phantom.grid import lookup
from cmb_models.phantom.head.template import Template, tentorium_mm
from cmb_models.phantom.veins.forest import CEREBELLAR, CORTICAL, DEEP, SINUS

STEP_MM = 0.8  # between the points of a vein: shorter than most voxels, so that curves stay smooth
RELAXATIONS = 12  # turns in which a vein is drawn to where it runs: afterwards it moves little


@dataclass(frozen=True)
class Trunk:
    """A named vein from its parent on. points: MNI mm, right side, the first replaced by the parent's nearest point.

    radius_mm: at the parent and at the free end, before its branches are counted. settle_mm: signed distance to the brain's
    surface it is moved to, where it follows it. paired: also on the left. parent_side: the parent's, where that is paired: "same",
    "dominant" or "other", as the sagittal and the straight sinus each end in one transverse sinus. share: of heads that have it.
    """

    name: str
    parent: str
    kind: int
    points: tuple[tuple[float, float, float], ...]
    radius_mm: tuple[float, float]
    paired: bool = True
    parent_side: str = "same"
    settle_mm: float | None = None
    share: float = 1.0


# Points read off the MNI152 T1 by eye; radii assumed.
TRUNKS = (
    Trunk("transverse", "", SINUS, ((57, -39, -48), (58, -40, -46), (63, -50, -30), (57, -66, -22), (42, -84, -20), (22, -92, -19),
          (0, -91, -19)), (1.6, 0.8), settle_mm=1.0),
    Trunk("sagittal", "transverse", SINUS, ((0, -91, -19), (0, -97, -12), (0, -101, 8), (0, -92, 40), (0, -60, 74),
          (0, -25, 82), (0, 15, 75), (0, 48, 52), (0, 66, 22)), (2.2, 1.2), paired=False, parent_side="dominant", settle_mm=1.5),
    Trunk("straight", "transverse", SINUS, ((0, -91, -19), (0, -83, -14), (0, -66, 1), (0, -51, 16)), (1.6, 0.6),
          paired=False, parent_side="other"),
    Trunk("galen", "straight", DEEP, ((0, -51, 16), (0, -48, 9), (0, -43, 4), (0, -38, 4)), (1.2, 0.4), paired=False),
    Trunk("lower_sagittal", "straight", DEEP, ((0, -51, 16), (0, -49, 24), (0, -36, 37), (0, -10, 41), (0, 18, 38), (0, 33, 26)),
          (0.6, 0.25), paired=False),
    Trunk("internal_cerebral", "galen", DEEP, ((0, -38, 4), (1.5, -31, 9), (2.5, -22, 15), (2.5, -10, 16), (2.5, -1, 12),
          (3, 2, 8)),
          (0.8, 0.3)),
    Trunk("basal", "galen", DEEP, ((0, -42, 4), (11, -38, 2), (19, -28, -6), (19, -14, -14), (14, -2, -17), (16, 6, -19)),
          (0.8, 0.35)),
    Trunk("thalamostriate", "internal_cerebral", DEEP, ((3, 2, 8), (8, 1, 15), (13, -7, 21), (17, -18, 23), (22, -30, 21)),
          (0.6, 0.25)),
    Trunk("septal", "internal_cerebral", DEEP, ((3, 2, 8), (2, 10, 7), (2.5, 17, 5), (6, 23, 7), (13, 27, 9)), (0.5, 0.25)),
    Trunk("caudate", "thalamostriate", DEEP, ((9, 0, 16), (13, 4, 22), (15, 10, 23), (14, 20, 19)), (0.35, 0.2)),
    Trunk("lateral", "thalamostriate", DEEP, ((13, -7, 21), (16, -9, 27), (18, -20, 27), (21, -29, 26)), (0.35, 0.2)),
    Trunk("atrial", "internal_cerebral", DEEP, ((1.5, -31, 9), (10, -37, 11), (18, -43, 13), (25, -44, 17), (25, -38, 23)),
          (0.5, 0.25)),
    Trunk("temporal_horn", "basal", DEEP, ((19, -28, -6), (28, -30, -8), (33, -22, -14), (35, -12, -18)), (0.35, 0.2), share=0.7),
    Trunk("sylvian", "", CORTICAL, ((29, 12, -23), (30, 12, -22), (42, 10, -12), (52, 2, -2), (58, -12, 6), (58, -26, 14),
          (54, -36, 20)),
          (0.8, 0.3)),
    Trunk("insular", "basal", CORTICAL, ((15, 3, -18), (24, 6, -15), (36, 6, -8), (40, -4, 2), (39, -20, 10), (36, -28, 16)),
          (0.4, 0.2)),
    Trunk("labbe", "transverse", CORTICAL, ((60, -58, -25), (64, -52, -12), (68, -40, -2), (66, -26, 2), (64, -14, 2)), (0.9, 0.35),
          settle_mm=-1.0, share=0.75),
    Trunk("trolard", "sagittal", CORTICAL, ((0, -30, 82), (20, -30, 76), (40, -32, 66), (56, -30, 48), (66, -26, 26)), (0.9, 0.35),
          settle_mm=-1.0, share=0.75),
    Trunk("lower_vermian", "straight", CEREBELLAR, ((0, -87, -17), (3, -85, -26), (4, -80, -40), (5, -68, -50)), (0.5, 0.2)),
    Trunk("upper_vermian", "galen", CEREBELLAR, ((0, -45, 6), (2, -49, 1), (2, -57, 4), (3, -66, -2)), (0.5, 0.2)),
    Trunk("petrosal", "transverse", CEREBELLAR, ((62, -46, -36), (48, -42, -34), (34, -40, -32), (24, -42, -34)), (0.5, 0.2)),
)  # fmt: skip


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-6)


def trunk_points(rng: np.random.Generator, template: Template, trunk: Trunk, side: int) -> np.ndarray:
    """The points of one named vein, bent a little at random; its first as listed. (P, 3) MNI mm."""
    points = np.array(trunk.points, float)
    points[1:-1] += rng.normal(0, 1.0, points[1:-1].shape)  # ends stay, so that veins meet
    points *= (side, 1, 1)
    if trunk.settle_mm is not None:
        for _ in range(6):
            off = lookup(template.brain_mm, template.half, points[1:-1]) - trunk.settle_mm
            points[1:-1] -= 0.7 * off[:, None] * unit(lookup(template.outward, template.half, points[1:-1]))
    return points


def smooth_line(points: np.ndarray) -> np.ndarray:
    """A smooth line through points (P, 3), about STEP_MM between its own (S + 1, 3)."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return CubicSpline(along, points)(np.linspace(0, along[-1], int(along[-1] / STEP_MM) + 2))


@dataclass(frozen=True)
class Manner:
    """How a vein gets from its parent to its end.

    knots: points it is bent at, ends included. bend: sideways, as a share of its length.
    pull: towards fluid, mm per turn and unit of to_fluid. depth_mm: range of signed distances to the brain's surface to keep to,
    or None to roam. All assumed, tuned by eye.
    """

    knots: int
    bend: float
    pull: float
    depth_mm: tuple[float, float] | None = None


def route(rng: np.random.Generator, template: Template, start: np.ndarray, end: np.ndarray, manner: Manner) -> np.ndarray:
    """N veins from `start` (N, 3) to `end` (N, 3): lines bent at random, then drawn to surface and fluid: (knots, N, 3) MNI mm."""
    part = np.linspace(0, 1, manner.knots)[:, None, None]
    span = np.linalg.norm(end - start, axis=1, keepdims=True)
    path = start + part * (end - start)
    for wave in (1, 2, 3):
        path += np.sin(wave * np.pi * part) * manner.bend / wave * span * rng.standard_normal(start.shape)
    depth = None if manner.depth_mm is None else np.tile(rng.uniform(*manner.depth_mm, len(start)), manner.knots - 2)
    for _ in range(RELAXATIONS):
        inner = path[1:-1].reshape(-1, 3)
        move = manner.pull * lookup(template.to_fluid, template.half, inner)
        if depth is not None:
            off = np.clip(lookup(template.brain_mm, template.half, inner) - depth, -4, 4)
            move -= 0.6 * off[:, None] * unit(lookup(template.outward, template.half, inner))
        path[1:-1] += move.reshape(path[1:-1].shape)
        path[1:-1] = (path[:-2] + 2 * path[1:-1] + path[2:]) / 4
    return path


def in_steps(path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines (knots, N, 3) in even steps of about STEP_MM: (S + 1, N, 3), the last point repeated, and the steps of each (N,)."""
    along = np.concatenate([np.zeros((1, path.shape[1])), np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=2), axis=0)])
    steps = np.maximum(1, np.rint(along[-1] / STEP_MM).astype(np.intp))
    at = np.minimum(np.arange(steps.max() + 1)[:, None] / steps, 1) * along[-1]
    apart = np.arange(path.shape[1]) * (along.max() + 1)  # all lines end to end, so that one interpolation does for all
    nodes, wanted = ((a + apart).T.ravel() for a in (along, at))
    line = [np.interp(wanted, nodes, path[..., a].T.ravel()) for a in range(3)]
    return np.stack(line, 1).reshape(path.shape[1], -1, 3).swapaxes(0, 1), steps


def straight(rng: np.random.Generator, start: np.ndarray, heading: np.ndarray, steps: int) -> np.ndarray:
    """N nearly straight veins from `start` (N, 3) along `heading` (N, 3): (steps + 1, N, 3) MNI mm."""
    heading = unit(heading) + np.cumsum(0.05 * rng.standard_normal((steps, *start.shape)), axis=0)
    return np.concatenate([start[None], start + STEP_MM * np.cumsum(unit(heading), axis=0)])


def steps_within(allowed: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(N,) how many steps to take, at most `steps` (N,), before the first point that is not `allowed` (S, N)."""
    return np.minimum(steps, np.where(allowed.all(0), len(allowed), np.argmin(allowed, axis=0)))


def white_share(template: Template, points: np.ndarray) -> np.ndarray:
    """Share of white matter (...) at points (..., 3), nearest voxel."""
    at = np.rint(template.full.index(points.reshape(-1, 3))).astype(np.intp)
    at = np.clip(at, 0, np.array(template.full.shape) - 1)
    return (template.white[tuple(at.T)] / np.float32(255)).reshape(points.shape[:-1])


def below_tentorium(points: np.ndarray) -> np.ndarray:
    """Whether points (N, 3) in MNI mm lie in the posterior fossa: (N,) bool, read off the T1 by eye."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    return (z < tentorium_mm(x, y)) & (y < -38) | (z < -18) & (x < 22) & (y < -8)

"""The fast radial symmetry transform (Loy and Zelinsky 2003, IEEE PAMI 25:959) in 3D, as Kuijf 2012 (NeuroImage 59:2266) used it
for microbleeds, with a few features of each candidate as Barnes 2011 (MRI 29:844) and Bian 2013 (NeuroImage Clin 2:282) add them.

No network: the weights of a logistic regression over the features are fitted on the training scans, the transform's settings
chosen by what such weights find in folds of these that they were not fitted on.
The brain mask that the published methods take from a skull stripping is given to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize

from cmb_models.config.params import Candidates, Preprocess
from cmb_models.dataset.layout import ScanFile
from cmb_models.detect.candidates import diameter_mm, find_candidates
from cmb_models.detect.preprocess import normalise, resample
from cmb_models.errors import InputError
from cmb_models.evaluation.froc import froc, mean_sensitivity
from cmb_models.evaluation.matching import ScoredScan, reach_mm
from cmb_models.volume import Volume, world_from_index

GRID_MM = 1.0  # the transform counts voxels, so it needs cubes; the in-plane size of the networks' grid
SMOOTH_MM = 0.7  # before the gradient; a median microbleed is 2.7 mm wide
FULL = 0.5  # share of a shell's voxels whose votes are a full symmetry: the paper's k, 9.9 votes on circles of 13 to 31
SPREAD = 0.25  # of the radius: sigma of the Gaussian over the votes (the paper's A_n)
PEAKS = Candidates(floor=1e-4, min_distance_mm=4.0, max_per_scan=60)
MARGIN_MM = 8.0  # around the brain's bounding box; holds the largest shell's gradients and the features' windows
PENALTY = 1.0  # of the squared weights in the logistic regression, for standardised features
FEATURES = ("log symmetry", "darkness", "contrast", "roundness", "diameter")


@dataclass(frozen=True)
class Settings:
    """radii_vox: of the shells. strictness: the paper's alpha. least_gradient: smallest gradient that votes, tissue ranges a mm."""

    radii_vox: tuple[int, ...]
    strictness: float
    least_gradient: float


RADII, STRICTNESS, GRADIENTS = ((1, 2), (2, 3)), (1.0, 2.0), (0.02, 0.05)
GRID = [Settings(*s) for s in itertools.product(RADII, STRICTNESS, GRADIENTS)]


def votes(gradient: np.ndarray, radius_vox: int, least_gradient: float) -> tuple[np.ndarray, np.ndarray]:
    """How many voxels see a dark centre `radius_vox` away, and the sum of their gradients.

    gradient: (3, I, J, K). Returns two (I, J, K) float64. Each voxel votes for the place against its gradient, which points from
    dark to bright; votes beyond the edge are lost.
    """
    shape = gradient.shape[1:]
    size = np.sqrt((gradient**2).sum(axis=0))
    at = np.stack(np.nonzero(size > least_gradient))
    strength = size[tuple(at)]
    to = at - np.rint(radius_vox * gradient[:, *at] / strength).astype(np.int64)
    inside = ((to >= 0) & (to < np.array(shape)[:, None])).all(axis=0)
    place = np.ravel_multi_index(to[:, inside], shape)
    count = np.bincount(place, minlength=np.prod(shape)).reshape(shape).astype(np.float64)
    return count, np.bincount(place, strength[inside], np.prod(shape)).reshape(shape)


def shell_vox(radius_vox: int) -> int:
    """Number of voxels around a centre whose vote at this radius falls on it, when all their gradients point away from it."""
    axis = np.arange(-radius_vox - 1, radius_vox + 2)
    offset = np.stack(np.meshgrid(axis, axis, axis)).reshape(3, -1)
    offset = offset[:, offset.any(axis=0)]
    miss = offset - radius_vox * offset / np.linalg.norm(offset, axis=0)
    return int((np.rint(miss) == 0).all(axis=0).sum())


def one_radius(count: np.ndarray, strength: np.ndarray, radius_vox: int, strictness: float) -> np.ndarray:
    """S_n of the paper from a radius' votes, (I, J, K) float64, 0 and above: gradient times share of votes to the `strictness`."""
    full = FULL * shell_vox(radius_vox)
    symmetry = strength / full * (np.minimum(count, full) / full) ** strictness
    return ndimage.gaussian_filter(symmetry, SPREAD * radius_vox, truncate=3)


def transform(image: np.ndarray, settings: Settings) -> np.ndarray:
    """Radial symmetry of dark spots: (I, J, K) image of cubic voxels to (I, J, K), 0 and above; 0 everywhere if it is constant."""
    gradient = gradient_of(image)
    radii = settings.radii_vox
    maps = [one_radius(*votes(gradient, n, settings.least_gradient), n, settings.strictness) for n in radii]
    return np.mean(maps, axis=0)


def gradient_of(image: np.ndarray) -> np.ndarray:
    """(3, I, J, K) gradient per voxel after a little smoothing."""
    return np.stack(np.gradient(ndimage.gaussian_filter(image.astype(np.float64), SMOOTH_MM / GRID_MM)))


def transforms(image: np.ndarray, grid: Sequence[Settings]) -> Iterator[tuple[Settings, np.ndarray]]:
    """`transform` for many settings, each radius' votes counted once."""
    gradient = gradient_of(image)
    for least in sorted({s.least_gradient for s in grid}):
        own = [s for s in grid if s.least_gradient == least]
        counted = {n: votes(gradient, n, least) for n in sorted({n for s in own for n in s.radii_vox})}
        for strictness in sorted({s.strictness for s in own}):
            maps = {n: one_radius(*counted[n], n, strictness) for n in counted}
            for settings in own:
                if settings.strictness == strictness:
                    yield settings, np.mean([maps[n] for n in settings.radii_vox], axis=0)


@dataclass(frozen=True)
class Spots:
    """A scan's candidates under one of the settings. centres_mm: (N, 3) RAS. features: (N, 5) as in FEATURES. N may be 0."""

    centres_mm: np.ndarray
    features: np.ndarray


def spots(volume: Volume, brain: Volume, preprocess: Preprocess, case: str, grid: Sequence[Settings] = GRID) -> list[Spots]:
    """Candidates in the brain for each of `grid`. volume, brain: the scan and its brain's mask (0 or 1) on the same grid."""
    cube = (GRID_MM,) * 3
    scan, mask = resample(volume.to_ras(), cube), resample(brain.to_ras(), cube).data > 0.5
    if not mask.any():
        raise InputError("scan-no-head", case, "a brain mask with a brain", "an empty one", "simulate the scans again")
    where = np.nonzero(mask)
    low = [max(0, int(axis.min() - MARGIN_MM)) for axis in where]
    box = tuple(slice(a, int(axis.max() + MARGIN_MM) + 1) for a, axis in zip(low, where, strict=True))
    image, mask = normalise(scan.data, preprocess, case)[box].astype(np.float64), mask[box]
    roundness, found = roundness_of(image), {}
    for settings, symmetry in transforms(image, grid):
        index, score = find_candidates(np.where(mask, symmetry, 0.0), cube, PEAKS)
        features = _features(image, roundness, index, score)
        found[settings] = Spots(world_from_index(index + np.array(low), scan.affine), features)
    return [found[s] for s in grid]


def roundness_of(image: np.ndarray, sigma_vox: float = 1.0) -> np.ndarray:
    """Smallest over largest eigenvalue of the Hessian where all are above 0, else 0: 1 in a dark ball, 0 in a dark tube."""
    first = np.gradient(ndimage.gaussian_filter(image, sigma_vox))
    hessian = np.stack([np.stack(np.gradient(f), -1) for f in first], -1)
    values = np.linalg.eigvalsh((hessian + np.swapaxes(hessian, -1, -2)) / 2)
    return np.where(values[..., 0] > 0, values[..., 0] / np.maximum(values[..., 2], 1e-12), 0.0)


def _features(image: np.ndarray, roundness: np.ndarray, index: np.ndarray, score: np.ndarray) -> np.ndarray:
    """(N, 5) of the candidates at index (N, 3)."""
    rows = []
    for place, symmetry in zip(index, score, strict=True):
        near, window = (image[tuple(slice(max(0, c - r), c + r + 1) for c in place)] for r in (1, 6))
        darkest = near.min()
        about = roundness[tuple(slice(max(0, c - 1), c + 2) for c in place)].max()
        size = diameter_mm(image, place, (GRID_MM,) * 3)
        rows.append((np.log(symmetry), darkest, np.median(window) - darkest, about, size))
    return np.array(rows).reshape(-1, len(FEATURES))


@dataclass(frozen=True)
class Weights:
    """A logistic regression over standardised features. mean, scale, weight: (F,); offset: log odds at the mean."""

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    offset: float

    def score(self, features: np.ndarray) -> np.ndarray:
        """Scores (N,) in (0, 1) of features (N, F)."""
        return 1 / (1 + np.exp(-np.clip((features - self.mean) / self.scale @ self.weight + self.offset, -500, 500)))


def fit(features: np.ndarray, positive: np.ndarray) -> Weights:
    """Penalised logistic regression of positive (N,) on features (N, F), microbleeds and others weighing the same in all.

    With none of either kind the first feature alone decides.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    if positive.all() or not positive.any():
        return Weights(mean, scale, np.eye(features.shape[1])[0], 0.0)
    x, sign = (features - mean) / scale, np.where(positive, 1.0, -1.0)
    share = np.where(positive, 1 / positive.sum(), 1 / (~positive).sum()) * positive.sum()

    def loss(w: np.ndarray) -> float:
        return float((share * np.logaddexp(0, -sign * (x @ w[:-1] + w[-1]))).sum() + PENALTY / 2 * (w[:-1] ** 2).sum())

    best = minimize(loss, np.zeros(x.shape[1] + 1)).x
    return Weights(mean, scale, best[:-1], float(best[-1]))


def scored(scan: ScanFile, spots: Spots, weights: Weights) -> ScoredScan:
    return ScoredScan(scan.key, scan.subject_key, scan.annotations, spots.centres_mm, weights.score(spots.features))


def fit_scans(own: Sequence[tuple[ScanFile, Spots]], tolerance_mm: float) -> Weights:
    """`fit` on scans and their candidates under one of the settings; positive is what lies at a microbleed."""
    return fit(np.concatenate([s.features for _, s in own]), np.concatenate([_hits(scan, s, tolerance_mm) for scan, s in own]))


def out_of_fold(own: Sequence[tuple[ScanFile, Spots]], folds: Mapping[str, int], tolerance_mm: float) -> list[ScoredScan]:
    """The scans, each scored by weights fitted on the other folds. folds: of each subject, two or more."""
    found = []
    for fold in sorted(set(folds.values())):
        weights = fit_scans([(scan, s) for scan, s in own if folds[scan.subject_key] != fold], tolerance_mm)
        found += [scored(scan, s, weights) for scan, s in own if folds[scan.subject_key] == fold]
    return found


def choose(training: Sequence[tuple[ScanFile, list[Spots]]], folds: Mapping[str, int], tolerance_mm: float, up_to_fp: float) -> int:
    """Which of GRID finds most out of fold: by mean sensitivity up to so many false positives a scan; of equals the first."""
    values = []
    for n in range(len(GRID)):
        found = out_of_fold([(scan, spots[n]) for scan, spots in training], folds, tolerance_mm)
        values.append(mean_sensitivity(froc(found, tolerance_mm), up_to_fp))
    return int(np.argmax(values))


def _hits(scan: ScanFile, spots: Spots, tolerance_mm: float) -> np.ndarray:
    """Which candidates lie at a microbleed: (N,) bool."""
    cmbs = [a for a in scan.annotations if a.is_cmb]
    away = spots.centres_mm[:, None] - np.array([a.centre_mm for a in cmbs]).reshape(-1, 3)
    return (np.linalg.norm(away, axis=2) <= [reach_mm(a, tolerance_mm) for a in cmbs]).any(axis=1)

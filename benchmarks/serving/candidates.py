"""Candidate extraction from a map of many blobs, compared with labelling every voxel."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from benchmarks.serving.scans import LARGE
from cmb_models.config.params import Candidates
from cmb_models.detect.candidates import find_candidates

BLOBS, FLOOR = 300, 0.1
SPACING_MM = (0.45, 0.45, 2.0)


def heatmap(seed: int = 0) -> np.ndarray:
    """(512, 448, 80) float32 with BLOBS smooth spots on a floor of zero, none touching another."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*(np.arange(8, n - 8, 16) for n in LARGE), indexing="ij"), -1).reshape(-1, 3)
    image = np.zeros(LARGE, dtype=np.float32)
    offsets = np.stack(np.meshgrid(*(np.arange(-4, 5),) * 3, indexing="ij"), -1)
    for place in rng.permutation(places)[:BLOBS]:
        bump = rng.uniform(0.4, 1) * np.exp(-(offsets**2).sum(-1) / 4)
        image[tuple(slice(p - 4, p + 5) for p in place)] = bump
    return image


def milliseconds(rounds: int = 5) -> dict[str, float]:
    """Median time of each way, in one run, by turns. Each must find every blob."""
    image = heatmap()
    settings = Candidates(floor=FLOOR, min_distance_mm=1.0, max_per_scan=10 * BLOBS)
    ways: dict[str, Callable[[], int]] = {
        "ours": lambda: len(find_candidates(image, SPACING_MM, settings)[0]),
        "label and centre of mass": lambda: _labelled(image),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            found = way()
            times[name].append(1e3 * (time.perf_counter() - start))
            assert found == BLOBS, (name, found)
    return {name: float(np.median(t)) for name, t in times.items()}


def _labelled(image: np.ndarray) -> int:
    labels, count = ndimage.label(image >= FLOOR)
    return len(ndimage.center_of_mass(image, labels, np.arange(1, count + 1)))

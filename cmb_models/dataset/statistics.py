"""Statistics by which scans are compared with those that a release was trained on.

Of each quantity the training data are kept as quantiles. Intensities are ratios, since scanners scale them as they like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from cmb_models.volume import Volume

IN_PLANE, SLICE = "in_plane_mm", "slice_mm"  # shortest and longest side of a voxel
SPREAD, BRIGHT = "spread_to_median", "p99_to_median"  # of the head's intensities
BEST_SCORE, DETECTIONS = "best_score", "detections"  # of a scan
QUANTITIES = (IN_PLANE, SLICE, SPREAD, BRIGHT, BEST_SCORE, DETECTIONS)
SAMPLE = (4, 4, 2)  # every so many voxels along the stored axes one is enough for intensities
HEAD = 0.15  # of the 99th percentile: brighter voxels are the head; the default of preprocess.foreground_fraction
MM_DIGITS, MM_OFFSET = 2, 1e-4  # headers hold voxel sizes in single precision, and 0.625 mm must not lie between two rounded ones
PROBABILITIES = tuple(n / 20 for n in range(21))


class Reference(TypedDict):
    """One quantity of the training data.

    scans: how many have it. quantiles: at PROBABILITIES, each a value that occurs. at_most: share of scans up to each quantile.
    """

    scans: int
    quantiles: list[float]
    at_most: list[float]


def intensities(volume: Volume) -> dict[str, float | None]:
    """Median, 99th percentile, SPREAD and BRIGHT of a scan's intensities; None where there are none.

    Zeros and non-finite voxels are left out. SPREAD is the 5th to 95th percentile range of the head over its median, by which the
    networks' input is scaled, BRIGHT its 99th percentile over its median.

    Args:
        volume: A scan (I, J, K), any orientation and intensity scale.
    """
    sampled = volume.data[tuple(slice(None, None, n) for n in SAMPLE)]
    tissue = sampled[np.isfinite(sampled) & (sampled > 0)]
    if not tissue.size:
        return dict.fromkeys(("median_intensity", "p99_intensity", SPREAD, BRIGHT))
    median, p99 = (float(q) for q in np.percentile(tissue, (50, 99)))
    p5, middle, p95, bright = (float(q) for q in np.percentile(tissue[tissue > HEAD * p99], (5, 50, 95, 99)))
    return {"median_intensity": median, "p99_intensity": p99, SPREAD: (p95 - p5) / middle, BRIGHT: bright / middle}


def sides(spacing_mm: Iterable[float]) -> dict[str, float]:
    """IN_PLANE and SLICE of a voxel, mm, whatever the order of the axes. spacing_mm: three numbers."""
    ordered = sorted(map(rounded_mm, spacing_mm))
    return {IN_PLANE: ordered[0], SLICE: ordered[-1]}


def rounded_mm(side: float) -> float:
    """A side of a voxel, mm, the same for all scans of a protocol, whatever their orientation."""
    return round(float(side) + MM_OFFSET, MM_DIGITS)


def reference(values: Sequence[float]) -> Reference | None:
    """The quantiles of a quantity over scans; None without any."""
    if not len(values):
        return None
    ordered = np.sort(np.asarray(values, dtype=float))
    quantiles = np.quantile(ordered, PROBABILITIES, method="inverted_cdf")
    at_most = np.searchsorted(ordered, quantiles, side="right") / len(ordered)
    return {"scans": len(ordered), "quantiles": quantiles.tolist(), "at_most": at_most.tolist()}


def references(scans: Iterable[Mapping[str, float | None]]) -> dict[str, Reference]:
    """The reference of each of QUANTITIES that scans have."""
    columns: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for scan in scans:
        for name in QUANTITIES:
            if (value := scan.get(name)) is not None:
                columns[name].append(value)
    return {name: found for name, values in columns.items() if (found := reference(values))}


def training_references(metadata: Mapping[str, Any]) -> dict[str, Reference]:
    """The quantities of the training data in a bundle's metadata.json, by name.

    Bundles of earlier versions have the voxel sizes alone; {} if not even these.
    """
    training = metadata.get("data", {}).get("training", {})
    if "statistics" in training:
        return {name: known for name, known in training["statistics"].items() if name in QUANTITIES}
    return references(sides(voxel["mm"]) for voxel in training.get("voxels", ()) for _ in range(voxel["scans"]))

"""The same figures apart: by the lesions' size and region, and by the scans' slices, voxels and site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from cmb_models.evaluation.matching import ScoredScan, match
from cmb_models.evaluation.statistics.bootstrap import rate_interval, share_interval
from cmb_models.io.annotations import Annotation

# 2 and 10 mm: the bounds of a CMB by definition (Greenberg, Lancet Neurology 2009); 5 mm: where BOMBS divides them (Cordonnier,
# Stroke 2009); 3 mm: near the median of marked CMBs as seen, so that the many small ones do not share one class.
SIZES_MM = (2.0, 3.0, 5.0, 10.0)
SLICES_MM = (1.0, 2.0, 3.0)  # 3D SWI, thick 3D SWI, usual clinical SWI; thicker ones make CMBs look like veins
NOT_GIVEN = "not given"
Row = dict[str, Any]  # of one class, as `strata` describes it


def size_class(diameter_mm: float) -> str:
    """Name of the class of a diameter in mm: below 2, 2 to below 3, 3 to below 5, 5 to below 10, 10 and more."""
    n = int(np.searchsorted(SIZES_MM, diameter_mm, side="right"))
    return class_names(SIZES_MM, "below {:g} mm", "{:g} to below {:g} mm", "{:g} mm and more")[n]


def slice_class(slice_mm: float | None) -> str:
    """Name of the class of a slice thickness in mm: up to 1, above 1 to 2, above 2 to 3, above 3."""
    if slice_mm is None:
        return NOT_GIVEN
    n = int(np.searchsorted(SLICES_MM, slice_mm, side="left"))
    return class_names(SLICES_MM, "up to {:g} mm", "above {:g} to {:g} mm", "above {:g} mm")[n]


def voxel_class(voxel_mm: Sequence[float] | None) -> str:
    """The voxel's sides in mm, ascending, to 0.01: scans of one protocol share them."""
    return NOT_GIVEN if voxel_mm is None else " × ".join(f"{side:.2f}" for side in voxel_mm) + " mm"


def class_names(bounds: Sequence[float], first: str, between: str, last: str) -> list[str]:
    """Names of the classes that ascending bounds divide numbers into, one more than there are bounds.

    The texts take one, two and one of the bounds.
    """
    middle = [between.format(a, b) for a, b in pairwise(bounds)]
    return [first.format(bounds[0]), *middle, last.format(bounds[-1])]


_SIZE_ORDER = [size_class(d) for d in (0.0, *SIZES_MM)]
_SLICE_ORDER = [slice_class(s) for s in (*SLICES_MM, SLICES_MM[-1] + 1)]


def strata(scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float, draws: np.ndarray) -> dict[str, list[Row]]:
    """Figures at a threshold apart by size, region, slice_thickness, voxel_size and dataset, each a list of rows.

    Rows by lesion (size, region): name, n_scans with such a lesion, n_lesions, hits, sensitivity. Rows by scan (the others) add
    false_positives, fp_per_scan, fp_interval_95. interval_95 is sensitivity's, over subjects: draws (B, S) as in bootstrap.
    Sensitivity is None in a class of scans without lesions. Classes that do not occur have no row; no scans, no rows.
    """
    found = [match(s, threshold, tolerance_mm) for s in scans]
    hit = [set(m.lesion_of.tolist()) for m in found]

    def by_lesion(class_of: Callable[[Annotation], str]) -> list[Row]:
        names = sorted({class_of(a) for s in scans for a in s.cmbs}, key=_order)
        counts = ((name, _per_scan(scans, hit, partial(_is_of, class_of, name))) for name in names)
        return [_row(name, hits, lesions, draws) for name, (hits, lesions) in counts]

    def by_scan(class_of: Callable[[ScoredScan], str]) -> list[Row]:
        rows = []
        for name in sorted({class_of(s) for s in scans}, key=_order):
            own = np.array([class_of(s) == name for s in scans])
            hits, lesions = _per_scan(scans, hit, lambda _: True)
            row = _row(name, hits * own, lesions * own, draws) | {"n_scans": int(own.sum())}
            false = np.array([m.false_positives for m in found])[own]
            row |= {"false_positives": int(false.sum()), "fp_per_scan": float(false.mean())}
            rows.append(row | {"fp_interval_95": rate_interval(false, draws[:, own])})
        return rows

    return {
        "size": by_lesion(lambda a: size_class(a.diameter_mm)),
        "region": by_lesion(lambda a: a.region or NOT_GIVEN),
        "slice_thickness": by_scan(lambda s: slice_class(s.slice_mm)),
        "voxel_size": by_scan(lambda s: voxel_class(s.voxel_mm)),
        "dataset": by_scan(lambda s: s.dataset or NOT_GIVEN),
    }


def _is_of(class_of: Callable[[Annotation], str], name: str, annotation: Annotation) -> bool:
    return class_of(annotation) == name


def _order(name: str) -> tuple[bool, int, str]:
    """Sizes and thicknesses as they rise, other names by the alphabet, what was not given last."""
    known = [*_SIZE_ORDER, *_SLICE_ORDER]
    return name == NOT_GIVEN, known.index(name) if name in known else -1, name


def _per_scan(
    scans: Sequence[ScoredScan], hit: list[set[int]], wanted: Callable[[Annotation], bool]
) -> tuple[np.ndarray, np.ndarray]:
    """Hits and lesions of each scan among the CMBs that are wanted, each (S,)."""
    lesions = [{n for n, a in enumerate(s.cmbs) if wanted(a)} for s in scans]
    hits = [len(own & found) for own, found in zip(lesions, hit, strict=True)]
    return np.array(hits, dtype=int), np.array([len(own) for own in lesions], dtype=int)


def _row(name: str, hits: np.ndarray, lesions: np.ndarray, draws: np.ndarray) -> Row:
    total = int(lesions.sum())
    return {
        "name": name,
        "n_scans": int((lesions > 0).sum()),
        "n_lesions": total,
        "hits": int(hits.sum()),
        "sensitivity": float(hits.sum() / total) if total else None,
        "interval_95": share_interval(hits, lesions, draws),
    }

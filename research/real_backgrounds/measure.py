"""What a release finds of the inserted microbleeds, and its false positives in the untouched scans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from cmb_models.detection import Detection
from cmb_models.evaluation.statistics.bootstrap import poisson
from cmb_models.evaluation.statistics.strata import size_class
from cmb_models.release.bundle import BundleDetector
from cmb_models.volume import index_from_world, world_from_index
from research.real_backgrounds.insertion import Insertion, insert
from research.real_backgrounds.places import draw_copies
from research.real_backgrounds.scans import Background, read_backgrounds
from research.real_cubes.scoring import scale_of
from research.real_planes.images import Planes, cut_planes
from research.real_planes.measures import lesion_figures

TOLERANCE_MM = 3.0  # and the microbleed's radius, if larger: the primary tolerance of every evaluation
DEFINED_MM = 2.0  # a CMB's least diameter by definition
VEIN_MM = 2.0  # a false positive this near to a marked vein is counted as one
SEED = 7


@dataclass(frozen=True)
class Found:
    """An inserted microbleed and the highest score within reach of it, 0 without a candidate.

    occupied: whether the release detects something within reach in the untouched scan.
    """

    diameter_mm: float
    score: float
    occupied: bool


def measure(
    detector: BundleDetector, data: Path, lesions: int, on_false: Callable[[Background, list[Detection]], None] | None = None
) -> dict:
    """Figures of a release in all real scans; a scan without phase is left out if the release needs phase.

    data: the folder of real files. lesions: inserted into each scan. on_false: is given each untouched scan's detections.
    """
    result = {}
    for number, background in enumerate(read_backgrounds(data)):
        if detector.requires_phase and not np.iscomplexobj(background.image):
            result[background.name] = {"left_out": "no phase image, which the release needs"}
            continue
        result[background.name] = _scan_figures(detector, background, lesions, [SEED, number], on_false)
    return result


def _scan_figures(
    detector: BundleDetector,
    background: Background,
    lesions: int,
    seed: Sequence[int],
    on_false: Callable[[Background, list[Detection]], None] | None,
) -> dict:
    untouched = detections(detector, background, background.image)
    threshold = detector.bundle.config.decision.threshold
    false = [d for d in untouched if d.score >= threshold]
    if on_false:
        on_false(background, false)
    copies = draw_copies(background, lesions, np.random.default_rng(seed))
    whole = np.iscomplexobj(background.image)
    scale = scale_of(background.volumes(background.image)[0].data, detector.bundle.config.preprocess)
    result = {
        "field_t": background.field_t,
        "te_ms": background.te_ms,
        "image": "magnitude and phase" if whole else "magnitude alone",
        "foreground_width_over_median": round(scale.width / scale.median, 3),
        "inserted": _inserted(detector, background, copies, false, False),
        "untouched": false_positives(background, untouched, threshold),
    }
    return result if whole else result | {"inserted_as_swi": _inserted(detector, background, copies, false, True)}


def _inserted(
    detector: BundleDetector, background: Background, copies: Sequence[list[Insertion]], before: list[Detection], as_swi: bool
) -> dict:
    """Sensitivity, and darkness and width of the inserted microbleeds as research.real_planes measures real ones."""
    found, planes = [], []
    for copy in copies:
        image = insert(background, copy, as_swi)
        found += find(background, copy, detections(detector, background, image), before)
        swi = background.volumes(image)[0].data
        planes += [_planes(background, swi, insertion) for insertion in copy]
    appearance = lesion_figures(planes) if planes else None
    return sensitivity(found, detector.bundle.config.decision.threshold) | {"appearance": appearance}


def detections(detector: BundleDetector, background: Background, image: np.ndarray) -> Sequence[Detection]:
    """All candidates of the release in an image of the scan, best first."""
    swi, phase = background.volumes(image)
    return detector.detect(swi, phase, case=background.name).candidates


def find(
    background: Background, copy: Sequence[Insertion], candidates: Iterable[Detection], before: Iterable[Detection]
) -> list[Found]:
    """What was found of the microbleeds of one copy. before: detections in the untouched scan."""
    centres = world_from_index(np.array([i.at_vox for i in copy]), background.affine)
    found = []
    for insertion, centre in zip(copy, centres, strict=True):
        reach = max(TOLERANCE_MM, insertion.diameter_mm / 2)

        def near(d: Detection, centre: np.ndarray = centre, reach: float = reach) -> bool:
            return float(np.linalg.norm(np.subtract(d.position_mm, centre))) <= reach

        score = max((d.score for d in candidates if near(d)), default=0.0)
        found.append(Found(insertion.diameter_mm, float(score), any(near(d) for d in before)))
    return found


def sensitivity(found: Sequence[Found], threshold: float) -> dict:
    """Shares found with exact binomial intervals, by size; those at occupied places are left out."""
    counted = [f for f in found if not f.occupied]
    large = [f for f in counted if f.diameter_mm >= DEFINED_MM]
    classes = dict.fromkeys(size_class(f.diameter_mm) for f in sorted(counted, key=lambda f: f.diameter_mm))
    return {
        "at_occupied_places": len(found) - len(counted),
        "from_2_mm": _share(large, threshold),
        "by_size": {name: _share([f for f in counted if size_class(f.diameter_mm) == name], threshold) for name in classes},
        "scores_from_2_mm": _quantiles([f.score for f in large]),
    }


def _share(found: Sequence[Found], threshold: float) -> dict:
    hits = sum(f.score >= threshold for f in found)
    if not found:
        return {"found": 0, "of": 0, "share": None, "interval_95": [0.0, 1.0]}
    interval = binomtest(hits, len(found)).proportion_ci(0.95, "exact")
    return {"found": hits, "of": len(found), "share": hits / len(found), "interval_95": [float(interval.low), float(interval.high)]}


def false_positives(background: Background, candidates: Sequence[Detection], threshold: float) -> dict:
    """Detections in an untouched scan: in its brain, per litre with the exact Poisson interval, at veins, and outside the brain."""
    above = [d for d in candidates if d.score >= threshold]
    inside, litres = [_within(background.brain, d, background) for d in above], background.brain_litres
    false = sum(inside)
    result = {
        "brain_litres": round(litres, 4),
        "false_positives": false,
        "per_litre": false / litres if litres else None,
        "interval_95": poisson(false, litres) if litres else None,  # type: ignore[arg-type]
        "outside_the_brain": len(above) - false,
        "highest_scores": [round(d.score, 4) for d in candidates if _within(background.brain, d, background)][:10],
    }
    if background.veins is not None:
        in_brain = [d for d, yes in zip(above, inside, strict=True) if yes]
        result["at_veins"] = sum(_at_vein(background, d) for d in in_brain)
    return result


def _within(mask: np.ndarray, detection: Detection, background: Background) -> bool:
    """Whether the voxel nearest to a detection belongs to a mask (I, J, K)."""
    voxel = np.rint(index_from_world(np.array([detection.position_mm]), background.affine))[0].astype(int)
    return bool(np.all(voxel >= 0) and np.all(voxel < mask.shape) and mask[tuple(voxel)])


def _at_vein(background: Background, detection: Detection) -> bool:
    marked = np.argwhere(background.veins)
    centre = index_from_world(np.array([detection.position_mm]), background.affine)[0]
    away = np.linalg.norm((marked - centre) * background.spacing_mm, axis=1)
    return bool(away.min(initial=np.inf) <= VEIN_MM)


def _planes(background: Background, swi: np.ndarray, insertion: Insertion) -> Planes:
    at = np.asarray(insertion.at_vox)
    return Planes(background.name, "cmb", cut_planes(swi, at, np.asarray(background.spacing_mm)))


def _quantiles(scores: Sequence[float]) -> dict | None:
    if not scores:
        return None
    return {name: round(float(np.percentile(scores, q)), 4) for name, q in (("p5", 5), ("median", 50), ("p95", 95))}

"""All figures of one release: on the real sites, and on simulated ones whose whole cube is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmb_models.release.bundle import Bundle
from research.real_cubes.control import KnownCube, known_cubes
from research.real_cubes.cube import assemble, middle_planes, one_scale
from research.real_cubes.figures import auc, medians, share
from research.real_cubes.scoring import SiteScore, scorer
from research.real_planes.images import Site, read_sites
from research.real_planes.measures import lesion_figures

FOLDER = "dou_planes"  # of the real planes, in the folder of real files
GENERATIONS = (1, 2)


def measure(bundle: Bundle, data: Path, control_scans: int) -> dict:
    """Figures of a release. data: the folder of real files. Raises InputError without them, and for a release that needs phase."""
    sites, score = read_sites(data / FOLDER), scorer(bundle)
    cubes = [assemble(one_scale(s.planes.pixels)) for s in sites]
    threshold = bundle.config.decision.threshold
    as_given, as_head = (
        real_figures(sites, [score(c, s.axial.pixels, head) for c, s in zip(cubes, sites, strict=True)], threshold)
        for head in (False, True)
    )
    control = {}
    for generation in GENERATIONS if control_scans else ():
        known = known_cubes(generation, control_scans)
        true = [score(k.cube, k.axial) for k in known]
        assembled = [score(assemble(middle_planes(k.cube)), k.axial) for k in known]
        control[f"generation {generation}"] = control_figures(known, true, assembled, threshold)
    appearance = lesion_figures([s.planes for s in sites if s.planes.kind == "cmb"])
    return {"threshold": threshold, **as_given, "appearance": appearance, "with_whole_head_scale": as_head, "control": control}


def real_figures(sites: Sequence[Site], scores: Sequence[SiteScore], threshold: float) -> dict:
    """Shares and area under the ROC curve of N real sites, with intervals over patients."""
    patients = [s.planes.subject for s in sites]
    cmb = [s.planes.kind == "cmb" for s in sites]
    found = [s.found(threshold) for s in scores]
    sure = [s.stage2 > 0.5 for s in scores]

    def of(kind: bool, values: Sequence[bool]) -> dict:
        chosen = [n for n, c in enumerate(cmb) if c is kind]
        return share([patients[n] for n in chosen], [values[n] for n in chosen])

    return {
        "patients": len(set(patients)),
        "real_cmb_found": of(True, found),
        "real_false_positives_above_threshold": of(False, found),
        "real_patch_auc": auc(patients, cmb, [s.fused for s in scores]),
        "classifier_auc": auc(patients, cmb, [s.stage2 for s in scores]),
        "candidate_network_auc": auc(patients, cmb, [s.stage1 for s in scores]),
        "classifier_above_half": {"cmb": of(True, sure), "false_positive": of(False, sure)},
        "medians": {
            kind: medians([s for s, c in zip(scores, cmb, strict=True) if c is flag])
            for kind, flag in (("cmb", True), ("false_positive", False))
        },
    }


def control_figures(
    known: Sequence[KnownCube], true: Sequence[SiteScore], assembled: Sequence[SiteScore], threshold: float
) -> dict:
    """Medians, shares above the threshold and area under the ROC curve, of true cubes and of those assembled from their planes."""
    cmb = np.array([k.label == "cmb" for k in known], dtype=bool)
    subjects = [k.subject for k in known]
    result: dict = {}
    for name, scores in (("true", true), ("assembled", assembled)):
        rows = {}
        for kind, flag in (("cmb", cmb), ("mimic", ~cmb)):
            chosen = [scores[n] for n in np.flatnonzero(flag)]
            above = sum(s.found(threshold) for s in chosen)
            rows[kind] = medians(chosen) | {"above_threshold": above}
        result[name] = rows | {"auc": auc(subjects, cmb.tolist(), [s.fused for s in scores])["auc"]}
    difference = [abs(a.fused - t.fused) for t, a in zip(true, assembled, strict=True)]
    same = [a.found(threshold) == t.found(threshold) for t, a in zip(true, assembled, strict=True)]
    result["median_change_of_fused"] = round(float(np.median(difference)), 4) if difference else None
    result["same_decision"] = {"count": int(np.sum(same)), "of": len(same)}
    return result

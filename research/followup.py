"""How well `cmb compare-scans` finds new microbleeds: simulated pairs of scans of one head, whose new lesions are known.

    python -m research.followup FOLDER [--pairs 30] [--out research/results/followup.json]

Each pair is simulated with UK Biobank's protocol, detected in by the base release and registered; FOLDER keeps what each gave, so
that a second call only compares again. Every third follow-up is also registered with another head, which must be noticed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

import cmb_models
from cmb_models.detection import Detection, DetectionResult
from cmb_models.errors import InputError
from cmb_models.evaluation.statistics.bootstrap import wilson
from cmb_models.files import read_json, write_json
from cmb_models.followup.compare import SAME_HEAD, compare_registered, in_view, is_cut, places_mm
from cmb_models.followup.correspondence import FAR
from cmb_models.followup.severity import CLASSES, severity
from cmb_models.phantom import SimulatedScan, draw_config, scan, simulate_scan, simulate_subject
from cmb_models.registration import Registration, register
from cmb_models.registration.evidence import mapped
from cmb_models.volume import Volume

SEED = 7_300_000
PROTOCOL = "ukb"
# New lesions of the pairs, in turn: a fifth has none, and all classes of severity with their borders occur.
NEW = (0, 4, 0, 1, 9, 2, 10, 5, 0, 3, 12, 4, 6, 0, 1, 8, 14, 2, 5, 0, 11, 3, 7, 1, 4, 0, 9, 10, 2, 16)
TOLERANCE_MM = 3.0
MOST_BASELINE = 8
MOST_DEG, MOST_MM = 10.0, 15.0  # of the head in the scanner at follow-up, with its slab
OTHER_HEADS = 3  # the follow-up of every third pair is also registered with another head
LAID = (4.0, 5.0)  # degrees and mm, standard deviations of the slab on the head: as another technician lays it


def simulate_pair(number: int) -> tuple[SimulatedScan, SimulatedScan, np.ndarray]:
    """Both time points of a head, and the (4, 4) in mm by which the second was moved in the scanner, after its simulation."""
    rng = np.random.default_rng((SEED, number))
    before = int(rng.integers(0, MOST_BASELINE + 1))
    scan.LAID = LAID
    one, other = simulate_subject(SEED + number, (before, before + NEW[number % len(NEW)]), draw_config(PROTOCOL, rng))
    axis, shift = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(axis * rng.uniform(0, MOST_DEG), degrees=True).as_matrix()
    pose[:3, 3] = shift * rng.uniform(0, MOST_MM)
    return one, other, pose


def run_pair(number: int, detector: cmb_models.Detector) -> dict:
    """What one pair gave, as plain JSON; positions of each scan in its own frame."""
    one, other, pose = simulate_pair(number)
    baseline, followup = one.swi, Volume(other.swi.data, pose @ other.swi.affine)
    head = pose @ np.array(other.truth["head_to_world"]) @ np.linalg.inv(one.truth["head_to_world"])
    return {
        "number": number,
        "baseline_to_followup": head.tolist(),
        "baseline_cmbs": cmbs(one, np.eye(4)),
        "followup_cmbs": cmbs(other, pose),
        "registration": registered(followup, baseline),
        "other_head": registered(followup, stranger(number)) if number % OTHER_HEADS == 0 else None,
        "baseline": answer(detector.detect(baseline), baseline),
        "followup": answer(detector.detect(followup), followup),
    }


def stranger(number: int) -> Volume:
    rng = np.random.default_rng((SEED, 1000 + number))
    return simulate_scan(SEED + 1000 + number, 0, draw_config(PROTOCOL, rng)).swi


def cmbs(simulated: SimulatedScan, pose: np.ndarray) -> list[dict]:
    return [
        {"centre_mm": mapped(pose, np.array(a.centre_mm))[0].tolist(), "diameter_mm": a.diameter_mm}
        for a in simulated.annotations
        if a.is_cmb
    ]


def registered(fixed: Volume, moving: Volume) -> dict:
    try:
        found = asdict(register(fixed, moving))
    except InputError as error:
        return {"error": error.as_dict()}
    return found | {"moving_to_fixed": found["moving_to_fixed"].tolist()}


def answer(result: DetectionResult, volume: Volume) -> dict:
    rows = [asdict(c) for c in result.candidates]
    return {"threshold": result.threshold, "candidates": rows, "affine": volume.affine.tolist(), "shape": volume.data.shape}


def compared(row: dict) -> dict:
    """The product's comparison of a pair, counted against what was simulated; places are seen by the field of view alone.

    A lesion is found by a detection within max(3 mm, its radius). A new lesion could be seen if the follow-up finds it and the
    baseline's field of view holds its place. False new ones are findings called new where no new lesion is: a false positive of the
    follow-up, or a lesion that the baseline has.
    """
    registration = Registration(**row["registration"] | {"moving_to_fixed": np.array(row["registration"]["moving_to_fixed"])})
    baseline, followup = (result(row[name]) for name in ("baseline", "followup"))
    seen_baseline = seen(row["followup"], registration.to_fixed(places_mm(baseline)))
    seen_followup = seen(row["baseline"], registration.to_moving(places_mm(followup)))
    cut = (is_cut(baseline), is_cut(followup))
    found = compare_registered(baseline, followup, registration, seen_baseline, seen_followup, cut=cut)
    places, radii = lesions(row["followup_cmbs"])
    old = len(row["baseline_cmbs"])
    detected = followup.detections
    match = matched(np.array([d.position_mm for d in detected]).reshape(-1, 3), places, radii)
    lesion_of = {detected[d].position_mm: n for d, n in match}
    covered = seen(row["baseline"], mapped(np.linalg.inv(row["baseline_to_followup"]), places))
    could = {n for n in lesion_of.values() if n >= old and covered[n]}
    called = {change: [lesion_of.get(x.followup.position_mm, -1) for x in found.of(change)] for change in ("new", "uncertain-new")}
    new = len(places) - old
    error_mm = np.linalg.norm(registration.to_fixed(lesions(row["baseline_cmbs"])[0]) - places[:old], axis=1)
    return {
        "new": new,
        "could_be_seen": len(could),
        "called_new": len(could & set(called["new"])),
        "called_uncertain": len(could & set(called["uncertain-new"])),
        "false_new_by_false_positive": sum(n < 0 for n in called["new"]),
        "false_new_of_old_lesion": sum(0 <= n < old for n in called["new"]),
        "counted": len(found.of("new")),
        "severity": severity(new),
        "severity_of_those_seen": severity(len(could)),
        "severity_found": found.severity,
        "most_probable": max(found.probabilities, key=lambda name: found.probabilities[name]),
        "expected_new": found.expected_new,
        "probabilities": found.probabilities,
        "registration_error_mm": error_mm.tolist(),
        "localisation_error_mm": [float(np.linalg.norm(np.array(detected[d].position_mm) - places[n])) for d, n in match],
    }


def result(saved: dict) -> DetectionResult:
    rows = (c | {"position_mm": tuple(c["position_mm"]), "index": tuple(c["index"])} for c in saved["candidates"])
    return DetectionResult(tuple(Detection(**c) for c in rows), saved["threshold"])


def seen(saved: dict, world_mm: np.ndarray) -> np.ndarray:
    return in_view(np.array(saved["affine"]), saved["shape"], world_mm)


def lesions(rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([r["centre_mm"] for r in rows]).reshape(-1, 3), np.array([r["diameter_mm"] / 2 for r in rows])


def matched(detections: np.ndarray, places: np.ndarray, radii: np.ndarray) -> list[tuple[int, int]]:
    """Detections (N, 3) and lesions (M, 3), one to one, within the rule of evaluation."""
    apart = np.linalg.norm(detections[:, None] - places[None], axis=2)
    cost = np.where(apart <= np.maximum(TOLERANCE_MM, radii), apart, FAR)
    return [(int(d), int(n)) for d, n in zip(*linear_sum_assignment(cost), strict=True) if cost[d, n] < FAR]


def spread(values: np.ndarray) -> dict[str, float]:
    return {"rms": float(np.sqrt(np.square(values).mean())), "max": float(values.max())} if len(values) else {}


def summary(rows: list[dict]) -> dict:
    """All pairs together; rates with Wilson's 95 % intervals."""
    registered_rows = [r for r in rows if "error" not in r["registration"]]
    one_head = [r for r in registered_rows if r["registration"]["detail"] >= SAME_HEAD]
    pairs = [compared(r) for r in one_head]
    total = {k: sum(p[k] for p in pairs) for k in ("new", "could_be_seen", "called_new", "called_uncertain")}
    false = {k: sum(p[k] for p in pairs) for k in ("false_new_by_false_positive", "false_new_of_old_lesion")}
    right = sum(p["severity"] == p["severity_found"] for p in pairs)
    right_seen = sum(p["severity_of_those_seen"] == p["severity_found"] for p in pairs)
    errors = {k: np.concatenate([p[k] for p in pairs]) for k in ("registration_error_mm", "localisation_error_mm")}
    others = [r["other_head"] for r in rows if r["number"] % OTHER_HEADS == 0]
    details = [o["detail"] for o in others if "error" not in o]
    return {
        "protocol": PROTOCOL,
        "pairs": len(rows),
        "compared": len(pairs),
        "lesions": total | {"called_new_95": wilson(total["called_new"], total["could_be_seen"])},
        "false_new": false | {"per_pair": sum(false.values()) / len(pairs)},
        "severity": {
            "right": right,
            "right_for_those_seen": right_seen,
            "most_probable_right": sum(p["severity"] == p["most_probable"] for p in pairs),
            "most_probable_right_of": {
                name: sum(p["most_probable"] == name for p in pairs if p["severity"] == name) for name in CLASSES
            },
            "right_95": wilson(right, len(pairs)),
            "true": {name: sum(p["severity"] == name for p in pairs) for name in CLASSES},
            "mean_probability_of_true_class": float(np.mean([p["probabilities"][p["severity"]] for p in pairs])),
        },
        "expected_new": sum(p["expected_new"] for p in pairs),
        "error_mm": {name.removesuffix("_error_mm"): spread(values) for name, values in errors.items()},
        "same_head": {"pairs": len(registered_rows), "detail_min": min(r["registration"]["detail"] for r in registered_rows)},
        "other_head": {
            "pairs": len(others),
            "rejected": len(others) - sum(d >= SAME_HEAD for d in details),
            "detail_max": max(details, default=None),
        },
        "by_pair": [{k: v for k, v in p.items() if not k.endswith("_mm")} for p in pairs],
    }


def main(
    folder: Annotated[Path, typer.Argument(help="Folder for what each pair gave; finished pairs are kept.")],
    pairs: Annotated[int, typer.Option(min=1)] = 30,
    out: Annotated[Path, typer.Option()] = Path("research/results/followup.json"),
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with cmb_models.load("base", threads=1, device="cpu") as detector:
        for number in range(pairs):
            file = folder / f"pair-{number:02d}.json"
            if not file.is_file():
                write_json(file, run_pair(number, detector))
                print(f"pair {number + 1} of {pairs}", flush=True)
    figures = summary([read_json(folder / f"pair-{number:02d}.json") for number in range(pairs)])
    write_json(out, figures)
    print(json.dumps({k: v for k, v in figures.items() if k != "by_pair"}, indent=2))


if __name__ == "__main__":
    typer.run(main)

"""How well `cmb compare-scans` finds new microbleeds: simulated pairs of scans of one head, whose new lesions are known.

    python -m research.followup FOLDER [--pairs 30] [--out research/results/followup.json]

Each pair is simulated with UK Biobank's protocol, detected in by the base release and registered; FOLDER keeps what each gave, so
that a second call only compares again. Every third follow-up is also registered with another head, which must be noticed.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.spatial.transform import Rotation

import cmb_models
from cmb_models.detection import DetectionResult
from cmb_models.errors import InputError
from cmb_models.files import write_json
from cmb_models.phantom import SimulatedScan, draw_config, scan, simulate_scan, simulate_subject
from cmb_models.registration import register
from cmb_models.registration.evidence import mapped
from cmb_models.volume import Volume

SEED = 7_300_000
PROTOCOL = "ukb"
# New lesions of the pairs, in turn: a fifth has none, and all classes of severity with their borders occur.
NEW = (0, 4, 0, 1, 9, 2, 10, 5, 0, 3, 12, 4, 6, 0, 1, 8, 14, 2, 5, 0, 11, 3, 7, 1, 4, 0, 9, 10, 2, 16)
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


if __name__ == "__main__":
    typer.run(main)

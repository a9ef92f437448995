"""Is the phantom hard enough? Stage 1 alone on a set of mixed presets: how many false positives a scan it takes to reach 97.5 % of
the microbleeds, and what those false positives are.

    python -m benchmarks.phantom_hardness demo/models/bundle [--scans 30 --cmbs 60 --seed 900] [--preset ...]

The networks must not have seen the scans: take a seed that no training set had. Writes reports/benchmarks/phantom_hardness.json.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import track
from scipy import ndimage

from cmb_models.bundle import BundleDetector
from cmb_models.evaluation.froc import STANDARD_FP, froc
from cmb_models.evaluation.matching import ScoredScan, match
from cmb_models.files import write_json
from cmb_models.io.nifti import read_volume
from cmb_models.io.site import ScanFile, find_scans
from cmb_models.phantom import write_dataset
from cmb_models.phantom.presets import MIXED
from cmb_models.volume import index_from_world

TOLERANCE_MM = 3.0
WANTED = 0.975  # sensitivity of the paper's claim
VEIN_MM = 2.0  # a false positive this near a vein is one of veins
REPORT = Path("reports/benchmarks/phantom_hardness.json")


def stage1(bundle: Path, scans: list[ScanFile]) -> list[ScoredScan]:
    """Every candidate with the first network's score alone."""
    detector, found = BundleDetector(bundle), []
    for scan in track(scans, "stage 1"):
        candidates = detector(read_volume(scan.path), scan.key).candidates
        centres = np.array([c.world_mm for c in candidates]).reshape(-1, 3)
        scores = np.array([c.stage1_score for c in candidates])
        found.append(ScoredScan(scan.key, scan.subject_key, scan.annotations, centres, scores))
    return found


def cause(scan: ScanFile, dataset: Path, centre_mm: np.ndarray) -> str:
    """What lies at a false positive: the nearest labelled mimic, else a vein, else a microbleed found already, or nothing known."""
    away = [(np.linalg.norm(np.subtract(a.centre_mm, centre_mm)) - a.diameter_mm / 2, a) for a in scan.annotations]
    near = sorted(((d, a.label) for d, a in away if d <= TOLERANCE_MM), key=lambda pair: pair[0])
    mimic = next((label for _, label in near if label != "cmb"), None)
    if mimic:
        return mimic
    name = scan.subject
    veins = read_volume(dataset / f"derivatives/masks/{name}/{name}_vein.nii.gz")
    free_mm = ndimage.distance_transform_edt(veins.data == 0, sampling=veins.spacing_mm)
    at = np.rint(index_from_world(centre_mm, veins.affine)[0]).astype(int)
    if free_mm[tuple(np.clip(at, 0, np.array(veins.data.shape) - 1))] <= VEIN_MM:
        return "vein, not labelled"
    brain = read_volume(dataset / f"derivatives/masks/{name}/{name}_brain.nii.gz").data > 0
    inside = brain[tuple(np.clip(at, 0, np.array(brain.shape) - 1))]
    return "beside a microbleed" if near else "other, in the brain" if inside else "other, outside the brain"


def main(
    bundle: Path,
    scans: int = 30,
    cmbs: int = 60,
    seed: int = 900,
    preset: Annotated[list[str] | None, typer.Option()] = None,
) -> None:
    presets = tuple(preset or MIXED)
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "hardness"
        write_dataset(dataset, scans, cmbs, seed, cmb_free=scans // 5, presets=presets, progress=True)
        files = find_scans(dataset)
        found = stage1(bundle, files)
        curve = froc(found, TOLERANCE_MM)
        reached = np.flatnonzero(curve.sensitivity >= WANTED)
        at = int(reached[0]) if len(reached) else len(curve.thresholds) - 1
        causes: Counter[str] = Counter()
        for file, scan in zip(files, found, strict=True):
            matched = match(scan, curve.thresholds[at], TOLERANCE_MM)
            for n in np.flatnonzero((matched.lesion_of < 0) & ~matched.ignored):
                causes[cause(file, dataset, scan.centres_mm[n])] += 1
    result = {
        "presets": list(presets),
        "scans": curve.n_scans,
        "cmbs": curve.n_lesions,
        "sensitivity_at_fp": {str(f): curve.at_fp(f)[0] for f in STANDARD_FP},
        "highest_sensitivity": float(curve.sensitivity[-1]),
        "fp_per_scan_at_97.5": float(curve.fp_per_scan[at]) if len(reached) else None,
        "false_positives_there": dict(causes.most_common()),
    }
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    write_json(REPORT, result)
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    typer.run(main)

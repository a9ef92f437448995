"""Is the phantom hard enough? Stage 1 alone on a set of mixed presets: how many false positives a scan it takes to reach 97.5 % of
the microbleeds, and what those false positives are.

    python -m research.phantom_hardness demo/models/bundle [--scans 30 --cmbs 60 --seed 900] [--preset ...]

The networks must not have seen the scans: take a seed that no training set had. Writes research/results/phantom_hardness.json.
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

from cmb_models.dataset.layout import ScanFile, find_scans
from cmb_models.evaluation.froc import STANDARD_FP, froc
from cmb_models.evaluation.matching import ScoredScan, match
from cmb_models.files import write_json
from cmb_models.io.nifti import read_volume
from cmb_models.phantom import write_dataset
from cmb_models.phantom.presets import MIXED
from cmb_models.release.bundle import BundleDetector
from cmb_models.volume import index_from_world

TOLERANCE_MM = 3.0
WANTED = 0.975  # sensitivity of the paper's claim
CAUSES_AT_FP = (1.0, 4.0)  # false positives a scan at which their causes are counted
VEIN_MM = 2.0  # a false positive this near a vein is one of veins
REPORT = Path("research/results/phantom_hardness.json")


def stage1(bundle: Path, scans: list[ScanFile]) -> list[ScoredScan]:
    """Every candidate with the first network's score alone."""
    detector, found = BundleDetector(bundle), []
    for scan in track(scans, "stage 1"):
        candidates = detector.detect(scan.path, case=scan.key).candidates
        centres = np.array([c.position_mm for c in candidates]).reshape(-1, 3)
        scores = np.array([c.stage1_score for c in candidates])
        found.append(ScoredScan(scan.key, scan.subject_key, scan.annotations, centres, scores))
    return found


class Causes:
    """What lies at the false positives of one scan."""

    def __init__(self, scan: ScanFile, dataset: Path) -> None:
        folder = dataset / "derivatives" / "masks" / scan.subject
        veins, brain = (read_volume(folder / f"{scan.subject}_{kind}.nii.gz") for kind in ("vein", "brain"))
        self._scan, self._affine, self._brain = scan, veins.affine, brain.data > 0
        self._vein_mm = ndimage.distance_transform_edt(veins.data == 0, sampling=veins.spacing_mm)

    def at(self, centre_mm: np.ndarray) -> str:
        """The nearest labelled mimic, else a vein, else a microbleed found already, or nothing known."""
        away = [(np.linalg.norm(np.subtract(a.centre_mm, centre_mm)) - a.diameter_mm / 2, a) for a in self._scan.annotations]
        near = sorted(((d, a.label) for d, a in away if d <= TOLERANCE_MM), key=lambda pair: pair[0])
        mimic = next((label for _, label in near if label != "cmb"), None)
        if mimic:
            return mimic
        voxel = np.rint(index_from_world(centre_mm, self._affine)[0]).astype(int)
        at = tuple(np.clip(voxel, 0, np.array(self._brain.shape) - 1))
        if self._vein_mm[at] <= VEIN_MM:
            return "vein, not labelled"
        return "next to a microbleed" if near else "other, in the brain" if self._brain[at] else "other, outside the brain"


def causes_at(found: list[ScoredScan], causes: list[Causes], threshold: float) -> dict[str, int]:
    """How many false positives of each cause there are at a threshold."""
    counts: Counter[str] = Counter()
    for scan, own in zip(found, causes, strict=True):
        matched = match(scan, threshold, TOLERANCE_MM)
        counts.update(own.at(scan.centres_mm[n]) for n in np.flatnonzero(matched.false))
    return dict(counts.most_common())


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
        causes = [Causes(file, dataset) for file in files]
        at_fp = {str(f): causes_at(found, causes, curve.at_fp(f)[1]) for f in CAUSES_AT_FP}
    result = {
        "presets": list(presets),
        "scans": curve.n_scans,
        "cmbs": curve.n_lesions,
        "sensitivity_at_fp": {str(f): curve.at_fp(f)[0] for f in STANDARD_FP},
        "highest_sensitivity": float(curve.sensitivity[-1]),
        "fp_per_scan_at_97.5": float(curve.fp_per_scan[reached[0]]) if len(reached) else None,
        "false_positives_at_fp": at_fp,
    }
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    write_json(REPORT, result)
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    typer.run(main)

"""Out-of-distribution scans in a site's layout, with what a reader would mark in annotations.csv."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.progress import track

from cmb_models.dataset.layout import ANNOTATIONS
from cmb_models.errors import InputError
from cmb_models.io.annotations import EmptyReading, write_annotations
from cmb_models.io.nifti import write_volume
from research.ood_simulator.scan import PROTOCOLS, simulate

FREE = 0.2  # share of scans without a microbleed
COUNTS = (((1, 1), 0.49), ((2, 4), 0.28), ((5, 9), 0.10), ((10, 14), 0.13))  # of the others


def write_scans(out: Path, scans: int, seed: int) -> None:
    """Write `scans` subjects, one scan each, with the protocols in turn; annotations.csv comes last.

    Scan n depends on the seed and n alone: of 30 scans the first 20 are those of 20. A folder that holds anything is refused with
    InputError.
    """
    out = Path(out)
    if scans < 1:
        raise InputError("setting-invalid", "--scans", "1 or more", str(scans), "correct the option")
    if out.exists() and any(out.iterdir()):
        raise InputError("folder-taken", out, "a new or empty folder", "one that holds files", "name another, or remove it")
    rows, empty = [], []
    for n in track(range(scans), f"draw {out.name}", transient=True):
        subject, sequence = f"sub-{n + 1:03d}", np.random.SeedSequence([seed, n])
        count = draw_count(np.random.default_rng(sequence.spawn(1)[0]))
        scan = simulate(sequence, PROTOCOLS[n % len(PROTOCOLS)], count, subject)
        write_volume(out / subject / "swi" / f"{subject}_swi.nii.gz", scan.swi, np.int16)
        rows += scan.annotations
        empty += [] if scan.annotations else [EmptyReading(subject, "", "generator")]
    write_annotations(out / ANNOTATIONS, rows, empty)


def draw_count(rng: np.random.Generator) -> int:
    """Number of microbleeds of a scan, heavy-tailed."""
    if rng.random() < FREE:
        return 0
    low, high = COUNTS[rng.choice(len(COUNTS), p=[share for _, share in COUNTS])][0]
    return int(rng.integers(low, high + 1))

"""A site's scans and marks with one patient who is in two datasets, and what remains after a withdrawal."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from cmb_models.io.nifti import write_volume
from cmb_models.registry.withdrawal.remaining import remaining
from cmb_models.registry.withdrawal.withdraw import withdraw
from cmb_models.volume import Volume

RAW = Path("data/raw")
ROWS = "subject;session;x_mm;y_mm;z_mm;diameter_mm;label;rater;seen\r\n"
OF_SUB_1 = "sub-1;;1,5;2;3;3;cmb;AB;yes\r\n"
OTHERS = "sub-10;;1,5;2;3;3;cmb;AB;sub-1\r\n\r\nsub-2;;;;;;none;AB;\r\n"


def swi(subject: str, dataset: str = "site") -> Path:
    return RAW / dataset / subject / "swi" / f"{subject}_swi.nii.gz"


def write_scan(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_volume(file, Volume(np.random.default_rng(seed).uniform(0, 9, (4, 5, 6)).astype(np.float32), np.diag([1.0, 1, 2, 1])))


def write_data() -> None:
    """site: sub-1 with phase and mask, sub-10, sub-2; locked: another sub-1, and sub-7, which is sub-1 of site saved again."""
    for subject, seed in (("sub-1", 1), ("sub-10", 10), ("sub-2", 2)):
        write_scan(swi(subject), seed)
    write_scan(swi("sub-1").with_name("sub-1_part-phase_swi.nii.gz"), 101)
    write_scan(RAW / "site/derivatives/masks/sub-1/brain.nii.gz", 102)
    (RAW / "site/participants.tsv").write_text("participant_id\tage\nsub-1\t61\nsub-10\t70\n")
    (RAW / "site/annotations.csv").write_bytes(f"\ufeff{ROWS}{OF_SUB_1}{OTHERS}{OF_SUB_1}".encode())
    (RAW / "site/derivatives/readings").mkdir(parents=True)
    (RAW / "site/derivatives/readings/rater-CD.csv").write_bytes(f"{ROWS}{OTHERS}{OF_SUB_1}".encode())
    write_scan(swi("sub-1", "locked"), 21)
    swi("sub-7", "locked").parent.mkdir(parents=True)
    swi("sub-7", "locked").write_bytes(gzip.compress(gzip.decompress(swi("sub-1").read_bytes()), 1))
    (RAW / "locked/annotations.csv").write_text("subject,session,x_mm,y_mm,z_mm,diameter_mm,label,rater\nsub-7,,1,2,3,3,cmb,AB\n")


def tree() -> dict[str, bytes]:
    return {p.as_posix(): p.read_bytes() for p in sorted(RAW.rglob("*")) if p.is_file()}


def constant() -> bytes:
    write_volume(Path("constant.nii.gz"), Volume(np.full((4, 5, 6), 7, np.float32), np.diag([1.0, 1, 2, 1])))
    return Path("constant.nii.gz").read_bytes()


def steps_of(folder: Path, *arguments, **more) -> str:
    return "\n".join(remaining(folder, withdraw(*arguments, **more)))

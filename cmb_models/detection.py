"""What the detector says of a place in a scan."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Detection:
    """One place reported as a microbleed, in the space of the scan that was given.

    world_mm: centre in scanner RAS mm. index: nearest voxel (i, j, k) of the scan as stored.
    diameter_mm: equivalent-sphere diameter as seen, blooming included. All scores in [0, 1]: `score` is the calibrated one
    that thresholds apply to, `stage1_score` the U-Net's and `stage2_score` the CNN's.
    """

    world_mm: tuple[float, float, float]
    index: tuple[int, int, int]
    diameter_mm: float
    score: float
    stage1_score: float
    stage2_score: float


@dataclass(frozen=True)
class Answer:
    """All detections of one scan, best first, and which release gave them (0 and '' for a bundle never registered)."""

    detections: list[Detection] = field(default_factory=list)
    release: int = 0
    manifest_sha256: str = ""

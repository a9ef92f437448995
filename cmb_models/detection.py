"""What the detector says of places in a scan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Detection:
    """One place that may be a microbleed, in the space of the scan that was given.

    position_mm: centre in scanner RAS mm. index: nearest voxel (i, j, k) of the scan as stored.
    diameter_mm: equivalent-sphere diameter as seen, blooming included. All scores in [0, 1]: `score` is the calibrated one
    that thresholds apply to, `stage1_score` the U-Net's and `stage2_score` the CNN's.
    """

    position_mm: tuple[float, float, float]
    index: tuple[int, int, int]
    diameter_mm: float
    score: float
    stage1_score: float
    stage2_score: float


@dataclass(frozen=True)
class DetectionResult:
    """All scored candidates of one scan, best first, the release's threshold, and which release answered.

    release and manifest_sha256 are 0 and "" for a bundle that was never registered.
    """

    candidates: tuple[Detection, ...]
    threshold: float
    release: int = 0
    manifest_sha256: str = ""

    @property
    def detections(self) -> tuple[Detection, ...]:
        """The candidates that reach the release's threshold; () when none does."""
        return self.above(self.threshold)

    def above(self, threshold: float) -> tuple[Detection, ...]:
        """The candidates that reach another operating point's threshold."""
        return tuple(c for c in self.candidates if c.score >= threshold)

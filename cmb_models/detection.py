"""The detector interface and its result types."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, Self

from cmb_models.errors import InputError, optional_packages
from cmb_models.volume import UNPLACED, ScanLike, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

NOWHERE = (math.nan, math.nan, math.nan)
RESEARCH_USE = "research software, not a medical device"
TABLE = ("x_mm", "y_mm", "z_mm", "i", "j", "k", "diameter_mm", "score", "stage1_score", "stage2_score")


@dataclass(frozen=True)
class Detection:
    """One detected location, in the space of the input scan.

    Attributes:
        position_mm: Centre (x, y, z) in scanner RAS mm; NaN for a scan that is not `Volume.in_scanner`.
        index: Nearest voxel (i, j, k) of the scan as stored.
        diameter_mm: Equivalent-sphere diameter in the image, blooming included.
        score: Calibrated score in [0, 1], to which thresholds apply.
        stage1_score: The candidate network's score in [0, 1].
        stage2_score: The classifier's score in [0, 1].
    """

    position_mm: tuple[float, float, float]
    index: tuple[int, int, int]
    diameter_mm: float
    score: float
    stage1_score: float
    stage2_score: float


@dataclass(frozen=True)
class DetectionResult:
    """The detections of a release in one scan.

    Attributes:
        candidates: All scored candidates, best first; () if there are none.
        threshold: The release's operating point on the calibrated score, in [0, 1].
        release: Number of the release; 0 for an unregistered bundle.
        manifest_sha256: SHA-256 of the bundle's manifest; "" if unknown.
        volume: The scan as stored, for `plot`; None if it was dropped. Ignored in comparisons.
        origin: Description of the base release, if the result is its; "" for any other release. Ignored in comparisons.
    """

    candidates: tuple[Detection, ...]
    threshold: float
    release: int = 0
    manifest_sha256: str = ""
    volume: Volume | None = field(default=None, compare=False, repr=False)
    origin: str = field(default="", compare=False)

    @property
    def detections(self) -> tuple[Detection, ...]:
        """The candidates at or above the release's threshold; () if there are none."""
        return self.above(self.threshold)

    def found_in(self, volume: Volume) -> DetectionResult:
        """The result with its scan; without millimetres where that is not in scanner space."""
        if volume.in_scanner:
            return replace(self, volume=volume)
        return replace(self, volume=volume, candidates=tuple(replace(c, position_mm=NOWHERE) for c in self.candidates))

    def above(self, threshold: float) -> tuple[Detection, ...]:
        """The candidates with a score of at least `threshold`, best first."""
        return tuple(c for c in self.candidates if c.score >= threshold)

    def to_dataframe(self, threshold: float | None = None) -> DataFrame:
        """The detections as a table. Needs the `analysis` extra.

        Args:
            threshold: Lowest score to list, in [0, 1]; the release's threshold if None.

        Returns:
            One row per detection, best first, with the columns of TABLE; no rows if there are no detections.
        """
        with optional_packages("to_dataframe"):
            from pandas import DataFrame

        found = self.above(self.threshold if threshold is None else threshold)
        rows = [(*d.position_mm, *d.index, d.diameter_mm, d.score, d.stage1_score, d.stage2_score) for d in found]
        return DataFrame(rows, columns=list(TABLE))

    def plot(self, volume: Volume | None = None, *, threshold: float | None = None, title: str = "") -> Figure:
        """Plot the scan as axial minimum-intensity slabs with its detections circled, and the best ones enlarged.

        Needs the `analysis` extra.

        Args:
            volume: The scan to draw on; the result's own if None.
            threshold: Lowest score to show, in [0, 1]; the release's threshold if None.
            title: Text at the top left, such as the scan's name.

        Returns:
            A matplotlib figure, not registered with pyplot.

        Raises:
            InputError: If the result does not hold its volume and none is passed, the volume is not in scanner space, or the
                extra is not installed.
        """
        from cmb_models.figures.findings import findings_figure

        volume = self.volume if volume is None else volume
        if volume is None:
            raise InputError("results-incomplete", "plot", "a volume to draw on", "a result without one", "pass the scan's volume")
        if not volume.in_scanner:  # a picture would name sides that are unknown
            raise InputError("scan-space", "plot", "a scan in scanner space", UNPLACED, "look at the voxel indices in a viewer")
        threshold = self.threshold if threshold is None else threshold
        found = self.above(threshold)
        findings = {0: "no detections", 1: "1 detection"}.get(len(found), f"{len(found)} detections")
        release = f"release {self.release}" if self.release else self.origin or "unregistered bundle"
        with optional_packages("plot"):
            return findings_figure(volume, found, title, f"{findings} at threshold {threshold:.3f}   |   {release}", RESEARCH_USE)


class Detector(Protocol):
    """Detects microbleeds, in this process (release.bundle.BundleDetector) or on a server (client.grpc.Client).

    A context manager: leaving it closes the detector.
    """

    @property
    def requires_phase(self) -> bool:
        """Whether the release needs each scan's phase image. A server is queried each time, since its release may change."""
        ...

    def detect(self, scan: ScanLike, phase: ScanLike | None = None, *, case: str | None = None) -> DetectionResult:
        """Detect microbleeds in one scan.

        Args:
            scan: Path of a NIfTI file, a nibabel image, or a Volume (I, J, K) in any orientation.
            phase: The scan's phase image, on the same grid. Not opened unless the release requires phase. If None and `scan` is a
                path, the phase image is read from the file next to it.
            case: Name of the scan in error messages; if None, the file's name, or "scan" without a file.

        Returns:
            Detections in the space of the scan, with the scan's volume.

        Raises:
            InputError: If the scan is not a usable SWI scan, or its phase image is missing or does not match it.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

"""Writing a scan's report, and the check that what it needs is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_models.errors import InputError
from cmb_models.files import write_text

if TYPE_CHECKING:
    from cmb_models.client.outputs import ScanResult
    from cmb_models.detection import Detector
    from cmb_models.release.bundle import Bundle
    from cmb_models.volume import Volume

PACKAGES = {"jinja2": "jinja2", "PIL": "pillow", "scipy": "scipy"}  # module: package


def check_reporting(report: bool) -> None:
    """Raise InputError if reports are requested and a package that they need is missing."""
    missing = [package for module, package in PACKAGES.items() if report and importlib.util.find_spec(module) is None]
    if missing:
        remedy = "run pip install 'cmb-models[analysis]', or leave out --report"
        raise InputError("package-missing", "reports", ", ".join(missing), "none", remedy)


def write_report_of(
    folder: Path | None,
    result: ScanResult,
    volume: Volume,
    detector: Detector,
    regions: Sequence[str] | None = None,
    without_regions: str = "",
) -> Path | None:
    """Write FOLDER/SCAN.html for a result of a detector; None, and no file, without a folder or a place in scanner space.

    A detector that runs in this process brings its bundle, with which the scan is compared; a server does not.

    Raises:
        InputError: If the disk is full or the folder cannot be written to.
    """
    if folder is None or not volume.in_scanner:
        return None
    path = folder / f"{result.scan}.html"
    write_scan_report(
        path,
        result,
        volume,
        bundle=getattr(detector, "bundle", None),
        uses_phase=detector.requires_phase,
        regions=regions,
        without_regions=without_regions,
    )
    return path


def write_scan_report(
    path: Path,
    result: ScanResult,
    volume: Volume,
    *,
    bundle: Bundle | None = None,
    uses_phase: bool = False,
    regions: Sequence[str] | None = None,
    without_regions: str = "",
    created: datetime | None = None,
) -> None:
    """Write a scan's report, a self-contained HTML file, atomically.

    Args:
        path: The file to write.
        result: Of a processed scan.
        volume: The scan as stored, (I, J, K), any orientation, finite values, in scanner space.
        bundle: The release, whose training data the scan is compared with; None if it is not at hand.
        uses_phase: Whether the release uses the phase image.
        regions: One of REGIONS for each of `result.detections`, "" for unknown; None to leave the column out.
        without_regions: Why there are none, for the notes on quality; "" to say nothing.
        created: Date on the page; None for now.

    Raises:
        InputError: If the volume is not in scanner space, the disk is full or the folder cannot be written to.
        ValueError: If the result is of a rejected scan, or regions are too few, too many or unknown.
    """
    from cmb_models.regions import REGIONS  # here, since it needs SciPy, which a client without reports lacks
    from cmb_models.report.scan.page import render
    from cmb_models.volume import UNPLACED

    if result.answer is None:
        raise ValueError(f"expected the result of a processed scan, got one that was rejected: {result.error}")
    if not volume.in_scanner:  # a picture would name sides that are unknown
        raise InputError("scan-space", result.file, "a scan in scanner space", UNPLACED, "correct its header")
    allowed = (*REGIONS, "")
    if regions is not None and (len(regions) != len(result.detections) or not set(regions) <= set(allowed)):
        raise ValueError(f"expected one of {allowed} for each of {len(result.detections)} findings, got {list(regions)}")
    write_text(Path(path), render(result, volume, bundle, uses_phase, regions, without_regions, created or datetime.now(UTC)))

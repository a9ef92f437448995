"""The page of one scan as self-contained HTML."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmb_models import __version__
from cmb_models.client.outputs import ScanResult
from cmb_models.dataset.statistics import training_references
from cmb_models.detect.fusion import before_calibration
from cmb_models.detection import RESEARCH_USE, Detection
from cmb_models.errors import printable
from cmb_models.evaluation.operating_point import shortfalls
from cmb_models.evaluation.statistics.counts import STRATA, stratum
from cmb_models.figures.views import BACKGROUND, CROP_MM, FAINT, INK, MARGIN_MM, RING, View
from cmb_models.outputs.extent import instance_labels, volumes_mm3
from cmb_models.report.environment import environment
from cmb_models.report.scan.embedded import Embedded, embed
from cmb_models.report.scan.pictures import Drawing, draw_slabs, draw_triplet
from cmb_models.report.scan.quality import compare, quality_notes
from cmb_models.volume import Volume

if TYPE_CHECKING:
    from cmb_models.release.bundle import Bundle

TEMPLATE = "scan.html.j2"
NIIVUE = Path(__file__).with_name("niivue") / "niivue.umd.js.gz"  # 0.69.0
MOST_BYTES = 6_000_000  # of a page: opens at once, and goes through mail and most archives
PICTURE_BYTES = 2_000_000  # of three planes of each finding; those beyond are listed without
NETWORKS = ("candidate network", "classifier")


@dataclass(frozen=True)
class Finding:
    """A row of the page. drawing: None beyond PICTURE_BYTES. rejected_by: one of NETWORKS, "" for a finding. region: or ""."""

    number: int
    detection: Detection
    volume_mm3: float | None
    drawing: Drawing | None
    region: str
    rejected_by: str


def render(
    result: ScanResult,
    volume: Volume,
    bundle: Bundle | None,
    uses_phase: bool,
    regions: Sequence[str] | None,
    without_regions: str,
    created: datetime,
) -> str:
    """The page as HTML; arguments as of `write_scan_report`."""
    assert result.answer is not None
    view = View(volume.to_ras())
    found = result.detections
    listed = _findings(result, volume, view, regions)
    below = _rejected(result, bundle, len(found))
    rows: dict[str, Any] = {
        "result": result,
        "answer": result.answer,
        "name": printable(result.scan),
        "shown_file": printable(str(result.file)),
        "threshold": result.threshold_used,
        "findings": listed,
        "below": below,
        "has_regions": regions is not None,
        "by_region": ", ".join(f"{count} {region}" for region, count in Counter(filter(None, regions or ())).most_common()),
        "without_picture": sum(f.drawing is None for f in listed),
        "stratum": STRATA[int(stratum(np.array([len(found)]))[0])].replace("10 or more", "≥ 10").replace("-", "–"),
        "slabs": draw_slabs(view, found),
        "notes": quality_notes(volume, view, uses_phase, result.warning, without_regions),
        "compared": compare(volume, training_references(bundle.metadata)) if bundle else [],
        "has_bundle": bundle is not None,
        "crop_mm": CROP_MM,
        "colours": {"background": BACKGROUND, "ink": INK, "faint": FAINT, "ring": RING},
        "created": created.strftime("%Y-%m-%d %H:%M UTC"),
        "software": f"cmb-models {__version__}",
        "research_use": RESEARCH_USE,
        "licences": NIIVUE.with_name("LICENSES.txt").read_text(encoding="utf-8"),
        "niivue": base64.b64encode(NIIVUE.read_bytes()).decode("ascii"),
    }
    page = environment().get_template(TEMPLATE)
    nothing = Embedded("", (1.0, 1.0, 1.0), (1, 1, 1), 128, True, np.zeros(3), np.ones(3))
    bare = page.render(**rows, embedded=nothing, places="")
    embedded = embed(view, MOST_BYTES - len(bare.encode("utf-8")) - _bytes_of_places(listed, below))
    return page.render(**rows, embedded=embedded, places=_places(view, embedded, [*listed, *below]))


def _findings(result: ScanResult, volume: Volume, view: View, regions: Sequence[str] | None) -> list[Finding]:
    found, budget = result.detections, PICTURE_BYTES
    sizes = volumes_mm3(instance_labels(volume, found), len(found), volume)
    rows = []
    for n, (detection, size, region) in enumerate(zip(found, sizes, regions or [""] * len(found), strict=True), start=1):
        drawing = draw_triplet(view, detection, n) if budget > 0 else None
        budget -= len(drawing.uri) if drawing else 0
        rows.append(Finding(n, detection, float(size), drawing, region, ""))
    return rows


def _rejected(result: ScanResult, bundle: Bundle | None, found: int) -> list[Finding]:
    """The candidates below the threshold, numbered on from the findings, with the network that rejected each.

    Of a known release it is the one whose score accounts for more of what the fused score lacks, as in the evaluation's rows;
    without its weights, as in candidates.csv, the one with the lower score.
    """
    assert result.answer is not None
    rows = []
    for n, detection in enumerate(result.answer.candidates[found:], start=found + 1):
        by_classifier = detection.stage1_score >= detection.stage2_score
        if bundle is not None:
            decision = bundle.config.decision
            scores = (np.array(detection.stage1_score), np.array(detection.stage2_score))
            first, second = shortfalls(*scores, decision, before_calibration(result.threshold_used, decision))
            by_classifier = bool(second > first)
        rows.append(Finding(n, detection, None, None, "", NETWORKS[by_classifier]))
    return rows


def _places(view: View, embedded: Embedded, rows: Sequence[Finding]) -> str:
    """JSON for the viewer: of each row its number, its place in the volume, its ring's radius in mm, whether it is a finding."""
    places = [
        {
            "number": row.number,
            "at": embedded.fraction(view.voxel(row.detection.position_mm)),
            "radius": round(row.detection.diameter_mm / 2 + MARGIN_MM, 2),
            "finding": not row.rejected_by,
        }
        for row in rows
    ]
    extent = [round(n * s, 4) for n, s in zip(embedded.shape, embedded.spacing_mm, strict=True)]
    return json.dumps({"extent": extent, "places": places}, separators=(",", ":"))


def _bytes_of_places(*rows: Sequence[Finding]) -> int:
    """More than `_places` and the sentence on the volume take."""
    return 2_000 + 150 * sum(map(len, rows))

"""The page of a comparison of two scans of a patient, self-contained HTML."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmb_models import __version__
from cmb_models.detection import RESEARCH_USE
from cmb_models.errors import printable
from cmb_models.figures.views import BACKGROUND, CROP_MM, FAINT, INK, RING, View
from cmb_models.files import write_text

if TYPE_CHECKING:
    from cmb_models.client.outputs import ScanResult
    from cmb_models.followup.compare import Comparison, Lesion
    from cmb_models.report.scan.pictures import Drawing

TEMPLATE = "change.html.j2"
PICTURE_BYTES = 5_000_000  # of all pictures; lesions beyond are listed without


@dataclass(frozen=True)
class Row:
    """A lesion of the page. name: of its class. place: (axis, mm) in the follow-up. before, after: None without pictures."""

    number: int
    lesion: Lesion
    name: str
    place: tuple[tuple[str, float], ...]
    before: Drawing | None
    after: Drawing | None


def write_change_page(
    path: Path, comparison: Comparison, baseline: ScanResult, followup: ScanResult, created: datetime | None = None
) -> None:
    """Write the page of a comparison, atomically.

    Args:
        path: The file to write.
        comparison: Of two results with their volumes.
        baseline: The baseline's result.
        followup: The follow-up's result; it names the page.
        created: Date on the page; None for now.

    Raises:
        InputError: If the disk is full or the folder cannot be written to.
    """
    from cmb_models.followup.outputs import CUT
    from cmb_models.report.environment import environment

    rows = _rows(comparison)
    values: dict[str, Any] = {
        "comparison": comparison,
        "counts": comparison.counts,
        "rows": rows,
        "without_picture": sum(row.before is None for row in rows),
        "scans": (("baseline", baseline), ("follow-up", followup)),
        "answer": comparison.followup,
        "name": printable(followup.scan),
        "printable": printable,
        "cut": CUT if any(comparison.is_cut) else "",
        "crop_mm": CROP_MM,
        "colours": {"background": BACKGROUND, "ink": INK, "faint": FAINT, "ring": RING},
        "created": (created or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        "software": f"cmb-models {__version__}",
        "research_use": RESEARCH_USE,
    }
    write_text(Path(path), environment().get_template(TEMPLATE).render(**values))


def _rows(comparison: Comparison) -> list[Row]:
    from cmb_models.followup.figure import NAMES
    from cmb_models.registration import resample
    from cmb_models.report.scan.pictures import draw_triplet

    before, after = comparison.baseline.volume, comparison.followup.volume
    if before is None or after is None:
        raise ValueError("expected a comparison of results with their volumes")
    after = after.to_ras()
    views = View(resample(before, after, comparison.registration.fixed_to_moving)), View(after)
    rows, budget = [], PICTURE_BYTES
    for number, lesion in enumerate(comparison.lesions, start=1):
        one = lesion.followup or lesion.baseline
        drawings: list[Drawing] = []
        if one is not None and lesion.change != "outside-followup" and budget > 0:
            finding = replace(one, position_mm=lesion.followup_mm, diameter_mm=lesion.diameter_mm)
            drawings = [draw_triplet(view, finding, number) for view in views]
            budget -= sum(len(drawing.uri) for drawing in drawings)
        place = tuple(zip("xyz", lesion.followup_mm, strict=True))
        rows.append(Row(number, lesion, NAMES[lesion.change], place, *(drawings or (None, None))))
    return rows

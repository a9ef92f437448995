"""Pages of lesions side by side: the baseline, drawn on the follow-up's grid, next to the follow-up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cmb_models.detection import RESEARCH_USE, Detection
from cmb_models.figures.findings import save_figure
from cmb_models.figures.views import BACKGROUND, CROP_MM, FAINT, INK, RING, View, bare, draw_planes
from cmb_models.followup.compare import Comparison, Lesion
from cmb_models.registration import resample
from cmb_models.volume import Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 5  # lesions on a page
WIDTH, HEADER, CAPTION, FOOTER, EDGE, GAP = 12.0, 0.95, 0.34, 0.4, 0.15, 0.05  # inches
SIDE = (WIDTH - 3 * EDGE - 4 * GAP) / 6  # of one view
NAMES = {
    "new": "new",
    "uncertain-new": "uncertain: new, or below the threshold at baseline",
    "persisting": "persisting",
    "uncertain-gone": "uncertain: gone, or below the threshold at follow-up",
    "not-seen-again": "not seen again",
    "outside-baseline": "outside the baseline's field of view",
    "outside-followup": "outside the follow-up's field of view",
}


def page_names(comparison: Comparison) -> list[str]:
    """File names of the pages: one per ROWS lesions; none without lesions in the follow-up's field of view."""
    return [f"comparison-{n + 1}.png" for n in range(-(-len(_shown(comparison)) // ROWS))]


def write_pages(folder: Path, comparison: Comparison, title: str) -> list[Path]:
    """Draw and write the pages.

    Args:
        folder: Folder to write to.
        comparison: Of two results with their volumes.
        title: Text at the top left, such as the pair's name.

    Returns:
        The files, in the order of the lesions; [] without lesions in the follow-up's field of view.
    """
    lesions = _shown(comparison)
    if not lesions:
        return []
    baseline, followup = comparison.baseline.volume, comparison.followup.volume
    assert baseline is not None and followup is not None, "compare_results refuses results without volumes"
    after = followup.to_ras()
    before: Volume = resample(baseline, after, comparison.registration.fixed_to_moving)
    views = View(before), View(after)
    files = []
    for number, name in enumerate(page_names(comparison)):
        figure = _page(views, comparison, lesions[number * ROWS : (number + 1) * ROWS], title, number + 1, len(lesions))
        save_figure(figure, folder / name)
        files.append(folder / name)
    return files


def _shown(comparison: Comparison) -> list[Lesion]:
    return [lesion for lesion in comparison.lesions if lesion.change != "outside-followup"]


def _page(views: tuple[View, View], comparison: Comparison, lesions: list[Lesion], title: str, number: int, total: int) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = HEADER + len(lesions) * (CAPTION + SIDE) + FOOTER
    figure = Figure(figsize=(WIDTH, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for row, lesion in enumerate(lesions):
        top = HEADER + row * (CAPTION + SIDE) + CAPTION
        for column, view in enumerate(views):
            left = EDGE + column * (3 * SIDE + 2 * GAP + EDGE)
            places = [(left + n * (SIDE + GAP)) / WIDTH for n in range(3)]
            panels = [bare(figure.add_axes((x, 1 - (top + SIDE) / height, SIDE / WIDTH, SIDE / height))) for x in places]
            draw_planes(panels, view, lesion.followup_mm, lesion.diameter_mm)
        place = ", ".join(f"{v:.1f}" for v in lesion.followup_mm)
        first = (number - 1) * ROWS + row + 1
        _text(figure, EDGE, top - 0.1, f"{first}   {NAMES[lesion.change]}   {lesion.diameter_mm:.1f} mm", RING, 10)
        middle = EDGE + 3 * SIDE + 2 * GAP
        _text(figure, middle, top - 0.1, _score(lesion.baseline), FAINT, 9, "right")
        _text(figure, WIDTH - EDGE, top - 0.1, f"{_score(lesion.followup)}   ({place}) mm", FAINT, 9, "right")
    pages = -(-total // ROWS)
    new, uncertain, persisting = (comparison.counts[c] for c in ("new", "uncertain-new", "persisting"))
    summary = f"{new} new, {uncertain} uncertain, {persisting} persisting   |   page {number} of {pages}"
    _text(figure, EDGE, 0.36, title, INK, 14)
    _text(figure, WIDTH - EDGE, 0.36, summary, INK, 11, "right")
    _text(figure, EDGE, 0.72, "baseline, registered to the follow-up", INK, 11)
    _text(figure, EDGE + 3 * SIDE + 2 * GAP + EDGE, 0.72, "follow-up", INK, 11)
    note = f"axial, coronal, sagittal, {CROP_MM:g} mm wide, radiological convention   |   positions in the follow-up's frame"
    _text(figure, EDGE, height - 0.15, f"{note}   |   {RESEARCH_USE}", FAINT, 8.5)
    return figure


def _score(found: Detection | None) -> str:
    return "no candidate" if found is None else f"score {found.score:.3f}"


def _text(figure: Figure, left: float, down: float, text: str, color: str, size: float, ha: str = "left") -> None:
    """Text whose baseline lies so many inches from the left and from the top."""
    height = figure.get_figheight()
    figure.text(left / WIDTH, 1 - down / height, text, color=color, fontsize=size, ha=ha, va="baseline", parse_math=False)

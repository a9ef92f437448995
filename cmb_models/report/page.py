"""The report as a self-contained HTML file."""

from __future__ import annotations

from cmb_models.report import cases, charts, tables
from cmb_models.report.data import ReportData
from cmb_models.report.environment import environment
from cmb_models.report.pictures import Album, draw_album
from cmb_models.training.tuning.importance import FEWEST, importances

TEMPLATE = "report.html.j2"


def render(material: ReportData) -> str:
    """The report as HTML; pictures are drawn from the scans' files."""
    extremes = [c for e in material.evaluations for c in (*cases.best(e), *cases.worst(e))]
    album = draw_album(cases.all_cases(material), extremes, material.images)
    return fill(material, album)


def fill(material: ReportData, album: Album) -> str:
    """The report as HTML from drawn pictures."""
    headings, figures = tables.overview(material)
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            m=material,
            album=album,
            headings=headings,
            figures=figures,
            strata=tables.strata(material),
            cases=cases,
            froc=charts.froc_chart(material),
            calibration=charts.calibration_chart(material),
            scores=charts.score_chart(material),
            counts=[charts.count_chart(material, e) for e in material.evaluations],
            searches=[_search(name, search) for name, search in material.searches.items()],
            fewest=FEWEST,
        )
    )


def _search(name: str, search: dict) -> dict:
    """Template variables of one search."""
    complete = [t for t in search["trials"] if t["state"] == "COMPLETE"]
    first = next((t["value"] for t in complete if t["number"] == 0), None)
    return {
        "name": name,
        "study": search["study"],
        "settings": search["settings"],
        "trial": search["trial"],
        "best": search["best_value"],
        "first": first,
        "complete": len(complete),
        "stopped": len(search["trials"]) - len(complete),
        "chart": charts.search_chart(search) if complete else None,
        "importances": importances(search["trials"]),
    }

"""The report: one HTML file that holds everything it shows, to read offline, print and keep with a release."""

from __future__ import annotations

from cmb_models.report import cases, charts, tables
from cmb_models.report.data import ReportData
from cmb_models.report.environment import environment
from cmb_models.report.pictures import Album, draw_album
from cmb_models.training.tuning.importance import FEWEST, importances

TEMPLATE = "report.html.j2"


def render(material: ReportData) -> str:
    """The whole report as HTML; pictures are drawn from the scans' own files."""
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
    """What the report says of one search."""
    done = [t for t in search["trials"] if t["state"] == "COMPLETE"]
    first = next((t["value"] for t in done if t["number"] == 0), None)
    return {
        "name": name,
        "study": search["study"],
        "settings": search["settings"],
        "trial": search["trial"],
        "best": search["best_value"],
        "first": first,
        "complete": len(done),
        "stopped": len(search["trials"]) - len(done),
        "chart": charts.search_chart(search) if done else None,
        "importances": importances(search["trials"]),
    }

"""The comparison of two releases as a self-contained HTML page: metrics, differences, FROC curves, disagreements."""

from __future__ import annotations

from dataclasses import dataclass

from cmb_models.evaluation.statistics.disagreement import Disagreement, Finding
from cmb_models.report import wording
from cmb_models.report.cases import Case
from cmb_models.report.comparison import parts
from cmb_models.report.comparison.data import Comparison, Side
from cmb_models.report.environment import environment
from cmb_models.report.pictures import draw_album

TEMPLATE = "comparison.html.j2"


@dataclass(frozen=True)
class Shown:
    """A disagreement on the page: the case of its picture, and one line per release."""

    case: Case
    lines: tuple[str, str]


GROUPS = (  # kind, by, heading, explanation
    ("hit", 2, "Detected only by {second}", "Microbleeds that {first} misses."),
    ("hit", 1, "Detected only by {first}", "Microbleeds that {second} misses."),
    ("false_positive", 2, "False positives of {second} only", "False positives that {first} does not have."),
    ("false_positive", 1, "False positives of {first} only", "False positives that {second} does not have."),
)


def render(comparison: Comparison) -> str:
    """The page as HTML; pictures are drawn from the scans in `images`, if available."""
    groups = [(_words(h, comparison), _words(what, comparison), _shown(comparison, kind, by)) for kind, by, h, what in GROUPS]
    listed = [s.case for _, _, shown in groups for s in shown]
    at_hand = [c for c in listed if c.scan in comparison.images]
    album = draw_album(at_hand, [], dict(comparison.images))
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            v=comparison,
            groups=groups,
            album=album,
            without_scan=len(listed) - len(at_hand),
            rows=parts.figure_rows(comparison),
            boxes=[parts.box(side, comparison.tolerance_mm) for side in comparison.sides],
            strata=parts.strata_tables(comparison),
            summary=parts.summary(comparison),
            checks=[parts.check_row(c) for c in comparison.checks],
            froc=parts.froc_chart(comparison) if all(s.scans for s in comparison.sides) else None,
        )
    )


def _words(text: str, comparison: Comparison) -> str:
    return text.format(first=comparison.first.name, second=comparison.second.name)


def _shown(comparison: Comparison, kind: str, by: int) -> list[Shown]:
    """One kind of disagreement, largest microbleeds and highest scores first."""
    selected = [d for d in comparison.disagreements if (d.kind, d.by) == (kind, by)]
    shown = [Shown(_case(d, comparison), _lines(d, comparison)) for d in selected]
    return sorted(shown, key=lambda s: -_rank(s.case))


def _rank(case: Case) -> float:
    value = case.diameter_mm if case.outcome == "hit" else case.score
    return 0.0 if value is None else value


def _case(d: Disagreement, comparison: Comparison) -> Case:
    finding = d.first if d.by == 1 else d.second
    assert finding is not None
    if d.kind == "hit":
        assert d.about is not None
        about, diameter = wording.plain(d.about.region) or "microbleed", d.about.diameter_mm
    else:
        about, diameter = wording.kind(comparison.labels.get((d.scan, d.world_mm), d.about.label if d.about else "")), None
    return Case(d.scan, d.kind, d.world_mm, diameter, finding.score, finding.stage1, finding.stage2, about)


def _lines(d: Disagreement, comparison: Comparison) -> tuple[str, str]:
    return _line(comparison.first, d.first), _line(comparison.second, d.second)


def _line(side: Side, finding: Finding | None) -> str:
    """A release's score at the position, such as "release 3: score 0.31, above its 0.24 (stage 1 0.60, stage 2 0.90)"."""
    if finding is None or side.threshold is None:
        return f"{side.name}: no candidate here"
    where = "above" if finding.score >= side.threshold else "below"
    stages = [f"stage {n} {v:.2f}" for n, v in ((1, finding.stage1), (2, finding.stage2)) if v is not None]
    text = f"{side.name}: score {finding.score:.2f}, {where} its {side.threshold:.2f}"
    return text + (f" ({', '.join(stages)})" if stages else "")

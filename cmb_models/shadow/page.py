"""The shadow report as a self-contained HTML page: agreement by week, and the scans that differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cmb_models.report.canvas import BLUE, GREY, RED, chart
from cmb_models.report.environment import environment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATE = "shadow.html.j2"


def render(summary: Mapping) -> str:
    """The page as HTML. summary: from shadow/summary.py."""
    charts = [weeks_chart(pair["weeks"]) for pair in summary["pairs"]]
    return environment().get_template(TEMPLATE).render(summary=summary, charts=charts)


def weeks_chart(weeks: Sequence[Mapping]) -> str:
    """Weekly agreement with its 95 % interval, and the number of detections. Weeks without detections have no point."""
    names = [week["week"] for week in weeks]

    def draw(panels: Sequence[Axes]) -> None:
        for n, week in enumerate(weeks):
            if week["agreement"] is not None:
                panels[0].plot([n, n], week["agreement_95"], color=BLUE, lw=1.2, alpha=0.6)
                panels[0].plot(n, week["agreement"], "o", color=BLUE, ms=5)
        panels[0].set(ylim=(-0.03, 1.03), title="Detections reported by both", ylabel="agreement")
        below = [0] * len(weeks)
        for kind, name, color in (
            ("both", "both", GREY),
            ("only_production", "production only", RED),
            ("only_challenger", "challenger only", BLUE),
        ):
            heights = [week[kind] for week in weeks]
            panels[1].bar(range(len(weeks)), heights, 0.6, below, color=color, label=name)
            below = [a + b for a, b in zip(below, heights, strict=True)]
        panels[1].set(title="Detections", ylabel="detections", ylim=(0, max(below) * 1.3 or 1))
        panels[1].legend(loc="upper center", ncols=3)
        step = -(-len(names) // 8)
        for axes in panels:
            axes.set_xticks(range(0, len(names), step), names[::step])
            axes.set_xlim(-0.6, len(names) - 0.4)

    return chart(draw, 2, 3.0)

"""`cmb release compare`: two releases side by side in the terminal, as JSON, and as an HTML page with every disagreement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmb_models.cli.terminal import AsJson, console, print_json

Ref = Annotated[str, typer.Argument(help="A release number, `latest`, or a role.")]


def compare(
    baseline: Ref,
    candidate: Ref,
    html: Annotated[
        Path | None, typer.Option(help="Also write an HTML page with curves and pictures of every disagreement.")
    ] = None,
    rerun_baseline: Annotated[
        bool,
        typer.Option(help="Run BASELINE on the locked scans of CANDIDATE, from this workspace's data: counted as an evaluation."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare CANDIDATE with BASELINE on common test scans: metrics with intervals, paired differences, the gate's verdict."""
    from cmb_models.registry.gate.compare import as_dict
    from cmb_models.registry.gate.compare import compare as run

    comparison = run(baseline, candidate, rerun=rerun_baseline)
    if html is not None:
        from cmb_models.files import write_text
        from cmb_models.report.comparison.page import render

        write_text(html, render(comparison))
    if as_json:
        print_json(as_dict(comparison))
        return
    _print(comparison)
    if html is not None:
        console().print(f"page written to {html}", markup=False)


def _print(comparison) -> None:
    from cmb_models.report.comparison.parts import check_row, figure_rows, summary

    out, (first, second) = console(), comparison.sides
    heads = [f"{s.name}{f' ({s.about})' if s.about else ''}" for s in comparison.sides]
    rows = [(r["name"], *r["sides"], r["difference"], r["verdict"]) for r in figure_rows(comparison)]
    out.print(_table("", *heads, "difference", "", rows=rows))
    out.print(summary(comparison), markup=False)
    for note in comparison.notes:
        out.print(note, style="yellow", markup=False)
    for line in _disagreements(comparison):
        out.print(line, markup=False)
    out.print(
        f"[bold]the gate would {'accept' if comparison.passed else 'reject'} {second.name} as a replacement of {first.name}[/]"
    )
    for check in map(check_row, comparison.checks):
        out.print(_check(check))


COLOURS = {"better": "green", "worse": "red", "pass": "green", "fail": "bold red", "not judged": "dim"}


def _disagreements(comparison) -> list[str]:
    """Microbleeds and false positives of one release only, as counts."""
    if not comparison.common:
        return []
    lines = []
    for kind, what in (
        ("hit", "microbleeds detected by only one release"),
        ("false_positive", "false positives of only one release"),
    ):
        counts = [sum((d.kind, d.by) == (kind, n) for d in comparison.disagreements) for n in (1, 2)]
        counts_text = ", ".join(f"{side.name} {n}" for side, n in zip(comparison.sides, counts, strict=True))
        lines.append(f"{what}: {counts_text}")
    return lines


def _check(check: dict):
    """A check of the gate as a line, with its note unless it passed."""
    from rich.text import Text

    note = f" ({check['note']})" if check["note"] and check["result"] != "pass" else ""
    line = Text(f"  {check['result']:>10}  ", style=COLOURS[check["result"]])
    return line.append(f"{check['name']}: {check['measured']}, required {check['need']}{note}", style="default")


def _table(*columns: str, rows):
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")  # fold instead of truncating in a narrow terminal
    for row in rows:
        table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    return table

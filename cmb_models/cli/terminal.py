"""Output of the commands: console, tables, JSON."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def console(width: int | None = None):
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, width=width)


def table(*columns: str, rows):
    from rich.markup import escape
    from rich.table import Table

    result = Table()
    for column in columns:
        result.add_column(column, overflow="fold")  # fold instead of truncating in a narrow terminal
    for row in rows:
        result.add_row(*map(escape, row))
    return result


def print_json(value) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def number(value) -> str:
    try:
        return f"{float(value):.3g}"
    except (TypeError, ValueError):
        return "-"

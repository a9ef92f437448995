"""Output of the commands: console, tables, JSON."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def console(width: int | None = None):
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, width=width)


def table(*columns: str, rows):
    from rich.table import Table
    from rich.text import Text

    from cmb_models.errors import printable

    result = Table(show_header=any(columns))
    for column in columns:
        result.add_column(column, overflow="fold")  # fold instead of truncating in a narrow terminal
    for row in rows:
        result.add_row(*(Text("\n".join(map(printable, cell.split("\n")))) for cell in row))
    return result


def print_json(value) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def quiet_nibabel() -> None:
    """Silence nibabel's log of header faults: read_volume reports them itself."""
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


def number(value) -> str:
    try:
        return f"{float(value):.3g}"
    except (TypeError, ValueError):
        return "-"

"""Output of the commands: console, tables, JSON."""

from __future__ import annotations

import importlib.util
import logging
from typing import Annotated

import typer

log = logging.getLogger(__name__)

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


def check_analysis(figures: bool | None, needed_for: str = "") -> bool:
    """Whether pictures are drawn: as requested, else if their packages are installed.

    needed_for: What else was requested that needs them, "" for nothing. Raises InputError if what was requested lacks its packages.
    """
    from cmb_models.errors import InputError

    missing = next((name for name in ("matplotlib", "scipy") if not is_installed(name)), None)
    if missing and (figures or needed_for):
        instead = "" if needed_for else ", or pass --no-figures"
        remedy = f"run pip install 'cmb-models[analysis]'{instead}"
        case = needed_for or "figures"
        raise InputError("package-missing", case, "the packages of the extra analysis", f"no {missing}", remedy)
    if missing and figures is None:
        log.warning("no pictures: %s is not installed (extra `analysis`)", missing)
    return figures is not False and not missing


def is_installed(package: str) -> bool:
    """Whether a package could be imported; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a finder that hides it
        return False

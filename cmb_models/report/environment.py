"""The one Jinja environment of all pages."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cmb_models.report import wording

TEMPLATES = Path(__file__).with_name("templates")


def environment() -> Environment:
    """Templates escape HTML, refuse unknown names and have the number formats of wording.py."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"percent": wording.percent, "number": wording.number, "plain": wording.plain}
    made.globals |= {"percent": wording.percent, "number": wording.number, "plural": wording.plural, "words": wording}
    return made

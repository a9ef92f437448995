"""The Jinja environment of all pages."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cmb_models.report import wording

TEMPLATES = Path(__file__).with_name("templates")


def environment() -> Environment:
    """An environment with HTML escaping, strict names, and the formats of wording.py."""
    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Jinja applies it to all that a template prints: undecodable bytes of file names cannot be written as UTF-8.
    jinja.finalize = lambda value: value.encode("utf-8", "backslashreplace").decode() if type(value) is str else value
    jinja.filters |= {"percent": wording.percent, "number": wording.number, "plain": wording.plain}
    jinja.globals |= {"percent": wording.percent, "number": wording.number, "plural": wording.plural, "words": wording}
    return jinja

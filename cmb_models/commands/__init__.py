"""The commands of `cmb`, one file an area. Their modules import heavy libraries only inside the functions."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Register every command of the library on the Typer application."""
    from cmb_models.commands import compare, detect, keys, lineage, phantom, registry, shadow

    detect.add_to(app)
    phantom.add_to(app)
    registry.add_to(app)
    compare.add_to(app)
    keys.add_to(app)
    lineage.add_to(app)
    shadow.add_to(app)

"""`cmb data`: versions of a workspace's data."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Add the group and its commands."""
    from cmb_models.cli.data import diff

    group = typer.Typer(help="Compare versions of the data.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command()(diff.diff)
    app.add_typer(group, name="data")

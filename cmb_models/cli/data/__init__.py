"""`cmb data`: versions of a workspace's data, and the withdrawal of a patient."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Add the group and its commands."""
    from cmb_models.cli.data import diff, withdraw

    group = typer.Typer(help="Compare versions of the data, and remove a patient.", no_args_is_help=True)
    for command in (diff.diff, withdraw.withdraw):
        group.command()(command)
    app.add_typer(group, name="data")

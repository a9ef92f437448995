"""`cmb release`: releases of a workspace, from registering one to withdrawing it."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Add the group and its commands, in order of use."""
    from cmb_models.cli.release import audit, catalogue, compare, export, moves, provenance

    group = typer.Typer(help="Register, compare, promote and trace releases.", no_args_is_help=True)
    commands = (
        *(catalogue.register, catalogue.list_releases, catalogue.show),
        *(compare.compare, moves.promote, moves.rollback, moves.challenge, moves.repair),
        *(audit.history, audit.verify, audit.merge, export.export, provenance.lineage, provenance.reproduce),
    )
    for command in commands:
        group.command("list" if command is catalogue.list_releases else command.__name__)(command)
    app.add_typer(group, name="release")

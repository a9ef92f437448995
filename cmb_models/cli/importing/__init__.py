"""`cmb import`: a site's scans and marks as a dataset."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class _ScansUnlessNamed(TyperGroup):
    """`cmb import SOURCE` is `cmb import scans SOURCE`: what is no subcommand is a source."""

    default = "scans"

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        return super().resolve_command(ctx, args if args[0] in self.commands else [self.default, *args])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_option = bool(args) and args[0].startswith("-") and args[0] not in ctx.help_option_names
        return super().parse_args(ctx, [self.default, *args] if is_option else args)


def add_to(app: typer.Typer) -> None:
    """Add the group and its commands."""
    from cmb_models.cli.importing import marks, scans

    help_text = "Import scans and marks into a dataset. `cmb import SOURCE` is short for `cmb import scans SOURCE`."
    group = typer.Typer(cls=_ScansUnlessNamed, help=help_text, no_args_is_help=True)
    group.command(_ScansUnlessNamed.default)(scans.import_scans)
    group.command("marks")(marks.import_marks)
    app.add_typer(group, name="import")

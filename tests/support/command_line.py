"""The `cmb` command in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from cmb_models.cli import build_app


def cmb(*arguments: str, **more):
    """The result of `cmb ARGUMENTS`; errors stay exceptions, in `result.exception`."""
    return CliRunner().invoke(build_app(), list(arguments), terminal_width=200, **more)

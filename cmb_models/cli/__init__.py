"""The `cmb` command. Each command imports what it needs when it runs, so that `cmb --help` stays quick."""

from __future__ import annotations

import json
import logging
import signal
import sys
from functools import cache
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cmb_models import __version__
from cmb_models.errors import InputError, optional_packages
from cmb_models.machine import LOG_LEVELS

app = typer.Typer(
    help="Cerebral microbleed detector that a site trains on its own scans. Research software, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"cmb-models {__version__}")
        raise typer.Exit


def _set_level(level: str) -> str:
    if level.lower() not in LOG_LEVELS:
        raise typer.BadParameter(f"expected one of {', '.join(LOG_LEVELS)}, got {level}")
    return level.lower()


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
    log_level: Annotated[
        str, typer.Option("--log-level", callback=_set_level, envvar="CMB_LOG", help="debug, info, warning or error.")
    ] = "warning",
) -> None:
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(name)s: %(message)s")


@cache
def build_app() -> typer.Typer:
    """The application with all its commands."""
    from cmb_models.cli import check, cohort, data, detect, followup, importing, init, keys, server, simulate
    from cmb_models.cli.release import add_to as add_release

    for module in (init, importing, check, data, detect, followup, cohort, simulate):
        module.add_to(app)
    add_release(app)
    for module in (server, keys):
        module.add_to(app)
    return app


def main() -> None:
    """Run the command line; input errors give one line on stderr and exit code 2, without a traceback.

    A signal that stops the command ends it as Ctrl-C does, so that temporary files are removed.
    """
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with optional_packages("cmb"):
            build_app()()
    except (InputError, RuntimeError) as error:  # RuntimeError: a failed server, with the end of its log
        if "--json" in sys.argv and isinstance(error, InputError):
            typer.echo(json.dumps({"error": error.as_dict()}))
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(2)

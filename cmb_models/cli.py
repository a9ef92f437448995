"""The `cmb` command. Each command imports what it needs when it runs, so that `cmb --help` stays quick."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import entry_points

import typer
from rich.console import Console
from rich.markup import escape

from cmb_models.errors import InputError

app = typer.Typer(
    help="Cerebral microbleed detection that a site trains on its own few scans. Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _add_commands() -> None:
    """Commands of this package, then those that installed packages add (serving adds `serve` and `deploy`)."""
    from cmb_models import commands

    commands.add_to(app)
    for entry in sorted(entry_points(group="cmb.commands"), key=lambda e: e.name):
        if importlib.util.find_spec(entry.value.split(":")[0].split(".")[0]) is not None:  # a client install has no serving/
            app.command(entry.name)(entry.load())


def main() -> None:
    """Run the command line: faults of the input are one clear line and exit code 2, never a traceback."""
    _add_commands()
    try:
        app()
    except (InputError, RuntimeError) as error:  # RuntimeError: a server that failed, told with the end of its log
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(2)

"""The commands `cmb init` and `cmb lock`: create or upgrade a workspace, record the code that its stages run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmb_models.cli.terminal import AsJson, console, print_json

if TYPE_CHECKING:
    from cmb_models.workspace.template import Upgrade

NEXT = """next:
  cd {folder}
  git commit -m 'Create workspace'
  import scans and marks into data/raw/site (`cmb import --help`), or simulate some:
    cmb simulate data/raw/site --seed 1
  cmb check
  dvc add data/raw/site && git add data/raw && git commit -m 'Add scans'
  dvc repro"""


def init(
    folder: Annotated[Path, typer.Argument(help="The workspace: a new folder, or with --upgrade an existing one.")] = Path("."),
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Merge the installed version's template into the workspace.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create a site's workspace: dvc.yaml, params.yaml, one script per stage, a git and a DVC repository."""
    from rich.markup import escape

    from cmb_models.workspace import template

    if upgrade:
        _report(template.upgrade(folder), as_json)
        return
    template.create(folder)
    if as_json:
        print_json({"workspace": str(folder)})
    else:
        steps = NEXT.format(folder=shlex.quote(str(folder)))
        console().print(f"[bold]{escape(str(folder))}[/] is a workspace\n{escape(steps)}")


def lock(
    folder: Annotated[Path, typer.Argument(help="The workspace.")] = Path("."),
    as_json: AsJson = False,
) -> None:
    """Record the installed code in code.lock, and list the stages that `dvc repro` will rerun for it."""
    from cmb_models.workspace.template import relock

    _report(relock(folder), as_json)


def _report(changes: Upgrade, as_json: bool) -> None:
    """Print the differences of files, the changed modules and the stages that rerun."""
    code = changes.code
    if as_json:
        files = {str(name): difference for name, difference in changes.differences.items()}
        print_json({"files": files, "modules": code.modules, "stages": code.stages, "before": changes.library})
        return
    out = console()
    for difference in changes.differences.values():
        out.print(difference, markup=False)
    if not changes.library:
        out.print("code.lock was missing or unreadable; it now records the installed code")
    elif not code:
        out.print("the code of all stages is the same as before")
    else:
        out.print(f"code changed since cmb-models {changes.library}:", markup=False)
        for module in code.modules:
            out.print(f"  {module}", markup=False)
        out.print(f"`dvc repro` reruns {', '.join(code.stages)}, and the stages that use changed outputs of these", markup=False)


def add_to(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(lock)

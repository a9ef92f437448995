"""`cmb init` and `cmb lock`: create a workspace, bring it up to date, record the code that its stages run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmb_models.cli.terminal import AsJson, console, print_json

if TYPE_CHECKING:
    from cmb_models.workspace.template import Upgrade

NEXT = """next:
  cd {folder}
  git commit -m 'Create workspace'
  put scans and annotations.csv into data/raw/site and those for the final test into data/raw/locked, or simulate some:
    cmb simulate data/raw/site --seed 1 && cmb simulate data/raw/locked --scans 10 --cmbs 24 --seed 2
  dvc add data/raw/site data/raw/locked && git add data/raw/*.dvc && git commit -m 'Add scans'
  dvc repro"""


def init(
    folder: Annotated[Path, typer.Argument(help="The workspace: a new folder, or with --upgrade an existing one.")] = Path("."),
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Merge the installed version's template into the workspace.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create a site's workspace: dvc.yaml, params.yaml, one script per stage, a git and a DVC repository."""
    from cmb_models.workspace import template

    if upgrade:
        _report(template.upgrade(folder), as_json)
        return
    template.create(folder)
    if as_json:
        print_json({"workspace": str(folder)})
    else:
        console().print(f"[bold]{folder}[/] is a workspace\n{NEXT.format(folder=folder)}")


def lock(
    folder: Annotated[Path, typer.Argument(help="The workspace.")] = Path("."),
    as_json: AsJson = False,
) -> None:
    """Record the installed code in code.lock, and list the stages that `dvc repro` will rerun for it."""
    from cmb_models.workspace.template import relock

    _report(relock(folder), as_json)


def _report(done: Upgrade, as_json: bool) -> None:
    """Print the differences of files, the changed modules and the stages that rerun."""
    if as_json:
        files = {str(name): difference for name, difference in done.differences.items()}
        print_json({"files": files, "modules": done.code.modules, "stages": done.code.stages, "before": done.library})
        return
    out = console()
    for difference in done.differences.values():
        out.print(difference, markup=False)
    if not done.code.modules:
        out.print("the code of all stages is the same as before")
        return
    out.print(f"code changed since cmb-models {done.library}:")
    for module in done.code.modules:
        out.print(f"  {module}", markup=False)
    out.print(f"`dvc repro` reruns {', '.join(done.code.stages)}, and the stages that use changed outputs of these")


def add_to(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(lock)

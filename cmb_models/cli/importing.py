"""`cmb import`: a site's DICOM export as a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_scans(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Folders or files of a DICOM export, of any depth.")],
    into: Annotated[Path, typer.Option(help="Folder of the dataset, such as data/raw/site.")],
    key: Annotated[
        Path | None,
        typer.Option(
            help="File for the secret behind the subject codes, outside the dataset.",
            show_default="one in ~/.cmb-models/import-keys",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")] = False,
) -> None:
    """Import SWI scans from DICOM with their phase and magnitude, under subject codes. Exit code 1: some could not be used.

    Every other series is listed with the reason. Running it again continues an interrupted import.
    """
    from rich.markup import escape

    from cmb_models.cli.terminal import console, table
    from cmb_models.importing.dicom import import_dicom, summary

    steps = import_dicom(sources, into, key, dry_run)
    rows = []
    for step in steps:
        what = "not usable" if step.is_fault else "skipped" if step.target is None else str(step.target)
        rows.append(tuple(map(escape, (step.subject, step.stack.name, what, step.reason))))
    console().print(table("subject", "series", "", "", rows=rows))
    typer.echo(summary(steps) + (" (nothing written)" if dry_run else ""))
    if any(step.is_fault for step in steps):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    app.command("import")(import_scans)

"""`cmb import scans`: a site's DICOM export as a dataset."""

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
    from cmb_models.cli.terminal import console, table
    from cmb_models.importing.dicom import import_dicom, summary
    from cmb_models.importing.identity import default_key

    file = key or default_key(into)
    has_codes = file.exists() or not dry_run  # else the codes shown now would be others at the import
    steps = import_dicom(sources, into, file, dry_run)
    numbers = {subject: f"new {n}" for n, subject in enumerate(dict.fromkeys(step.subject for step in steps), 1)}
    rows = []
    for step in steps:
        became = "not usable" if step.is_fault else "skipped" if step.target is None else step.stack.role
        subject = step.subject if has_codes else numbers[step.subject]
        rows.append((subject, step.session, step.stack.name, became, step.reason))
    console().print(table("subject", "session", "series", "becomes", "reason", rows=rows))
    typer.echo(summary(steps) + (" (nothing written)" if dry_run else ""))
    if any(step.is_fault for step in steps):
        raise typer.Exit(1)

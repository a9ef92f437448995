"""`cmb data withdraw`: removal of a patient who withdrew consent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmb_models.cli.terminal import console, table
from cmb_models.errors import InputError

if TYPE_CHECKING:
    from cmb_models.registry.provenance.trace import Sighting
    from cmb_models.registry.withdrawal.withdraw import Withdrawal


def withdraw(
    subject: Annotated[str, typer.Argument(help="The subject's folder, such as sub-001.")],
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Dataset in which this name is the patient's, repeatable. [default: the only one]", show_default=False),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Also drop the patient from this key file of `cmb import`.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")] = False,
) -> None:
    """Remove a patient's files and rows from data/raw, and name every release that used them and what remains to be done.

    The same scan under another name is removed too. Datasets are added to DVC again, index and split recomputed; nothing is
    committed. Running it again completes an interrupted withdrawal. Exit code 1: some releases could not be read.
    """
    from cmb_models.registry.withdrawal.remaining import remaining
    from cmb_models.registry.withdrawal.withdraw import forget
    from cmb_models.registry.withdrawal.withdraw import withdraw as run
    from cmb_models.workspace.paths import RAW
    from cmb_models.workspace.versioning import find_workspace

    workspace = find_workspace(Path("."))
    try:
        found = run(subject, dataset or (), key, workspace, dry_run)
    except InputError as error:
        # Withdrawn before, and now dropped from the key file.
        if error.code != "subject-unknown" or key is None or dry_run or not forget([subject], key, workspace / RAW):
            raise
        typer.echo(f"{key} no longer maps {subject} to a patient; {RAW} has no scans of it")
        return
    _print(found, dry_run)
    console().print("nothing was changed; afterwards there remains:" if dry_run else "what remains:", markup=False)
    for n, step in enumerate(remaining(workspace, found, key), start=1):
        console().print(f"{n}. {step}", markup=False)
    if found.unread:
        raise typer.Exit(1)


def _print(found: Withdrawal, dry_run: bool) -> None:
    out, plan = console(), found.plan
    scans, rows = sum(bool(file.content_sha256) for file in plan.files), sum(plan.rows.values())
    verb = "would remove" if dry_run else "removed"
    out.print(
        f"{verb} {', '.join(map(str, plan.targets))}: {len(plan.files)} files, {scans} of them scans, {rows} rows", markup=False
    )
    for copy in plan.copies:
        out.print(f"{copy} has the same scan as {plan.subject}", style="yellow", markup=False)
    rows_of = [_row(use, "") for use in found.uses] + [_row(use, "by name, with another content") for use in found.named]
    out.print(table("release", "roles", "used in", "as", "", rows=rows_of) if rows_of else "no release used them", markup=False)
    for fault in found.unread:
        out.print(f"unreadable: {fault}", style="bold red", markup=False)


def _row(use: Sighting, note: str) -> tuple[str, ...]:
    return str(use.release), ", ".join(use.aliases), ", ".join(use.roles), use.key, note

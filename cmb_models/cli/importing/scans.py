"""`cmb import scans`: a site's DICOM export, or its NIfTI files, as a dataset."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

SHOWN = 10  # other files in a message
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".iso")


class Kind(StrEnum):
    """Formats of a source."""

    dicom = "dicom"
    nifti = "nifti"


class SubjectFrom(StrEnum):
    """What names the patients of image files."""

    file = "file"
    folder = "folder"


def import_scans(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="Folders or files, of any depth: DICOM, BIDS, NIfTI, MetaImage, NRRD."),
    ],
    into: Annotated[Path, typer.Option(help="Folder of the dataset, such as data/raw/site.")],
    key: Annotated[
        Path | None,
        typer.Option(
            help="File for the secret behind the subject codes, outside the dataset.",
            show_default="one in ~/.cmb-models/import-keys",
        ),
    ] = None,
    kind: Annotated[
        Kind | None,
        typer.Option(
            "--from", help="Import only files of this kind (nifti: MetaImage and NRRD too).", show_default="by each file's name"
        ),
    ] = None,
    keep_subjects: Annotated[
        bool,
        typer.Option("--keep-subjects", help="Keep subject and session labels of image files, if the set has pseudonyms already."),
    ] = False,
    subject_from: Annotated[
        SubjectFrom,
        typer.Option(help="Take the patient from the name of an image file or of its folder, if there is no sub- label."),
    ] = SubjectFrom.file,
    nan_as_air: Annotated[
        bool, typer.Option("--nan-as-air", help="Set NaN voxels to 0 that are connected to the image's border.")
    ] = False,
    echo: Annotated[float | None, typer.Option(help="Echo time in ms to take of a series with several.")] = None,
    volume: Annotated[
        int | None, typer.Option(min=1, help="Number of the volume to take of 4D NIfTI files, such as raw echoes in one file.")
    ] = None,
    gre_as_swi: Annotated[
        bool, typer.Option("--gre-as-swi", help="Use T2*-weighted gradient echoes as scans where a session has no SWI.")
    ] = False,
    renamed: Annotated[
        bool, typer.Option("--renamed", help="Take patients of one ID and birth date as one, also where their names differ.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")] = False,
) -> None:
    """Import SWI scans with their phase and magnitude, under subject codes. Exit code 1: some, or all, could not be used.

    Every other image is listed with the reason. Running it again continues an interrupted import.
    """
    from cmb_models.cli.terminal import console, table
    from cmb_models.errors import printable
    from cmb_models.importing.identity import default_key
    from cmb_models.importing.scans import Options, import_scans, summary

    file = key or default_key(into)
    has_codes = file.exists() or not dry_run  # else the codes shown now would be others at the import
    options = Options(
        kind.value if kind else None,
        keep_subjects,
        subject_from is SubjectFrom.folder,
        nan_as_air,
        echo,
        volume,
        gre_as_swi,
        renamed,
    )
    imported = import_scans(sources, into, file, dry_run, options)
    steps = imported.steps
    numbers = {subject: f"new {n}" for n, subject in enumerate(dict.fromkeys(s.subject for s in steps if s.subject), 1)}
    rows = []
    for step in steps:
        became = "not usable" if step.is_fault else "skipped" if step.target is None else step.image.role
        subject = step.subject if has_codes or keep_subjects else numbers.get(step.subject, "")
        rows.append((subject, step.session, step.image.name, became, step.reason))
    console().print(table("subject", "session", "image", "becomes", "reason", rows=rows))
    for step in steps:
        if step.is_fault:  # a code, or a number in a dry run, does not say where to look
            typer.echo(f"not usable: {printable(f'{step.image.name}, in {step.image.place}')}")
    archives = [file for file in imported.others if file.suffix.lower() in ARCHIVES]
    for files, what in (
        (archives, "archives, not opened; unpack those with scans and import again"),
        ([file for file in imported.others if file not in archives], "neither DICOM nor another format read here"),
    ):
        if files:
            more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
            typer.echo(f"{what}: {', '.join(printable(file.name) for file in files[:SHOWN])}{more}")
    for path, why in list(imported.unread.items())[:SHOWN]:
        typer.echo(f"not read: {printable(str(path))} ({why})")
    if len(imported.unread) > SHOWN:
        typer.echo(f"not read: {len(imported.unread) - SHOWN} more")
    typer.echo(summary(steps) + (" (nothing written)" if dry_run else ""))
    if imported.unread or any(step.is_fault for step in steps) or not any(step.target for step in steps):
        raise typer.Exit(1)

"""`cmb import marks`: what readers marked, added to the scans of a dataset."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cmb_models.cli.terminal import AsJson


def import_marks(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Tables (CSV, TSV, Excel), 3D Slicer's points (.mrk.json, .fcsv), label masks (NIfTI, .mha, .nrrd), "
            "Dou's .mat or CSIRO's .xlsx; or folders of them.",
        ),
    ],
    into: Annotated[Path, typer.Option(help="Folder of the dataset that has the scans, such as data/raw/site.")],
    form: Annotated[
        str, typer.Option("--from", help="Form of the files: table, markups, fcsv, mask, dou or csiro.", show_default="by the file")
    ] = "",
    rater: Annotated[str, typer.Option(help="Who marked them, if the files do not name the rater.")] = "",
    subject: Annotated[str, typer.Option(help="Subject of a single file.", show_default="by the file")] = "",
    session: Annotated[str, typer.Option(help="Session of a single file.", show_default="by the file")] = "",
    frame: Annotated[
        str,
        typer.Option(
            help="Frame of the coordinates: ras or lps in mm, voxel0 or voxel1 (indices from 0 or 1).", show_default="by the file"
        ),
    ] = "",
    diameter_mm: Annotated[float | None, typer.Option("--diameter-mm", help="Diameter of marks without one.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Meaning of a mask's value or of a label, repeatable: 1=cmb, 2=mimic:calcification, '*=ignore' (all others)."
        ),
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="A table's column, repeatable: subject=Patient, x_mm=R.")] = None,
    others_empty: Annotated[
        bool, typer.Option("--others-empty", help="The other scans of the dataset were read too, and nothing was found.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the rows that these raters have of these scans.")] = False,
    consensus: Annotated[
        bool, typer.Option("--consensus", help="Write the consensus of several raters: a file or folder of each.")
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            help="Key file of the import of the scans, so that files may name patients by their earlier IDs.",
            show_default="one in ~/.cmb-models/import-keys, if there is one",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add marks of microbleeds to the scans of a dataset. Everything is written, or nothing, with all faults listed.

    Each rater's own marks are kept in derivatives/readings. Importing a file again changes nothing.
    A reading that differs from its rater's earlier one of the scan is rejected, unless --replace is passed.
    """
    from cmb_models.cli.terminal import console, number, print_json, table
    from cmb_models.errors import InputError
    from cmb_models.importing.identity import default_key
    from cmb_models.importing.marks.add import import_marks as run
    from cmb_models.importing.marks.forms.detect import FORMS
    from cmb_models.importing.marks.reading import Options

    if form and form not in FORMS:
        raise InputError("setting-invalid", "--from", ", ".join(FORMS), form, "pass one of these")
    labels, columns = _pairs("--label", label or []), _pairs("--column", column or [])
    options = Options(form, frame, diameter_mm, labels, columns, rater, subject, session)
    key_file = key or default_key(into)
    if key and not key.is_file():
        raise InputError("file-not-found", key, "the key file of an import", "no such file", "check the path")
    outcome = run(files, into, options, consensus, others_empty, dry_run, key_file if key_file.is_file() else None, replace)
    if as_json:
        print_json(asdict(outcome))
        return
    rows = [
        ("/".join(Path(x.file).parts[-2:]), x.form, x.subject, x.session, x.rater, str(x.marks), x.becomes) for x in outcome.lines
    ]
    console().print(table("file", "form", "subject", "session", "rater", "marks", "becomes", rows=rows))
    if outcome.agreement:
        for pair in outcome.agreement.pairs:
            marks = f"{pair.marks[0]} and {_counted(pair.marks[1], 'microbleed')}, {pair.matched} of them the same"
            dice, kappa = number(pair.positive_agreement), number(pair.kappa)
            typer.echo(
                f"{' and '.join(pair.raters)}, {_counted(pair.scans, 'scan')}: {marks}, positive agreement {dice}; "
                f"scans with microbleeds: Cohen's kappa {kappa}"
            )
        typer.echo(f"microbleeds per scan: ICC(A,1) {number(outcome.agreement.icc)}")
    scans = len({(x.subject, x.session) for x in outcome.lines if x.subject})
    typer.echo(f"{_counted(scans, 'scan')}; {_counted(outcome.added, 'row')} added" + (" (nothing written)" if dry_run else ""))


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    """KEY=VALUE texts as a dict."""
    from cmb_models.errors import InputError

    if wrong := [text for text in texts if not all(text.partition("="))]:
        raise InputError("setting-invalid", option, "NAME=VALUE", wrong[0], "write it as one argument with an equals sign")
    return {name.strip(): value.strip() for name, _, value in (text.partition("=") for text in texts)}

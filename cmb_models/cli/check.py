"""`cmb check`: everything that is wrong with a site's data, at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmb_models.cli.terminal import AsJson, console, print_json, quiet_nibabel, table

SHOWN = 5  # files in one row of the table

if TYPE_CHECKING:
    from cmb_models.config.params import Params
    from cmb_models.dataset.check.overview import DataCheck
    from cmb_models.errors import InputError


def check(
    data: Annotated[
        Path | None,
        typer.Argument(help="A dataset, or a folder of datasets.", show_default="the raw data of the workspace in this folder"),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write an HTML page with each scan and each marked microbleed."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check scans and annotations, and list every fault with its remedy. Exit code 1: errors, 0: warnings at most.

    The raw data of a workspace are also checked for whether they can be split into folds and a held-out test set.
    """
    from cmb_models.dataset.check.overview import check_data
    from cmb_models.report.dataset.pictures import ScanPicture, draw_scan
    from cmb_models.workspace.withdrawals import withdrawn_hashes

    params = _params(data)
    folder = Path(params.ingest.raw_dir) if params and data is None else data
    assert folder is not None
    pictures: list[ScanPicture] = []

    def draw(scan, ras) -> None:
        if page is not None:
            pictures.append(draw_scan(scan, ras))

    quiet_nibabel()
    found = check_data(folder, params, draw, withdrawn_hashes(Path(".")))
    if page is not None:
        from cmb_models.files import write_text
        from cmb_models.report.dataset.page import render

        write_text(page, render(found, pictures))
    if as_json:
        print_json(_as_dict(found))
    else:
        _print(found, folder)
        if page is not None:
            typer.echo(f"page: {page}")
    if found.faults:
        raise typer.Exit(1)


def _params(data: Path | None) -> Params | None:
    """The parameters of the workspace in this folder, if its raw data are to be checked."""
    from cmb_models.config.params import load_params
    from cmb_models.errors import InputError
    from cmb_models.workspace.paths import PARAMS

    if data is None and not PARAMS.is_file():
        remedy = "name a dataset, or run this in a workspace"
        raise InputError("options-conflict", "cmb check", "a dataset, or a workspace", f"no {PARAMS} here", remedy)
    if not PARAMS.is_file():
        return None
    params = load_params(PARAMS)
    is_raw = data is None or data.resolve() == Path(params.ingest.raw_dir).resolve()
    return params if is_raw else None


def _print(found: DataCheck, folder: Path) -> None:
    from cmb_models.errors import printable

    rows = [("error", fault) for fault in found.faults] + [("warning", warning) for warning in found.warnings]
    if rows:
        files: dict[tuple[str, str, str], list[str]] = {}
        for severity, error in rows:
            files.setdefault((severity, error.code, _sentences(error)), []).append(error.case.removeprefix(printable(f"{folder}/")))
        cells = [(severity, _listed(names), code, text) for (severity, code, text), names in files.items()]
        console().print(table("", "file", "code", "expected, got, remedy", rows=cells))
    for line in _lines(found):
        typer.echo(printable(line))
    if found.advice:
        typer.echo(found.advice)
    typer.echo(f"errors {len(found.faults)}, warnings {len(found.warnings)}")


def _sentences(error: InputError) -> str:
    return f"expected {error.expected}\ngot {error.got}\n{error.remedy}"


def _listed(names: list[str]) -> str:
    """The files with one finding: the first few, since a hundred scans may be unread."""
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return "\n".join([*names[:SHOWN], *more])


def _lines(found: DataCheck) -> list[str]:
    """What was found of each dataset, what is not used, and what the scans can show."""
    from cmb_models.dataset.layout import by_reason

    lines = []
    for checked in found.datasets:
        cmbs = sum(entry["n_cmbs"] for entry in checked.used)
        empty, brains = sum(not entry["n_cmbs"] for entry in checked.used), sum(entry["brain_extracted"] for entry in checked.used)
        subjects = len({scan.subject for scan in checked.scans})
        lines.append(
            f"{checked.folder.name}: scans {len(checked.scans)} ({empty} without microbleeds, {len(checked.unread)} unread, "
            f"{brains} brain-extracted), subjects {subjects}, microbleeds {cmbs}"
        )
    unused = by_reason(found.left_out)
    lines += [f"not used ({reason}): {_counted(images)}" for reason, images in unused.items()]
    for worth in found.worth:
        interval = f"{100 * worth.low:.0f}-{100 * worth.high:.0f} % or wider" if worth.cmbs else "cannot be measured"
        lines.append(
            f"{worth.what}: microbleeds {worth.cmbs} in {worth.subjects} subjects; "
            f"95 % interval of a sensitivity of 80 %: {interval}"
        )
    return lines


def _counted(images: list[Path]) -> str:
    return f"{images[0]}" if len(images) == 1 else f"{len(images)} images, such as {images[0]}"


def _as_dict(found: DataCheck) -> dict:
    from dataclasses import asdict

    return {
        "errors": [fault.as_dict() for fault in found.faults],
        "warnings": [warning.as_dict() for warning in found.warnings],
        "datasets": {
            checked.folder.name: {"scans": list(checked.entries.values()), "unread": [str(scan.path) for scan in checked.unread]}
            for checked in found.datasets
        },
        "not_used": {str(image): reason for image, reason in found.left_out.items()},
        "worth": [asdict(worth) for worth in found.worth],
        "advice": found.advice,
    }


def add_to(app: typer.Typer) -> None:
    app.command()(check)

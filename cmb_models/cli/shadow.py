"""`cmb server shadow-report`, and the shadow run of a challenger after `cmb detect`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmb_models.cli.terminal import AsJson, console, print_json
from cmb_models.errors import InputError

if TYPE_CHECKING:
    from cmb_models.shadow.compare import Answered

MAX_FAILURES = 3  # in a row, after which the remaining scans are dropped


def report(
    file: Annotated[Path, typer.Argument(help="The log written by `cmb detect --shadow FILE`.", show_default=False)],
    html: Annotated[Path | None, typer.Option(help="Also write an HTML page with a chart.")] = None,
    as_json: AsJson = False,
) -> None:
    """Report the agreement of the challenger with production: per lesion, by week, and the scans that differ most."""
    from cmb_models.client.log_lines import read_lines
    from cmb_models.shadow.summary import summarise

    if not file.is_file():
        raise InputError("file-not-found", file, "a log of `cmb detect --shadow`", "no file", "pass the file given to --shadow")
    summary = summarise(read_lines(file))
    if html is not None:
        from cmb_models.files import write_text
        from cmb_models.shadow.page import render

        write_text(html, render(summary))
    if as_json:
        print_json(summary)
        return
    _print(summary)
    if html is not None:
        console().print(f"page written to {html}", markup=False)


def _print(summary: dict) -> None:
    from cmb_models.cli.terminal import table
    from cmb_models.report.wording import percent, plural

    out = console()
    for pair in summary["pairs"]:
        names = {side: f"release {pair[side]['release'] or 'unregistered'}" for side in ("production", "challenger")}
        out.print(
            f"{names['challenger']} shadowing {names['production']}: {plural(pair['scans'], 'scan')},"
            f" {pair['scans_alike']} with identical detections",
            style="bold",
        )
        rows = [("all", pair), *((week["week"], week) for week in pair["weeks"])]
        heads = ("", "scans", "both report", "production alone", "challenger alone", "agreement (95 %)")
        numbers = ("scans", "both", "only_production", "only_challenger")
        cells = [(n, *(str(c[k]) for k in numbers), percent(c["agreement"], c["agreement_95"])) for n, c in rows]
        out.print(table(*heads, rows=cells))
        if shift := pair["score_shift"]:
            mean, size = f"{shift['mean']:+.3f}", f"{shift['mean_absolute']:.3f}"
            out.print(
                f"score of the challenger minus production, where both report: mean {mean}, mean absolute {size}", markup=False
            )
        for scan in pair["most_different"]:
            name = scan["scan"] or scan["input_sha256"][:12]
            alone = f"production alone {len(scan['only_production'])}, challenger alone {len(scan['only_challenger'])}"
            out.print(f"  {name}: {alone}, both {scan['both']}", markup=False)
    if not summary["pairs"]:
        out.print("no scans have been compared")
    for row in summary["not_compared"]:
        out.print(f"{row['outcome']}: {plural(row['scans'], 'scan')}, {row['reason']}", style="yellow", markup=False)


def shadow_scans(scans: Sequence[Callable[[], Answered]], url: str, file: Path) -> None:
    """Send processed scans to the server's challenger, one by one, and append a line per scan to `file`.

    scans: functions that read a scan, so that only one is in memory. Failures are printed and logged, never raised.
    """
    from cmb_models.client.contract import CHALLENGER
    from cmb_models.client.grpc import Client
    from cmb_models.report.wording import plural
    from cmb_models.shadow.compare import compare_challenger, shadow_log, uncompared

    out, log, failed, compared = console(), shadow_log(file), 0, 0
    try:
        with Client(url, model=CHALLENGER) as client:
            for read in scans:
                scan = read()
                if failed == MAX_FAILURES:
                    entry = uncompared(scan, "dropped", f"the challenger failed on {MAX_FAILURES} scans in a row")
                else:
                    entry = compare_challenger(scan, client.detect)
                log.append(entry)
                failed = 0 if entry["outcome"] == "compared" else min(failed + 1, MAX_FAILURES)
                compared += entry["outcome"] == "compared"
                if entry["outcome"] == "failed":
                    out.print(f"challenger: {entry['reason']}", style="yellow", markup=False)
    except (OSError, InputError) as error:  # a full disk or missing scan does not affect the results
        out.print(f"challenger: {error}", style="yellow", markup=False)
    out.print(f"challenger: {compared} of {plural(len(scans), 'scan')} compared, in {file}", markup=False)

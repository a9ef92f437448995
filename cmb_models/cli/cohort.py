"""`cmb cohort`: detection in thousands of scans by one or more servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from cmb_models.cohort.drift import Drift

EPILOG = (
    "Exit code: 0 all scans were processed, 1 some were rejected, 2 nothing could start. Research software, not a medical device."
)


def cohort(
    manifest: Annotated[
        Path,
        typer.Argument(
            help="CSV file with the column scan (NIfTI files, or folders of DICOM files), and optionally phase and name; or a BIDS "
            "dataset's folder."
        ),
    ],
    into: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the results, new or of an interrupted run.")],
    server: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="gRPC address; repeat it for several servers (default: the one started here)."),
    ] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Lowest score to keep (default: the release's).")] = None,
    slots: Annotated[int, typer.Option(min=1, help="Scans at a time for each server.")] = 2,
    partition: Annotated[int, typer.Option(min=1, help="Scans in a file of results.")] = 50,
    bundle: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|base", help="The servers' release, to compare the cohort with the data it was trained on."),
    ] = None,
) -> None:
    """Detect microbleeds in a cohort: all scans of a manifest or a BIDS dataset.

    Writes scans/ and detections/ as partitioned Parquet, and summary.json. Run again after an interruption, it continues where it
    stopped. A rejected scan is a row with its error code. All servers must run the same release.
    """
    from rich.console import Console

    from cmb_models.cli.detect import started_server
    from cmb_models.cli.terminal import quiet_nibabel
    from cmb_models.cohort.drift import open_release
    from cmb_models.cohort.listing import list_cohort
    from cmb_models.cohort.reading import require_readers
    from cmb_models.cohort.results import open_results, pinned_release, require_writer, write_summary
    from cmb_models.cohort.run import run_cohort
    from cmb_models.cohort.servers import Servers
    from cmb_models.dataset.statistics import training_references
    from cmb_models.files import claimed

    require_writer()
    quiet_nibabel()
    listed = list_cohort(manifest)
    scans = listed.scans
    require_readers(scans)
    urls = list(dict.fromkeys(server or [started_server()]))
    stderr = Console(stderr=True, soft_wrap=True, highlight=False)
    pinned = pinned_release(into)
    release = open_release(bundle, pinned) if bundle else None
    training = training_references(release.metadata) if release else None
    expected = release.manifest_sha256 if release else pinned
    with claimed(into / ".lock", "write these results"), Servers(urls, slots, expected) as servers:
        open_results(into, listed.sha256, servers.manifest_sha256, threshold, partition)
        with _progress(stderr) as progress:
            bar = progress.add_task("scans", total=len(scans))
            run_cohort(scans, servers, into, partition, threshold, lambda count: progress.advance(bar, count))
            found = write_summary(into, training)
    rejected = found["scans"] - found["processed"]
    typer.echo(
        f"{found['processed']} of {found['scans']} scans processed, {found['detections']} detections in "
        f"{found['scans_with_detections']} of them; in {into}: scans, detections, summary.json"
    )
    if "drift" in found:
        _show(found["drift"])
    if rejected:
        typer.echo("rejected: " + ", ".join(f"{count} {code}" for code, count in sorted(found["rejected"].items())), err=True)
        raise typer.Exit(1)


def _show(drift: Drift) -> None:
    """A line for each quantity that was compared with the training data, and what was not compared."""
    from cmb_models.cli.terminal import number

    if drift["quantities"]:
        typer.echo("5th, 50th and 95th percentiles of the cohort, and of the training data:")
    for name, found in drift["quantities"].items():
        cohort, training = (", ".join(map(number, percentiles)) for percentiles in (found["cohort"], found["training"]))
        flags = [text for text, flag in (("range", found["outside_flag"]), ("distance", found["distance_flag"])) if flag]
        shares = f"{100 * found['outside']:.3g} % outside the range, KS distance {number(found['distance'])}"
        differs = f"; differs in {' and '.join(flags)}" if flags else ""
        typer.echo(f"{name}: {cohort}; training data {training}; {shares}{differs}")
    if drift["not_compared"]:
        typer.echo(f"not compared with the training data: {', '.join(drift['not_compared'])}")


def _progress(console: Console) -> Progress:
    """A bar with the rate over the last minutes and the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.2f} scans/s")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal, speed_estimate_period=120)


def add_to(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(cohort)

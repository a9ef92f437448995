"""`cmb cohort`: detection in thousands of scans by one or more servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

EPILOG = (
    "Exit code: 0 all scans were processed, 1 some were rejected, 2 nothing could start. Research software, not a medical device."
)


def cohort(
    manifest: Annotated[Path, typer.Argument(help="CSV file with the column scan, and optionally phase and name.")],
    into: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the results, new or of an interrupted run.")],
    server: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="gRPC address; repeat it for several servers (default: the one started here)."),
    ] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Lowest score to keep (default: the release's).")] = None,
    slots: Annotated[int, typer.Option(min=1, help="Scans at a time for each server.")] = 2,
    partition: Annotated[int, typer.Option(min=1, help="Scans in a file of results.")] = 50,
) -> None:
    """Detect microbleeds in a cohort, as many scans as a manifest lists.

    Writes scans/ and detections/ as partitioned Parquet, and summary.json. Run again after an interruption, it goes on where it
    stopped. A rejected scan is a row with its error code. All servers must run the same release.
    """
    from rich.console import Console

    from cmb_models.cli.detect import started_server
    from cmb_models.cli.terminal import quiet_nibabel
    from cmb_models.cohort.manifest import read_manifest
    from cmb_models.cohort.results import open_results, pinned_release, write_summary
    from cmb_models.cohort.run import run_cohort
    from cmb_models.cohort.servers import Servers
    from cmb_models.files import claimed

    quiet_nibabel()
    scans = read_manifest(manifest)
    urls = list(dict.fromkeys(server or [started_server()]))
    stderr = Console(stderr=True, soft_wrap=True, highlight=False)
    with claimed(into / ".lock", "write these results"), Servers(urls, slots, pinned_release(into)) as servers:
        open_results(into, manifest, servers.manifest_sha256, threshold, partition)
        with _progress(stderr) as progress:
            bar = progress.add_task("scans", total=len(scans))
            run_cohort(scans, servers, into, partition, threshold, lambda count: progress.advance(bar, count))
            found = write_summary(into)
    rejected = found["scans"] - found["processed"]
    typer.echo(
        f"{found['processed']} of {found['scans']} scans processed, {found['detections']} detections in "
        f"{found['scans_with_detections']} of them; in {into}: scans, detections, summary.json"
    )
    if rejected:
        typer.echo("rejected: " + ", ".join(f"{count} {code}" for code, count in sorted(found["rejected"].items())), err=True)
        raise typer.Exit(1)


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

"""`cmb detect`: scans to a table of microbleeds, by a running server or by a bundle in this process."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmb_models.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from cmb_models.client.outputs import ScanResult
    from cmb_models.detection import Detector
    from cmb_models.shadow.compare import Answered

log = logging.getLogger(__name__)

SERVER_STATE = Path("serving-state/server.json")  # where `cmb server run` leaves the address of the server it started
# Whoever gets one of these for one scan gets it for all.
OF_THE_SERVER = (
    *("server-unreachable", "server-without-release", "server-not-running", "shared-memory-unavailable"),
    *("tls-refused", "tls-file", "tls-incomplete", "admin-key-wrong"),
)
EPILOG = (
    "Exit code: 0 every scan was answered, 1 some were refused, 2 nothing could start. Research software, not a medical device."
)


def detect(
    scans: Annotated[list[Path], typer.Argument(help="SWI scans, .nii or .nii.gz, one 3D volume each.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the results; those of an earlier call are overwritten.")],
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="gRPC address of a server (default: as started here).")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="A bundle to run in this process, without a server.")] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Lowest score to report (default: the release's).")] = None,
    phase: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A scan's phase image (default: NAME_part-phase_swi beside NAME_swi, where it is used)."),
    ] = None,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="A picture of each scan with its findings.")] = True,
    shadow: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Then ask the server's challenger too; append what differs to FILE.")
    ] = None,
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help="Hand scans to a server on this machine in its memory; needs CMB_ADMIN_KEY.")
    ] = False,
) -> None:
    """Find microbleeds in scans.

    Writes detections.csv (a row per finding), detections.json (the same with thresholds, release and refused scans) and a PNG per
    scan. A scan that cannot be used is told on stderr, and the others go on. With a release that uses phase every scan needs its
    phase image; repeat --phase for several scans, in their order.
    """
    from rich.console import Console

    from cmb_models.client.outputs import CSV_FILE, JSON_FILE, write_csv, write_summary

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)  # it logs header faults that read_volume tells in one line
    check_names(scans)
    phases = phase_files(scans, phase)
    prepare_folder(out)
    check_plotting(figures)
    detector, source = open_detector(server, bundle, shadow, shared_memory)
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    pictures = out if figures else None
    results = run_scans(scans, lambda path: answer_scan(path, detector, threshold, pictures, phases.get(path)), errors)
    write_csv(out / CSV_FILE, results)
    write_summary(out / JSON_FILE, results)
    show(Console(), results, source)
    written = f"{CSV_FILE}, {JSON_FILE}" + (", a picture of each answered scan" if figures else "")
    Console(soft_wrap=True, highlight=False).print(f"in {out}: {written}", markup=False)
    if shadow:
        mirror(results, phases, server or started_server(), shadow)
    if any(r.answer is None for r in results):
        raise typer.Exit(1)


def check_names(scans: list[Path]) -> None:
    """Raise InputError for two scans of one name: results go by it."""
    from cmb_models.io.nifti import scan_name

    files = defaultdict(list)
    for path in scans:
        files[scan_name(path)].append(str(path))
    same = [f"{', '.join(paths)} (all `{name}`)" for name, paths in files.items() if len(paths) > 1]
    if same:
        raise InputError(
            "scan-name-repeated",
            "scans",
            "a different name for each",
            "; ".join(same),
            "rename them, or pass them in calls of their own",
        )


def phase_files(scans: Sequence[Path], phases: Sequence[Path] | None) -> dict[Path, Path]:
    """The phase image that was named for each scan; {} when none was. Raises InputError for more or fewer than scans."""
    if phases and len(phases) != len(scans):
        raise InputError(
            "option-count",
            "--phase",
            f"one for each of {len(scans)} scans, in their order",
            f"{len(phases)}",
            "name as many, or none",
        )
    return dict(zip(scans, phases or (), strict=False))


def prepare_folder(out: Path) -> None:
    """Make the output folder and try that it can be written, before any scan is sent."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK | os.X_OK):
            raise PermissionError("permission denied")
    except OSError as error:
        got = "a file" if out.is_file() else (error.strerror or str(error)).lower()
        raise InputError("folder-not-writable", out, "a folder to write results into", got, "pass another --out") from error


def check_plotting(figures: bool) -> None:
    """Raise InputError if pictures are wanted and matplotlib is missing."""
    if figures and importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            "package-missing", "figures", "matplotlib", "none", "run pip install 'cmb-models[client]', or pass --no-figures"
        )


def open_detector(
    server: str | None, bundle: Path | None, shadow: Path | None = None, shared_memory: bool = False
) -> tuple[Detector, str]:
    """The detector, and where it runs in words. Raises InputError unless one place is clear."""
    if shared_memory and bundle:
        raise InputError("options-conflict", "cmb detect", "a server to share memory with", "--bundle", "drop one")
    if shadow and bundle:
        raise InputError("options-conflict", "cmb detect", "a server with a challenger for --shadow", "--bundle", "drop one")
    if server and bundle:
        raise InputError("options-conflict", "cmb detect", "either --server or --bundle", "both", "drop one")
    from cmb_models.api import connect, load

    if bundle:
        from cmb_models.release.keys import bundle_keys

        return load(bundle, trusted_keys=bundle_keys(bundle, Path(".")) or None), f"bundle {bundle}"
    address = server or started_server()
    return connect(address, shared_memory=shared_memory), f"server {address}"


def started_server() -> str:
    """The gRPC address of the server that was started in this folder."""
    from cmb_models.files import read_json

    if not SERVER_STATE.is_file():
        remedy = "pass --server HOST:PORT or --bundle DIR, or start a server here with `cmb server run`"
        raise InputError("server-not-running", "cmb detect", "a server or a bundle", f"neither, and no {SERVER_STATE}", remedy)
    try:
        return str(read_json(SERVER_STATE)["grpc_url"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "server-not-running", SERVER_STATE, "a grpc_url", str(error) or "none", "pass --server HOST:PORT"
        ) from error


def answer_scan(
    path: Path, detector: Detector, threshold: float | None, figures: Path | None, phase: Path | None = None
) -> ScanResult:
    """Read one scan, have it answered and draw it into the folder `figures`. Raises InputError with the path as its case.

    phase: its phase image's file, None for the one beside it; neither is opened unless the release uses phase.
    """
    from cmb_models.client.outputs import ScanResult
    from cmb_models.client.scan_id import scan_sha256
    from cmb_models.dataset.layout import read_phase
    from cmb_models.io.nifti import read_volume, scan_name

    volume, requires_phase = read_volume(path), detector.requires_phase
    if phase and not requires_phase:
        log.warning("%s: the release does not use phase, %s is left aside", path, phase)
    answer = detector.detect(volume, read_phase(path, phase) if requires_phase else None, case=str(path))
    answer = replace(answer, volume=None)  # a folder of scans would not fit into memory
    result = ScanResult(scan_name(path), str(path), answer, threshold=threshold, input_sha256=scan_sha256(volume))
    if figures:
        from cmb_models.figures.findings import save_figure

        save_figure(answer.plot(volume, threshold=threshold, title=result.scan), figures / f"{result.scan}.png")
    return result


def mirror(results: Sequence[ScanResult], phases: dict[Path, Path], url: str, shadow: Path) -> None:
    """Send the scans that were answered to the server's challenger too; the answers stand whatever comes of it."""
    from cmb_models.cli.shadow import shadow_scans

    answered = [r for r in results if r.answer]
    shadow_scans([partial(asked_again, r, phases.get(Path(r.file))) for r in answered], url, shadow)


def asked_again(result: ScanResult, phase: Path | None) -> Answered:
    """An answered scan, read anew for the challenger, with its phase image where there is one."""
    from cmb_models.dataset.layout import read_phase
    from cmb_models.io.nifti import read_volume
    from cmb_models.shadow.compare import Answered

    # Only scans that were answered are asked again.
    assert result.answer is not None
    path = Path(result.file)
    try:
        image = read_phase(path, phase)
    except InputError:  # the challenger tells, if it needs one
        image = None
    return Answered(result.scan, read_volume(path), result.answer, image)


def run_scans(scans: list[Path], answer: Callable[[Path], ScanResult], errors: Console) -> list[ScanResult]:
    """Answer the scans one by one; refusals are printed on `errors` as they come.

    A fault that is not the scan's own (the server is gone) ends the work: before any answer it is raised, later the scans left
    are listed with it, so that the answers so far are kept.
    """
    from rich.markup import escape

    from cmb_models.client.outputs import ScanResult
    from cmb_models.io.nifti import scan_name

    results = []
    with _progress(errors) as progress:
        bar = progress.add_task("", total=len(scans))
        for n, path in enumerate(scans):
            progress.update(bar, description=escape(path.name))
            try:
                results.append(answer(path))
            except (InputError, RuntimeError) as error:  # RuntimeError: the server failed on this scan
                stop = isinstance(error, InputError) and error.code in OF_THE_SERVER
                if stop and not any(r.answer for r in results):
                    raise
                errors.print(f"[bold red]error:[/] {escape(str(error))}")
                results += [
                    ScanResult(scan_name(p), str(p), error=str(error), code=getattr(error, "code", ""))
                    for p in (scans[n:] if stop else [path])
                ]
                if stop:
                    break
            progress.advance(bar)
    return results


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def show(console: Console, results: list[ScanResult], source: str) -> None:
    """Print a line per scan."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Microbleeds by {escape(source)}", title_justify="left")
    table.add_column("scan", overflow="fold")
    for name in ("findings", "best score", "threshold", "release"):
        table.add_column(name, justify="right")
    for r in results:
        if r.answer is None:
            table.add_row(escape(r.scan), "[red]refused[/]", "", "", "")
            continue
        best = f"{r.answer.candidates[0].score:.3f}" if r.answer.candidates else "-"
        table.add_row(
            escape(r.scan), str(len(r.detections)), best, f"{r.threshold_used:.3f}", str(r.answer.release or "unregistered")
        )
    console.print(table)


def add_to(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(detect)

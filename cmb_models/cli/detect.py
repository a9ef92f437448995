"""`cmb detect`: detection in scans by a running server or by a bundle in this process."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmb_models.base_release import BASE, is_shipped
from cmb_models.cli.terminal import check_analysis, quiet_nibabel
from cmb_models.errors import InputError, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from cmb_models.client.outputs import ScanResult
    from cmb_models.cohort.manifest import CohortScan
    from cmb_models.detection import Detector
    from cmb_models.outputs.answer import Outputs
    from cmb_models.shadow.compare import Answered

FROC = "evaluation/froc.json"  # in a bundle
SERVER_STATE = Path("serving-state/server.json")  # written by `cmb server run`
# Errors that every further scan would get too.
SERVER_ERRORS = (
    *("server-unreachable", "server-without-release", "server-not-running", "server-version"),
    "shared-memory-unavailable",
    *("tls-refused", "tls-file", "tls-incomplete", "admin-key-wrong"),
)
TRAIN_HINT = "To train on your own scans, which simulated ones do not replace: `cmb init FOLDER`"
EPILOG = (
    "Exit code: 0 all scans were processed, 1 some were rejected, 2 nothing could start. Research software, not a medical device."
)

# How a command chooses its detector (`open_detector`).
ServerOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="gRPC address of a server (default: the one started here, else --bundle base)."),
]
BundleOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="A bundle to run in this process, without a server; base: the package's, trained on simulated scans only.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="Without a server: cpu, cuda, or auto for a CUDA device that works (default: auto)."),
]


def detect(
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="SWI scans: .nii or .nii.gz files, folders with them, BIDS datasets, folders of DICOM files with one SWI.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; those of an earlier call are overwritten.")],
    server: ServerOption = None,
    bundle: BundleOption = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Lowest score to report (default: the release's).")] = None,
    fp_rate: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Instead of --threshold: the one that gave so many false positives per scan on the release's held-out test set.",
        ),
    ] = None,
    phase: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A scan's phase image, or folder of its phase series, if used (default: NAME_part-phase_swi next to NAME_swi, or "
            "in the same folder).",
        ),
    ] = None,
    figures: Annotated[
        bool | None,
        typer.Option(
            "--figures/--no-figures",
            help="Save a picture of each scan with its detections (default: where the extra `analysis` is installed).",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Save each scan's detections as a label image with their volumes.")
    ] = False,
    dicom: Annotated[
        bool,
        typer.Option("--dicom", help="Save the detections in DICOM scans as SEG and SR objects, which carry the patient's name."),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Save a page of each scan, NAME.html, with its detections and a viewer.")
    ] = False,
    all_candidates: Annotated[
        bool, typer.Option("--all-candidates", help="Also write candidates.csv: every candidate with the scores of both networks.")
    ] = False,
    shadow: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also run the server's challenger; append a comparison to FILE.")
    ] = None,
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help="Pass scans to a server on this machine by shared memory; needs CMB_ADMIN_KEY.")
    ] = False,
    device: DeviceOption = None,
) -> None:
    """Detect microbleeds in scans.

    Writes detections.csv (one row per detection), detections.json (with thresholds, release and rejected scans) and a PNG per scan;
    with --labels also NAME_desc-cmb_dseg.nii.gz and .tsv, in the space of the scan; with --dicom NAME_cmb_sr.dcm and, if there are
    detections, NAME_cmb_seg.dcm; with --report NAME.html.
    A rejected scan is reported on stderr, and the others are processed. A release that uses phase needs the phase image of every
    scan; repeat --phase for several scans, in their order.
    """
    from rich.console import Console

    from cmb_models.client.outputs import CANDIDATES_FILE, CSV_FILE, JSON_FILE, write_candidates, write_csv, write_summary
    from cmb_models.cohort.listing import list_scans
    from cmb_models.outputs.answer import Outputs, require_dicom
    from cmb_models.outputs.labels import describe_dataset
    from cmb_models.report.scan.write import check_reporting

    quiet_nibabel()
    listed = list_scans(scans, phase_files(scans, phase), without=out)
    check_names(listed, labels)
    require_dicom([Path(scan.path) for scan in listed], dicom)
    prepare_folder(out)
    figures = check_analysis(figures, "label images" if labels else "")
    check_reporting(report)
    detector, source = open_detector(server, bundle, shadow, shared_memory, device)
    if fp_rate is not None:
        threshold = threshold_at(detector, fp_rate, threshold)
    stderr = Console(stderr=True, soft_wrap=True, highlight=False)
    outputs = Outputs(out, figures, labels, dicom, report)
    results = run_scans(listed, lambda scan: answer_listed(scan, detector, threshold, outputs), stderr)
    if labels and any(scan.place for scan in listed):
        describe_dataset(out)
    write_csv(out / CSV_FILE, results)
    write_summary(out / JSON_FILE, results)
    if all_candidates:
        write_candidates(out / CANDIDATES_FILE, results)
    show(Console(), results, source)
    written = (
        f"{CSV_FILE}, {JSON_FILE}"
        + f", {CANDIDATES_FILE}" * all_candidates
        + ", a picture of each processed scan" * figures
        + ", label images" * labels
        + ", DICOM SR and SEG" * dicom
        + ", a report of each processed scan" * report
    )
    device = getattr(detector, "device", "")  # of networks in this process
    where = f"; device: {device}" if device else ""
    stdout = Console(soft_wrap=True, highlight=False)
    stdout.print(f"in {out}: {written}{where}", markup=False)
    if getattr(detector, "origin", ""):
        stdout.print(TRAIN_HINT, markup=False)
    if shadow:
        mirror(results, {str(scan.path): scan.phase for scan in listed}, server or started_server(), shadow)
    if any(r.answer is None for r in results):
        raise typer.Exit(1)


def check_names(scans: Sequence[CohortScan], labels: bool = False) -> None:
    """Raise InputError for two scans of the same name, which identifies results, or whose label images would have one name."""
    from cmb_models.outputs.labels import label_name

    files = defaultdict(list)
    for scan in scans:
        files[label_name(scan.name) if labels else scan.name].append(str(scan.path))
    repeated = [f"{', '.join(paths)} (all `{name}`)" for name, paths in files.items() if len(paths) > 1]
    if repeated:
        raise InputError(
            "scan-name-repeated",
            "scans",
            "a different name for each",
            "; ".join(repeated),
            "rename them, or pass them in separate calls",
        )


def phase_files(scans: Sequence[Path], phases: Sequence[Path] | None) -> dict[Path, Path]:
    """The phase image given for each scan; {} without any. Raises InputError unless there are as many as scans."""
    if phases and len(phases) != len(scans):
        raise InputError(
            "option-count",
            "--phase",
            f"one for each of {len(scans)} scans, in their order",
            f"{len(phases)}",
            "pass as many, or none",
        )
    return dict(zip(scans, phases or (), strict=False))


def prepare_folder(out: Path) -> None:
    """Create the output folder and check that it is writable before any scan is sent."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK | os.X_OK):
            raise PermissionError("permission denied")
    except OSError as error:
        got = "a file" if out.is_file() else (error.strerror or str(error)).lower()
        raise InputError("folder-not-writable", out, "a folder to write results into", got, "pass another --out") from error


def open_detector(
    server: str | None,
    bundle: str | Path | None,
    shadow: Path | None = None,
    shared_memory: bool = False,
    device: str | None = None,
) -> tuple[Detector, str]:
    """The detector and a description of it.

    Without a server or a bundle named, it is the server that was started here, else the base release in this process. Raises
    InputError for conflicting options, and without either.
    """
    if shared_memory and bundle:
        raise InputError("options-conflict", "cmb detect", "a server to share memory with", "--bundle", "drop one")
    if shadow and bundle:
        raise InputError("options-conflict", "cmb detect", "a server with a challenger for --shadow", "--bundle", "drop one")
    if server and bundle:
        raise InputError("options-conflict", "cmb detect", "either --server or --bundle", "both", "drop one")
    needs_server = server or shadow or shared_memory or SERVER_STATE.is_file()
    if not bundle and not needs_server and is_shipped():
        bundle = BASE
    from cmb_models.api import connect, load

    if bundle:
        from cmb_models.release.keys import bundle_keys, trusted_keys

        keys = trusted_keys(Path(".")) if bundle == BASE else bundle_keys(Path(bundle), Path("."))
        detector = load(bundle, trusted_keys=keys or None, device=device or "auto")
        return detector, detector.origin or f"bundle {bundle}"
    address = server or started_server()
    if device:
        remedy = "leave it out: a server chooses its device itself"
        raise InputError("options-conflict", "cmb detect", "--device without a server", f"server {address}", remedy)
    return connect(address, shared_memory=shared_memory), f"server {address}"


def threshold_at(detector: Detector, fp_rate: float, threshold: float | None) -> float:
    """The threshold at a rate of false positives per scan in the release's stored FROC table, of its held-out test set.

    Raises InputError with --threshold, for a server, which does not serve that table, and for a release or rate without an entry.
    """
    from cmb_models.files import read_json

    opened = getattr(detector, "bundle", None)
    if threshold is not None or opened is None:
        expected, got = ("--fp-rate alone", "--threshold") if threshold is not None else ("--fp-rate with --bundle", "a server")
        raise InputError("options-conflict", "cmb detect", expected, got, "drop one, or pass the threshold itself")
    file = opened.path / FROC
    thresholds = {row["fp_per_scan"]: row["threshold"] for row in read_json(file)} if file.is_file() else {}
    if fp_rate not in thresholds:
        expected = "one of " + ", ".join(f"{rate:g}" for rate in thresholds) if thresholds else "a release with a held-out test set"
        remedy = "choose one of these, or pass --threshold" if thresholds else "register the release, or pass --threshold"
        raise InputError("setting-invalid", "--fp-rate", expected, f"{fp_rate:g}", remedy)
    return float(thresholds[fp_rate])


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


def answer_listed(scan: CohortScan, detector: Detector, threshold: float | None, outputs: Outputs) -> ScanResult:
    """As `outputs.answer.answer_scan`, of a scan of `list_scans`."""
    from cmb_models.outputs.answer import answer_scan

    phase = None if scan.phase is None else Path(scan.phase)
    return answer_scan(scan.name, Path(scan.path), detector, threshold, outputs, phase, scan.place)


def mirror(results: Sequence[ScanResult], phases: Mapping[str, Path | str | None], url: str, shadow: Path) -> None:
    """Run the server's challenger on the processed scans; the results are unaffected. phases: the phase image by a scan's path."""
    from cmb_models.cli.shadow import shadow_scans

    answered = [r for r in results if r.answer and not r.warning]  # answers are compared in millimetres
    shadow_scans([partial(reread_scan, r, phases.get(r.file)) for r in answered], url, shadow)


def reread_scan(result: ScanResult, phase: Path | str | None) -> Answered:
    """A processed scan, read again for the challenger, with its phase image if there is one."""
    from cmb_models.outputs.images import read_images
    from cmb_models.shadow.compare import Answered

    assert result.answer is not None
    path, own_phase = Path(result.file), None if phase is None else Path(phase)
    try:
        images = read_images(path, own_phase, requires_phase=True)
    except InputError:  # the challenger rejects the scan if it needs one
        images = read_images(path, own_phase, requires_phase=False)
    return Answered(result.scan, images.swi, result.answer, images.phase)


def run_scans(scans: Sequence[CohortScan], answer: Callable[[CohortScan], ScanResult], errors: Console) -> list[ScanResult]:
    """Process the scans one by one; rejections are printed on `errors`.

    A server error stops processing: it is raised if no scan was processed, else recorded for the remaining scans, so that earlier
    results are kept.
    """
    from rich.markup import escape

    from cmb_models.client.outputs import ScanResult

    results = []
    with _progress(errors) as progress:
        bar = progress.add_task("", total=len(scans))
        for n, scan in enumerate(scans):
            progress.update(bar, description=escape(printable(scan.name)))
            try:
                results.append(answer(scan))
            except (InputError, RuntimeError) as error:  # RuntimeError: the server failed on this scan
                stop = isinstance(error, InputError) and error.code in SERVER_ERRORS
                if stop and not any(r.answer for r in results):
                    raise
                errors.print(f"[bold red]error:[/] {escape(str(error))}")
                results += [
                    ScanResult(s.name, str(s.path), error=str(error), code=getattr(error, "code", ""))
                    for s in (scans[n:] if stop else [scan])
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
    """Print one row per scan."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Microbleeds by {escape(source)}", title_justify="left")
    table.add_column("scan", overflow="fold")
    for name in ("detections", "best score", "threshold", "release"):
        table.add_column(name, justify="right")
    for r in results:
        if r.answer is None:
            table.add_row(escape(printable(r.scan)), "[red]rejected[/]", "", "", "")
            continue
        best = f"{r.answer.candidates[0].score:.3f}" if r.answer.candidates else "-"
        table.add_row(
            escape(printable(r.scan)),
            str(len(r.detections)),
            best,
            f"{r.threshold_used:.3f}",
            str(r.answer.release or ("base" if r.answer.origin else "unregistered")),
        )
    console.print(table)


def add_to(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(detect)

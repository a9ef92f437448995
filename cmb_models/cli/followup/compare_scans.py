"""`cmb compare-scans`: two scans, or the pairs of a table."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmb_models.cli.detect import SERVER_ERRORS, TRAIN_HINT, BundleOption, DeviceOption, ServerOption, open_detector, prepare_folder
from cmb_models.cli.terminal import check_analysis, quiet_nibabel
from cmb_models.errors import InputError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from cmb_models.client.outputs import ScanResult
    from cmb_models.detection import Detector
    from cmb_models.followup.compare import Comparison
    from cmb_models.followup.outputs import Pair
    from cmb_models.outputs.dicom.source import Source
    from cmb_models.outputs.images import Images

COMMAND = "cmb compare-scans"
PAGE = "comparison.html"
EPILOG = (
    "Exit code: 0 all pairs were compared, 1 some were rejected, 2 nothing could start. Research software, not a medical device."
)


def compare_scans(
    out: Annotated[Path, typer.Option(help="Folder for the results; those of an earlier call are overwritten.")],
    baseline: Annotated[
        Path | None, typer.Argument(help="The earlier SWI scan: .nii, .nii.gz, or a folder of DICOM files.", show_default=False)
    ] = None,
    followup: Annotated[Path | None, typer.Argument(help="The later scan of the same patient.", show_default=False)] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="Instead of two scans: a CSV file with the columns baseline, followup, name."),
    ] = None,
    server: ServerOption = None,
    bundle: BundleOption = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest score of a detection (default: the release's).")
    ] = None,
    figures: Annotated[
        bool, typer.Option("--figures/--no-figures", help="Save pictures of the lesions in both scans, side by side.")
    ] = True,
    report: Annotated[
        bool, typer.Option("--report", help="Save the comparison as a page, comparison.html, with pictures of each lesion.")
    ] = False,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Save the comparison of DICOM scans as SR object, which carries the patient's name.")
    ] = False,
    device: DeviceOption = None,
) -> None:
    """Find new microbleeds between two scans of a patient.

    Detects in both scans, registers them and pairs their microbleeds. Writes comparison.csv (one row per lesion), comparison.json
    and PNG pages; with --pairs into a folder per pair, and pairs.csv with a row per pair. Scans that cannot be registered are
    rejected. A release that uses phase reads each scan's phase image next to it.
    """
    from rich.console import Console

    from cmb_models.followup.outputs import CSV_FILE, JSON_FILE, PAIRS_FILE, Pair, write_pairs
    from cmb_models.outputs.answer import require_dicom
    from cmb_models.registration.itk import require_package
    from cmb_models.report.scan.write import check_reporting

    quiet_nibabel()
    require_package()
    figures = check_analysis(figures, "pairing lesions")
    if pairs is None:
        if baseline is None or followup is None:
            raise InputError("option-count", COMMAND, "BASELINE and FOLLOWUP, or --pairs", "one or none", "pass both scans")
        wanted = [(Pair(_name(followup), baseline, followup), out)]
    else:
        if baseline is not None:
            raise InputError("options-conflict", COMMAND, "two scans or --pairs", "both", "drop one")
        from cmb_models.followup.pairs import read_pairs

        if (out / PAIRS_FILE).resolve() == pairs.resolve():
            raise InputError("options-conflict", "--out", f"a folder without the table {pairs}", str(out), "pass another --out")
        wanted = [(pair, out / pair.name) for pair in read_pairs(pairs)]
    check_reporting(report)
    paths = [path for pair, _ in wanted for path in (pair.baseline, pair.followup)]
    require_dicom(paths, dicom)
    if dicom and (no_folder := next((path for path in paths if not path.is_dir()), None)):
        remedy = "leave out --dicom, or compare two DICOM studies"
        raise InputError("options-conflict", "--dicom", "pairs of folders of DICOM files", str(no_folder), remedy)
    prepare_folder(out)
    detector, source = open_detector(server, bundle, device=device)
    stderr, stdout = Console(stderr=True, soft_wrap=True, highlight=False), Console(soft_wrap=True, highlight=False)
    compare = partial(compare_pair, detector=detector, threshold=threshold, figures=figures, report=report, dicom=dicom)
    results = run_pairs(wanted, compare, stderr)
    if pairs is not None:
        write_pairs(out / PAIRS_FILE, results)
        show_pairs(Console(), results, source)
    elif (comparison := results[0].comparison) is not None:
        show_lesions(Console(), comparison, source)
    files = f"{CSV_FILE}, {JSON_FILE}" + ", pictures of the lesions" * figures + f", {PAGE}" * report + ", a DICOM SR" * dicom
    written = files if pairs is None else f"{PAIRS_FILE}, and a folder for each pair with {files}"
    if any(r.comparison for r in results) or pairs is not None:
        stdout.print(f"in {out}: {written}", markup=False)
    if getattr(detector, "origin", ""):
        stdout.print(TRAIN_HINT, markup=False)
    if any(r.comparison is None for r in results):
        raise typer.Exit(1)


def compare_pair(
    pair: Pair, folder: Path, detector: Detector, threshold: float | None, figures: bool, report: bool = False, dicom: bool = False
) -> Comparison:
    """Compare one pair and write its files to a folder. Raises InputError, or RuntimeError if the server failed."""
    from cmb_models.followup.compare import MAX_CANDIDATES, compare_results
    from cmb_models.followup.figure import write_pages
    from cmb_models.followup.outputs import CSV_FILE, JSON_FILE, write_comparison, write_lesions
    from cmb_models.outputs.dicom.names import CHANGE_SUFFIX

    prepare_folder(folder)
    # An earlier call may have had more pages, and a rejected pair has no results.
    for old in (
        *folder.glob("comparison-*.png"),
        *folder.glob(f"*{CHANGE_SUFFIX}"),
        folder / PAGE,
        folder / CSV_FILE,
        folder / JSON_FILE,
    ):
        old.unlink(missing_ok=True)
    (before, earlier), (after, later) = (answer_with_volume(p, detector, threshold) for p in (pair.baseline, pair.followup))
    assert before.answer is not None and after.answer is not None
    sources: tuple[Source, Source] | None = None
    if dicom:
        from cmb_models.followup.dicom import require_order, write_change_report
        from cmb_models.outputs.dicom.source import read_source

        sources = read_source(earlier.files, pair.baseline), read_source(later.files, pair.followup)
        require_order(*sources)
    case = f"{pair.baseline} and {pair.followup}"
    if before.input_sha256 == after.input_sha256:
        raise InputError("scan-repeated", case, "two scans", "the same scan twice", "pass the scan of another time point")
    settings = getattr(getattr(detector, "bundle", None), "config", None)  # of a detector in this process
    most = settings.candidates.max_per_scan if settings else MAX_CANDIDATES
    comparison = compare_results(before.answer, after.answer, threshold, case, most)
    if figures:
        write_pages(folder, comparison, printable(pair.name))
    write_lesions(folder / CSV_FILE, comparison)
    write_comparison(folder / JSON_FILE, comparison, before, after)
    if report:
        from cmb_models.report.scan.change import write_change_page

        write_change_page(folder / PAGE, comparison, before, after)
    if sources:
        write_change_report(folder, comparison, before, after, *sources)
    return comparison


def answer_with_volume(path: Path, detector: Detector, threshold: float | None) -> tuple[ScanResult, Images]:
    """Detect in a scan; the result keeps its volume."""
    from cmb_models.io.nifti import scan_name
    from cmb_models.outputs.answer import detect_scan

    result, images = detect_scan(scan_name(path.resolve()), path, detector, threshold)
    assert result.answer is not None
    return replace(result, answer=replace(result.answer, volume=images.swi)), images


def run_pairs(wanted: list[tuple[Pair, Path]], compare, errors: Console) -> list[Pair]:
    """Compare the pairs one by one; rejections are printed on `errors`.

    compare: called with a pair and its folder. A server error stops processing: it is raised if no pair was compared, else recorded
    for the remaining pairs. Results keep their counts, without the scans' volumes.
    """
    from rich.markup import escape

    done: list[Pair] = []
    for n, (pair, folder) in enumerate(wanted):
        try:
            done.append(replace(pair, comparison=_without_volumes(compare(pair, folder))))
        except (InputError, RuntimeError) as error:  # RuntimeError: the server failed on this scan
            stop = isinstance(error, InputError) and error.code in SERVER_ERRORS
            if stop and not any(p.comparison for p in done):
                raise
            errors.print(f"[bold red]error:[/] {escape(str(error))}")
            code = getattr(error, "code", "")
            done += [replace(p, error=str(error), code=code) for p, _ in (wanted[n:] if stop else [(pair, folder)])]
            if stop:
                break
    return done


def _without_volumes(comparison: Comparison) -> Comparison:
    """A table of pairs may not fit into memory with its scans."""
    return replace(
        comparison,
        baseline=replace(comparison.baseline, volume=None),
        followup=replace(comparison.followup, volume=None),
    )


def _name(path: Path) -> str:
    from cmb_models.io.nifti import scan_name

    return scan_name(path)


def show_lesions(console: Console, comparison: Comparison, source: str) -> None:
    """Print one row per lesion and the severity."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Microbleeds by {escape(source)}", title_justify="left")
    table.add_column("change")
    for name in ("follow-up mm", "distance mm", "baseline score", "follow-up score"):
        table.add_column(name, justify="right")
    for lesion in comparison.lesions:
        place = ", ".join(f"{v:.1f}" for v in lesion.followup_mm)
        scores = ["-" if d is None else f"{d.score:.3f}" for d in (lesion.baseline, lesion.followup)]
        apart = f"{lesion.distance_mm:.1f}" if lesion.baseline and lesion.followup else "-"
        table.add_row(lesion.change, place, apart, *scores)
    console.print(table)
    counts = comparison.counts
    chances = ", ".join(f"{name} {p:.2f}" for name, p in comparison.probabilities.items())
    console.print(
        f"{counts['new']} new, {counts['uncertain-new']} uncertain, {counts['persisting']} persisting; "
        f"ARIA-H by new microbleeds: {comparison.severity} (probabilities: {chances})",
        highlight=False,
        soft_wrap=True,
    )
    if outside := counts["outside-baseline"]:
        console.print(f"{outside} outside of the baseline, which are not counted", soft_wrap=True)
    if any(comparison.is_cut):
        from cmb_models.followup.outputs import CUT

        console.print(CUT, soft_wrap=True)


def show_pairs(console: Console, results: list[Pair], source: str) -> None:
    """Print one row per pair."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"New microbleeds by {escape(source)}", title_justify="left")
    table.add_column("pair", overflow="fold")
    for name in ("new", "uncertain", "persisting", "outside", "ARIA-H", "probability"):
        table.add_column(name, justify="right")
    table.add_column("error", overflow="fold")
    for pair in results:
        found = pair.comparison
        if found is None:
            table.add_row(escape(printable(pair.name)), "[red]rejected[/]", "", "", "", "", "", escape(pair.code))
            continue
        numbers = [str(found.counts[c]) for c in ("new", "uncertain-new", "persisting", "outside-baseline")]
        chance = f"{found.probabilities[found.severity]:.2f}"
        table.add_row(escape(printable(pair.name)), *numbers, found.severity, chance, "")
    console.print(table)

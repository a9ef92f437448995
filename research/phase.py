"""What phase is worth: stage 2 trained with and without it on the same folds, candidates and seeds, side by side in one run.

    python -m research.phase [--scans 24 --cmbs 72 --seed 700] [--calcifications 4] [--seeds 2] [--data DATASET] [--workspace F]

Simulates its scans, unless a dataset in a site's layout with phase images is named. Few scans hold a calcification that looks like
a microbleed; --calcifications adds so many to each, in white matter or at the cortex, so that there is something to reject. Stage 1
is trained once a fold and its out-of-fold candidates serve both; so only what stage 2 makes of them differs. Intervals are over
subjects, with one set of resamples for all figures. Writes research/results/phase.json.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from cmb_models.config.params import Params
from cmb_models.dataset.index import index_datasets
from cmb_models.dataset.layout import ANNOTATIONS
from cmb_models.evaluation.froc import Froc, froc, froc_draws
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.metrics import froc_table
from cmb_models.evaluation.operating_point import fusion_for
from cmb_models.evaluation.rows import detection_rows
from cmb_models.evaluation.statistics.bootstrap import percentiles, rate_interval, ratio, subject_draws
from cmb_models.files import read_json, write_json
from cmb_models.io.annotations import read_annotations
from cmb_models.machine import cores
from cmb_models.phantom import write_dataset
from cmb_models.phantom.presets import MIXED
from cmb_models.training.data.examples import PHASE_ENDING, load_training
from cmb_models.training.data.preparation import prepare_training
from cmb_models.training.progress import progress_bar
from cmb_models.training.tuning.objective import join
from cmb_models.training.validation.cross_validation import candidates_out_of_fold
from cmb_models.training.validation.jobs import CnnJob, OutOfFoldCandidates, fold_of, job_seed, others, run_cnn_job, save_candidates
from cmb_models.training.validation.workers import Workers
from research.stages import ROOT, recipe_from_random

REPORT = ROOT / "research/results/phase.json"
WITHOUT, WITH = "SWI", "SWI and phase"
RATES = (0.25, 0.5, 0.6, 1.0, 2.0)  # false positives a scan at which sensitivities are read
AT_FP = (0.6, 1.0, 2.0)  # the sensitivity without phase at these is what both are compared at
CALCIFICATION = "mimic:calcification"


def divide(index: Sequence[dict], folds: int) -> dict:
    """split.json with nothing locked: subjects with most CMBs first, dealt out to the folds in turn."""
    cmbs: dict[str, int] = {}
    for scan in index:
        cmbs[scan["subject"]] = cmbs.get(scan["subject"], 0) + scan["n_cmbs"]
    order = sorted(cmbs, key=lambda s: (-cmbs[s], s))
    return {"folds": {s: n % folds for n, s in enumerate(order)}, "locked": [], "locked_sha256": [], "notes": []}


def leave_phase_out(prepared: Path, folder: Path) -> Path:
    """The same prepared scans and synthetic lesions without their phase, as links and other .json files."""
    folder.mkdir()
    for file in prepared.iterdir():
        if file.suffix == ".json":
            about = read_json(file)
            del about["phase_sha256"]
            write_json(folder / file.name, about)
        elif not file.name.endswith(PHASE_ENDING):
            (folder / file.name).symlink_to(file.resolve())
    return folder


def scores(params: Params, work: Path, split: dict, seeds: int) -> dict[str, list[ScoredScan]]:
    """Joint scores of every scan out of fold, once a seed, with phase and without."""
    prepared = {WITH: work / "prepared", WITHOUT: leave_phase_out(work / "prepared", work / "without")}
    folds, found = fold_of(split), candidates_out_of_fold(params, params.unet, work / "prepared", split)
    for scan in found:
        save_candidates(work / "candidates", scan)
    mined: dict[str, OutOfFoldCandidates] = {m.key: m for m in found}
    asked = [(kind, seed, n) for kind in prepared for seed in range(seeds) for n in range(len(folds))]
    jobs = [
        CnnJob(prepared[kind], work / "candidates", others(folds, n), folds[n], params.cnn, job_seed(seed, n))
        for kind, seed, n in asked
    ]
    with Workers(len(jobs)) as workers:
        results = workers.map(run_cnn_job, jobs, params.cnn.steps * len(jobs), f"stage 2, {len(jobs)} trainings")
    examples = {e.key: e for e in load_training(work / "prepared", split)}
    scans: dict[str, list[ScoredScan]] = {kind: [] for kind in prepared}
    for (kind, _, _), result in zip(asked, results, strict=True):
        scans[kind] += join(examples, mined, result, fusion_for(examples.values()))
    return scans


def false_positives(scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float, label: str = "") -> np.ndarray:
    """False positives of each scan (S,) at a threshold: all of them, or those at a mimic of one label."""
    rows = [detection_rows([scan], threshold, tolerance_mm) for scan in scans]
    return np.array(
        [sum(r["at_threshold"] == "false_positive" and (not label or r["label"] == label) for r in own) for own in rows]
    )


def threshold_for(curve: Froc, sensitivity: float) -> float:
    """The highest threshold with at least this sensitivity; the last of all where none has it."""
    reached = np.flatnonzero(curve.sensitivity >= sensitivity)
    return float(curve.thresholds[reached[0] if len(reached) else -1])


def at_equal_sensitivity(scans: dict[str, list[ScoredScan]], rate: float, tolerance_mm: float, draws: np.ndarray) -> dict:
    """False positives a scan, all and at calcifications, where both find as many CMBs as SWI alone does at `rate`."""
    curves = {kind: froc(own, tolerance_mm) for kind, own in scans.items()}
    wanted = curves[WITHOUT].at_fp(rate)[0]
    result: dict = {"fp_per_scan_without_phase": rate, "sensitivity": wanted}
    for name, label in (("all", ""), ("calcifications", CALCIFICATION)):
        events = {
            kind: false_positives(own, threshold_for(curves[kind], wanted), tolerance_mm, label) for kind, own in scans.items()
        }
        per_scan = {kind: {"fp_per_scan": float(e.mean()), "interval": rate_interval(e, draws)} for kind, e in events.items()}
        less = ratio(events[WITH] - events[WITHOUT], np.ones(len(draws[0])), draws)
        result[name] = per_scan | {
            "difference": float((events[WITH] - events[WITHOUT]).mean()),
            "difference_interval": percentiles(less),
        }
    return result


def separation(scans: Sequence[ScoredScan], tolerance_mm: float, draws: np.ndarray) -> dict:
    """How often stage 2 scores a CMB's candidate above a calcification's (area under the ROC curve, ties half), 0 to 1."""
    own = []
    for scan in scans:
        rows = detection_rows([scan], 0.0, tolerance_mm)
        hits, calcified = ([r["outcome"] == "hit" for r in rows], [r["label"] == CALCIFICATION for r in rows])
        own.append((scan.stage2[np.array(hits, dtype=bool)], scan.stage2[np.array(calcified, dtype=bool)]))
    wins = np.array([[np.sum(a[:, None] > b) + np.sum(a[:, None] == b) / 2 for _, b in own] for a, _ in own])
    pairs = np.array([[len(a) * len(b) for _, b in own] for a, _ in own])
    won, of = (np.einsum("bs,st,bt->b", draws, m, draws) for m in (wins, pairs))
    resampled = np.divide(won, of, out=np.full(len(draws), np.nan), where=of > 0)
    value = float(wins.sum() / pairs.sum()) if pairs.sum() else None
    return {"cmb_above_calcification": value, "interval": percentiles(resampled), "calcifications": sum(len(b) for _, b in own)}


def compare(scans: dict[str, list[ScoredScan]], params: Params) -> dict:
    """All figures of both, and their differences over the same resamples of subjects."""
    tolerance, rng = params.evaluate.tolerance_mm, np.random.default_rng(params.evaluate.seed)
    draws = subject_draws([s.subject for s in scans[WITHOUT]], params.evaluate.bootstrap, rng)
    tables = {kind: froc_table(own, tolerance, draws, RATES) for kind, own in scans.items()}
    resampled = {kind: froc_draws(own, tolerance, RATES, draws) for kind, own in scans.items()}
    gain = [percentiles(column) for column in (resampled[WITH] - resampled[WITHOUT]).T]
    rows = zip(RATES, tables[WITHOUT], tables[WITH], gain, strict=True)
    return {
        "sensitivity_at_fp": tables,
        "gain_at_fp": [
            {"fp_per_scan": rate, "gain": b["sensitivity"] - a["sensitivity"], "interval": interval}
            for rate, a, b, interval in rows
        ],
        "at_equal_sensitivity": [at_equal_sensitivity(scans, rate, tolerance, draws) for rate in AT_FP],
        "stage_2_alone": {kind: separation(own, tolerance, draws) for kind, own in scans.items()},
    }


@contextlib.contextmanager
def work_folder(workspace: Path | None) -> Iterator[Path]:
    """A fresh folder for this run's files, below `workspace` and kept there, or temporary."""
    if workspace is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        workspace.mkdir(parents=True, exist_ok=True)
        yield Path(tempfile.mkdtemp(prefix="phase-", dir=workspace))


def main(
    scans: int = 24,
    cmbs: int = 72,
    seed: int = 700,
    seeds: Annotated[int, typer.Option(help="Trainings of stage 2 a fold and kind.")] = 2,
    calcifications: Annotated[int, typer.Option(help="More in each scan than it has anyway.")] = 0,
    preset: Annotated[list[str] | None, typer.Option()] = None,
    steps_scale: Annotated[float, typer.Option(help="Shorter trainings, to try things out.")] = 1.0,
    lesion_bank: Annotated[int | None, typer.Option(help="Simulated lesions to plant, in place of params.yaml's.")] = None,
    data: Annotated[Path | None, typer.Option(help="A dataset with phase images, in place of simulated scans.")] = None,
    workspace: Annotated[Path | None, typer.Option(help="Keep what is made in a folder of its own here.")] = None,
    out: Path = REPORT,
) -> None:
    if data and calcifications:
        raise typer.BadParameter("--calcifications is for simulated scans: leave it out, or leave out --data")
    start, params = time.perf_counter(), recipe_from_random()
    fewer = {name: {"steps": max(4, round(getattr(params, name).steps * steps_scale))} for name in ("unet", "cnn")}
    sections = fewer | {"preprocess": {"phase": True}, "lesion_bank": {} if lesion_bank is None else {"lesions": lesion_bank}}
    params = params.model_copy(update={n: getattr(params, n).model_copy(update=u) for n, u in sections.items()})
    with work_folder(workspace) as work:
        raw = work / "raw"
        raw.mkdir()
        if data:
            (raw / "data").symlink_to(data.resolve())
        else:
            write_dataset(
                raw / "data", scans, cmbs, seed, cmb_free=scans // 6, presets=tuple(preset or MIXED),
                calcifications=calcifications, progress=True,
            )  # fmt: skip
        index = index_datasets(raw, params.preprocess)["scans"]
        marked = sum(a.label == CALCIFICATION for a in read_annotations(raw / "data" / ANNOTATIONS))
        split = divide(index, params.split.folds)
        with progress_bar() as bar:
            prepare_training(
                raw, index, split, params.preprocess, params.lesion_bank, work / "prepared",
                lambda items, what: bar.track(items, description=what),
            )  # fmt: skip
        scored = scores(params, work, split, seeds)
    facts = {"scans": len(index), "cmbs": sum(s["n_cmbs"] for s in index), "folds": params.split.folds, "seeds": seeds}
    facts["calcifications"] = marked
    facts |= {"unet_steps": params.unet.steps, "cnn_steps": params.cnn.steps, "cores": cores()}
    result = facts | compare(scored, params) | {"minutes": round((time.perf_counter() - start) / 60, 1)}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)
    tell(result)


def tell(result: dict) -> None:
    """The main figures on stdout."""
    for row, low in zip(result["gain_at_fp"], result["sensitivity_at_fp"][WITHOUT], strict=True):
        interval = row["interval"] or [float("nan")] * 2
        gain = f"{row['gain']:+.2f} ({interval[0]:+.2f} to {interval[1]:+.2f}) with phase"
        print(f"sensitivity at {row['fp_per_scan']:g} false positives a scan: {low['sensitivity']:.2f}, {gain}")
    for row in result["at_equal_sensitivity"]:
        for kind in ("calcifications", "all"):
            before, after = (row[kind][k]["fp_per_scan"] for k in (WITHOUT, WITH))
            print(
                f"at sensitivity {row['sensitivity']:.2f}, false positives a scan, {kind}: {before:.2f} to {after:.2f} with phase"
            )
    for kind, row in result["stage_2_alone"].items():
        print(f"{kind}: a microbleed scores above a calcification in {row['cmb_above_calcification'] or float('nan'):.2f}")


if __name__ == "__main__":
    typer.run(main)

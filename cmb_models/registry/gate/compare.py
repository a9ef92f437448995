"""Comparison of two releases on the locked scans that both were evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.config.params import Gate, Params, load_params
from cmb_models.dataset.entries import ScanEntry
from cmb_models.errors import InputError
from cmb_models.evaluation.exposure_log import contents_of, count_evaluation, locked_scans, require_whole
from cmb_models.evaluation.rows import DETECTIONS, detection_rows, read_table
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.evaluation.statistics.disagreement import disagreements
from cmb_models.evaluation.statistics.paired import Difference, Judged, Pair, difference_at_fp, differences, pair_up
from cmb_models.files import read_json, sha256_of
from cmb_models.registry.gate.check import GateReport, judge
from cmb_models.registry.gate.evaluation_record import EvaluationRecord, read_evaluation_record
from cmb_models.registry.mlflow.store import Release, open_registry
from cmb_models.release.bundle import EVALUATION_DIR
from cmb_models.report.comparison.page import Comparison, Side
from cmb_models.workspace.paths import EXPOSURE_LOG, PARAMS
from cmb_models.workspace.versioning import head_commit

INDEX_FILE = "data/index.json"  # of the ingest stage: each scan's path and hash


def compare(first: str, second: str, start: Path = Path("."), rerun: bool = False) -> Comparison:
    """Compare release `second` with `first`, and run the gate with `first` as production.

    Args:
        first: Number, `latest` or alias of the baseline.
        second: The same of the release under test.
        start: A folder inside the workspace.
        rerun: Run `first` on the locked scans of `second`, from the workspace's data, instead of reading its evaluation; slow.

    Raises:
        InputError: For an unknown or changed release, for two equal ones, and with `rerun` if scans are missing.
    """
    with open_registry(start) as registry:
        releases = registry.resolve(first), registry.resolve(second)
        if releases[0].number == releases[1].number:
            raise InputError(
                "releases-equal",
                f"{first} and {second}",
                "two releases",
                f"release {releases[0].number} twice",
                "see `cmb release list`",
            )
        bundles = [registry.fetch(r).bundle_dir for r in releases]
        workspace = registry.workspace
    params = load_params(workspace / PARAMS)
    evidence = [read_evaluation_record(b) for b in bundles]
    rows = [read_table(e.bundle / EVALUATION_DIR / DETECTIONS) if e.judged else [] for e in evidence]
    if rerun:
        result = rerun_evaluation(bundles[0], _rows_of(evidence[1], releases[1]), workspace, params)
        rows[0] = detection_rows(result.scans, result.threshold, params.gate.tolerance_mm)
        evidence[0] = replace(evidence[0], judged=result)
    report = judge(evidence[1], params.gate, evidence[0], evidence[0].manifest_sha256)
    comparison = _versus(releases, evidence, report, params.gate, workspace)
    exposure = [f"This evaluation of the locked scans was counted in {EXPOSURE_LOG}: commit it."] if rerun else []
    return replace(comparison, labels=_labels(evidence, rows), notes=(*comparison.notes, *exposure))


def _rows_of(evidence: EvaluationRecord, release: Release) -> Judged:
    if evidence.judged is None:
        got = f"no {EVALUATION_DIR}/ in its bundle"
        raise InputError("rows-missing", f"release {release.number}", "the rows of its locked evaluation", got, "register it again")
    return evidence.judged


def rerun_evaluation(bundle: Path, other: Judged, workspace: Path, params: Params) -> Judged:
    """Evaluate a bundle on the locked scans that another release was evaluated on, from the workspace's files.

    Takes seconds per scan and is recorded in the exposure log.

    Raises:
        InputError: If a scan is missing or changed, if the bundle was trained on one, or if the exposure log is broken.
    """
    from cmb_models.dataset.leakage import check_lineage
    from cmb_models.evaluation.metrics import metrics_at
    from cmb_models.evaluation.run import score_scans
    from cmb_models.release.bundle import BundleDetector

    require_whole(workspace / EXPOSURE_LOG)
    detector = BundleDetector(bundle)
    entries = _entries(workspace, other.sha256, [s.key for s in other.scans])
    check_lineage(detector.bundle.lineage, entries, {e["subject"] for e in entries})
    index: list[ScanEntry] = [{**e, "path": str(workspace / e["path"])} for e in entries]
    scans, threshold = score_scans(detector, workspace / params.ingest.raw_dir, index), detector.bundle.config.decision.threshold
    figures, sha256 = metrics_at(scans, threshold, params.gate.tolerance_mm), detector.bundle.manifest_sha256
    log, commit = workspace / EXPOSURE_LOG, head_commit(workspace)
    count_evaluation(log, sha256, locked_scans(entries), commit, figures, contents_of(entries))
    return Judged(tuple(scans), threshold, {e["key"]: e["sha256"] for e in entries})


def _entries(workspace: Path, sha256: Mapping[str, str], keys: Sequence[str]) -> list[ScanEntry]:
    """The index entries of scans whose files match their hash. Raises InputError listing all that do not."""
    known: dict[str, ScanEntry] = {}
    if (workspace / INDEX_FILE).is_file():
        known = {e["sha256"]: e for e in read_json(workspace / INDEX_FILE)["scans"]}
    found = {k: known.get(sha256.get(k, "")) for k in keys}
    valid = {k: e for k, e in found.items() if e is not None and _is_unchanged(workspace, e)}
    missing = [k for k in found if k not in valid]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise InputError(
            "locked-scans-changed",
            workspace / INDEX_FILE,
            "the locked scans in the workspace",
            f"missing or changed: {shown}",
            "run `dvc pull`",
        )
    return list(valid.values())


def _is_unchanged(workspace: Path, entry: Mapping[str, Any]) -> bool:
    file = workspace / entry["path"]
    return file.is_file() and sha256_of(file) == entry["sha256"]


def _versus(
    releases: Sequence[Release], evidence: Sequence[EvaluationRecord], report: GateReport, gate: Gate, workspace: Path
) -> Comparison:
    first, second = evidence
    pair = pair_up(first.judged, second.judged) if first.judged and second.judged else None
    common = pair if pair is not None and pair.second else None
    resamples = gate.bootstrap if common else 0
    draws = subject_draws(common.subjects if common else [], resamples, np.random.default_rng(gate.seed))
    shown = (common.first, common.second) if common else (first.scans, second.scans)
    found = disagreements(common, gate.tolerance_mm) if common else []
    hashes = second.judged.sha256 if second.judged else {}
    return Comparison(
        first=_side(releases[0], first, shown[0]),
        second=_side(releases[1], second, shown[1]),
        common=common is not None,
        differences=_in_common(common, gate, draws) if common else _apart(evidence, gate),
        disagreements=found,
        draws=draws,
        tolerance_mm=gate.tolerance_mm,
        fp_per_scan=gate.at_fp_per_scan,
        checks=report.as_dict()["checks"],
        passed=report.passed,
        notes=_notes(evidence, pair, gate),
        images=_images(workspace, {d.scan: hashes[d.scan] for d in found}),
    )


def _side(release: Release, evidence: EvaluationRecord, scans: tuple) -> Side:
    about = ", ".join(release.aliases)
    threshold = evidence.judged.threshold if evidence.judged else None
    return Side(f"release {release.number}", about, evidence.manifest_sha256, scans, threshold)


def _differences(pair: Pair, gate: Gate, draws: np.ndarray) -> dict[str, Difference]:
    at = difference_at_fp(pair, gate.tolerance_mm, gate.at_fp_per_scan, draws)
    return differences(pair, gate.tolerance_mm, draws.astype(float)) | {at.name: at}


def _in_common(pair: Pair, gate: Gate, draws: np.ndarray) -> dict[str, Difference]:
    """Differences, without intervals for too few scans: a bootstrap of one or two would appear certain."""
    found = _differences(pair, gate, draws)
    few = len(pair.second) < gate.min_common_scans
    return {name: replace(d, interval=None) if few else d for name, d in found.items()}


def _apart(evidence: Sequence[EvaluationRecord], gate: Gate) -> dict[str, Difference]:
    """Each release's metrics on its own locked scans, without differences, which would compare scans, not releases."""
    sides = []
    for e in evidence:
        scans, threshold = (e.judged.scans, e.judged.threshold) if e.judged else ((), 0.5)
        draws = subject_draws([s.subject for s in scans], gate.bootstrap, np.random.default_rng(gate.seed))
        sides.append(_differences(Pair(scans, scans, (threshold, threshold), ()), gate, draws))
    a, b = sides
    return {n: Difference(n, a[n].first, b[n].first, a[n].first_interval, b[n].first_interval, None, None) for n in a}


def _notes(evidence: Sequence[EvaluationRecord], pair: Pair | None, gate: Gate) -> list[str]:
    """Caveats to the comparison."""
    notes = [f"Reported metrics of a release differ from its saved rows: {c}." for e in evidence for c in e.contradictions]
    if pair is None:
        return [*notes, "A bundle without the rows of its locked evaluation cannot be compared: run `dvc repro`, register again."]
    counts = [len(e.scans) for e in evidence]
    if not pair.second:
        return [*notes, "The releases were evaluated on different held-out scans; their metrics are not comparable."]
    if counts != [len(pair.second)] * 2:
        counts_text = f"{counts[0]} and {counts[1]} held-out scans; metrics are on the {len(pair.second)} in common"
        notes.append(f"The two were evaluated on {counts_text}.")
    if len(pair.second) < gate.min_common_scans:
        notes.append(f"{gate.min_common_scans} scans in common are needed to compare the two (gate.min_common_scans).")
    if pair.remarked:
        notes.append(
            f"{len(pair.remarked)} of these scans were re-annotated in between; both are evaluated against the newer annotations."
        )
    return notes


def _images(workspace: Path, wanted: Mapping[str, str]) -> dict[str, Path]:
    """Path of each scan (key: SHA-256) whose file is present and unchanged."""
    if not (workspace / INDEX_FILE).is_file():
        return {}
    known = {e["sha256"]: e for e in read_json(workspace / INDEX_FILE)["scans"]}
    found = {key: known[sha256] for key, sha256 in wanted.items() if sha256 in known}
    return {key: workspace / e["path"] for key, e in found.items() if _is_unchanged(workspace, e)}


def _labels(evidence: Sequence[EvaluationRecord], rows: Sequence[list[dict]]) -> dict[tuple, str]:
    """Annotation label at each candidate, by (key of the scan in the second release, position)."""
    second = evidence[1].judged
    keys = {sha256: key for key, sha256 in second.sha256.items()} if second else {}
    labels = {}
    for e, detections in zip(evidence, rows, strict=True):
        sha256_of_scan = e.judged.sha256 if e.judged else {}
        for row in detections:
            key = keys.get(sha256_of_scan.get(row["scan"], ""), "")
            labels[key, tuple(float(row[c]) for c in ("x_mm", "y_mm", "z_mm"))] = row["label"]
    return labels


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON: metrics with intervals, the gate's checks, and every disagreement."""
    sides = {n: {"release": s.name, "aliases": s.about, "manifest_sha256": s.manifest_sha256, "threshold": s.threshold,
                 "n_scans": len(s.scans), "n_lesions": sum(len(x.cmbs) for x in s.scans)}
             for n, s in (("first", comparison.first), ("second", comparison.second))}  # fmt: skip
    places = [
        asdict(d) | {"world_mm": list(d.world_mm), "about": d.about.label if d.about else ""} for d in comparison.disagreements
    ]
    return {
        **sides,
        "same_scans": comparison.common,
        "figures": {name: asdict(d) for name, d in comparison.differences.items()},
        "fp_per_scan": comparison.fp_per_scan,
        "gate": {"passed": comparison.passed, "checks": list(comparison.checks)},
        "disagreements": places,
        "notes": list(comparison.notes),
    }

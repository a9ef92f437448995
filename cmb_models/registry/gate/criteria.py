"""The gate's criteria, one function per group; each returns the checks that the settings enable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from cmb_models.config.params import Gate
from cmb_models.evaluation.matching import ScoredScan, judged
from cmb_models.evaluation.metrics import Metrics, count_intervals, counts_of, froc_table, metrics_at
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.evaluation.statistics.calibration import adaptive_ece
from cmb_models.evaluation.statistics.paired import Pair, differences, pair_up
from cmb_models.evaluation.statistics.strata import SIZES_MM, size_class, strata
from cmb_models.records import flatten, is_number
from cmb_models.registry.gate.evaluation_record import EvaluationRecord
from cmb_models.registry.gate.verdict import Check, at_least, at_most, too_few
from cmb_models.release.bundle import EVALUATION_DIR

SENSITIVITY, FALSE = "sensitivity on the held-out test set", "false positives per scan on the held-out test set"
LOW, HIGH = "lower end of the 95 % interval", "upper end of the 95 % interval"
NO_ROWS = f"the bundle has no {EVALUATION_DIR}/ with the rows of its locked evaluation: run `dvc repro` and register it again"
SIZE_FLOORS = (
    "below_2_mm",
    "from_2_mm",
    "from_3_mm",
    "from_5_mm",
    "from_10_mm",
)  # of config.release.SizeFloors, as strata.SIZES_MM


def absolute(evidence: EvaluationRecord, gate: Gate) -> list[Check]:
    """Checks of the release alone: at its threshold, on its FROC curve, by site and size, and of its calibration."""
    if evidence.judged is None:
        return _reported(evidence, gate) + _without_rows(gate)
    scans, threshold = evidence.scans, evidence.judged.threshold
    draws = subject_draws([s.subject for s in scans], gate.bootstrap, np.random.default_rng(gate.seed)).astype(float)
    return [
        *at_most(
            "reported metrics that differ from the saved rows",
            len(evidence.contradictions),
            0,
            None,
            "; ".join(evidence.contradictions),
        ),
        *_operating(scans, threshold, gate, draws),
        *_at_fp(scans, gate, draws),
        *_strata(scans, threshold, gate, draws),
        *at_most("calibration error of the scores", _ece(scans, gate.tolerance_mm), gate.max_ece),
    ]


def _reported(evidence: EvaluationRecord, gate: Gate) -> list[Check]:
    """Checks of the two metrics at the operating point as the release reports them."""
    # Without a CMB or a scan to test on, the reported metrics are perfect and mean nothing.
    reported = evidence.reported
    sensitivity = _number(reported.get("sensitivity")) if _number(reported.get("n_lesions")) else None
    fp_per_scan = _number(reported.get("fp_per_scan")) if _number(reported.get("n_scans")) else None
    return at_least(SENSITIVITY, sensitivity, gate.min_sensitivity) + at_most(FALSE, fp_per_scan, gate.max_fp_per_scan)


def _without_rows(gate: Gate) -> list[Check]:
    """All checks that need the rows, as not measured."""
    rate = f"sensitivity at {gate.at_fp_per_scan:g} false positives per scan"
    floors = gate.min_size_sensitivity.model_dump().values()
    least = [(f"{SENSITIVITY}, {LOW}", gate.min_sensitivity_low), (rate, gate.min_sensitivity_at_fp)]
    least += [(f"{rate}, {LOW}", gate.min_sensitivity_at_fp_low), ("sensitivity of every dataset", gate.min_site_sensitivity)]
    least += [("sensitivity of every size", min((f for f in floors if f is not None), default=None))]
    most = [(f"{FALSE}, {HIGH}", gate.max_fp_per_scan_high), ("false positives per CMB-free scan", gate.max_fp_per_cmb_free_scan)]
    most += [("false positives per scan of every dataset", gate.max_site_fp_per_scan)]
    most += [("calibration error of the scores", gate.max_ece)]
    checks = [c for name, limit in least for c in at_least(name, None, limit, None, NO_ROWS)]
    return checks + [c for name, limit in most for c in at_most(name, None, limit, None, NO_ROWS)]


def _operating(scans: Sequence[ScoredScan], threshold: float, gate: Gate, draws: np.ndarray) -> list[Check]:
    """Checks at the release's threshold."""
    found = metrics_at(scans, threshold, gate.tolerance_mm)
    intervals = count_intervals(counts_of(scans, threshold, gate.tolerance_mm), draws)
    of = f"{found['hits']} of {_plural(found['n_lesions'], 'microbleed')} in {_plural(found['n_scans'], 'scan')}"
    sensitivity, ends = (found["sensitivity"], intervals["sensitivity"]) if found["n_lesions"] else (None, None)
    low = ends[0] if ends else None
    false, around = found["fp_per_scan"], intervals["fp_per_scan"]
    return [
        *at_least(SENSITIVITY, sensitivity, gate.min_sensitivity, ends, of),
        *at_least(f"{SENSITIVITY}, {LOW}", low, gate.min_sensitivity_low, ends, of),
        *at_most(FALSE, false, gate.max_fp_per_scan, around),
        *at_most(f"{FALSE}, {HIGH}", around[1] if around else None, gate.max_fp_per_scan_high, around),
        *_on_free_scans(found, intervals["fp_per_cmb_free_scan"], gate),
    ]


def _on_free_scans(found: Metrics, interval: Sequence[float] | None, gate: Gate) -> list[Check]:
    name, limit, n = "false positives per CMB-free scan", gate.max_fp_per_cmb_free_scan, found["n_cmb_free_scans"]
    if n < gate.min_scans:
        return too_few(name, "max", limit, f"{_plural(n, 'such scan')}, at least {gate.min_scans} needed")
    return at_most(name, found["fp_per_cmb_free_scan"], limit, interval, _plural(n, "scan"))


def _at_fp(scans: Sequence[ScoredScan], gate: Gate, draws: np.ndarray) -> list[Check]:
    """Sensitivity on the FROC curve at the stated rate of false positives."""
    if gate.min_sensitivity_at_fp is None and gate.min_sensitivity_at_fp_low is None:
        return []
    row = froc_table(scans, gate.tolerance_mm, draws, (gate.at_fp_per_scan,))[0]
    is_defined = row["sensitivity"] is not None
    low, ends = (row["low"], (row["low"], row["high"])) if is_defined else (None, None)
    name, at = f"sensitivity at {gate.at_fp_per_scan:g} false positives per scan", f"at threshold {row['threshold']:.3f}"
    first = at_least(name, row["sensitivity"], gate.min_sensitivity_at_fp, ends, at)
    return first + at_least(f"{name}, {LOW}", low, gate.min_sensitivity_at_fp_low, ends, at)


def _strata(scans: Sequence[ScoredScan], threshold: float, gate: Gate, draws: np.ndarray) -> list[Check]:
    """Lower limits for every dataset and size class."""
    tables = strata(scans, threshold, gate.tolerance_mm, draws)
    checks: list[Check] = []
    for row in tables["dataset"]:
        checks += _floor(f"sensitivity of dataset {row['name']}", row, gate.min_site_sensitivity, gate.min_lesions)
        name, limit, n = f"false positives per scan of dataset {row['name']}", gate.max_site_fp_per_scan, row["n_scans"]
        if n < gate.min_scans:
            checks += too_few(name, "max", limit, f"{_plural(n, 'scan')}, at least {gate.min_scans} needed")
        else:
            checks += at_most(name, row["fp_per_scan"], limit, row["fp_interval_95"], _plural(n, "scan"))
    floors = size_floors(gate)
    for row in tables["size"]:
        checks += _floor(f"sensitivity for microbleeds of {row['name']}", row, floors[row["name"]], gate.min_lesions)
    return checks


def size_floors(gate: Gate) -> dict[str, float | None]:
    """The lower limit of each size class by its name in strata."""
    names = [size_class(mm) for mm in (0.0, *SIZES_MM)]
    return {name: getattr(gate.min_size_sensitivity, key) for name, key in zip(names, SIZE_FLOORS, strict=True)}


def _floor(name: str, row: dict, limit: float | None, least: int) -> list[Check]:
    if row["n_lesions"] < least:
        return too_few(name, "min", limit, f"{_plural(row['n_lesions'], 'microbleed')}, at least {least} needed")
    return at_least(name, row["sensitivity"], limit, row["interval_95"], f"{row['hits']} of {row['n_lesions']}")


def _ece(scans: Sequence[ScoredScan], tolerance_mm: float) -> float | None:
    """Calibration error over all candidates; None without any, since zero error would then be no merit."""
    groups = [judged(s, tolerance_mm) for s in scans]
    scores, hit = (np.concatenate(column) for column in zip(*groups, strict=True))
    return adaptive_ece(scores, hit) if len(scores) else None


def runtime(evidence: EvaluationRecord, gate: Gate) -> list[Check]:
    """Checks of ONNX parity and latency."""
    parity = at_most("largest score difference of ONNX to torch", _largest(evidence.parity), gate.max_parity)
    if gate.max_seconds is None:
        return parity
    note = "on this machine, which may be slower or faster than the server"
    return parity + at_most("seconds for the golden scan", _seconds(evidence), gate.max_seconds, None, note)


def _seconds(evidence: EvaluationRecord) -> float:
    """Latency of the bundle's golden scan with loaded networks; measured once, which is enough to reject what is far too slow."""
    from cmb_models.io.nifti import read_volume
    from cmb_models.release.bundle import GOLDEN_PHASE, GOLDEN_SCAN, BundleDetector

    detector = BundleDetector(evidence.bundle)
    scan = read_volume(evidence.bundle / GOLDEN_SCAN)
    phase = read_volume(evidence.bundle / GOLDEN_PHASE) if detector.requires_phase else None
    start = time.perf_counter()
    detector.detect(scan, phase, case="the golden scan")
    return time.perf_counter() - start


def non_inferiority(evidence: EvaluationRecord, production: EvaluationRecord, gate: Gate) -> list[Check]:
    """Checks that the release is not worse than production by more than the margins, by paired bootstrap over the common scans."""
    if gate.sensitivity_margin is None and gate.fp_margin is None:
        return []
    if evidence.judged is None or production.judged is None:
        missing = [name for name, e in (("this release", evidence), ("production", production)) if e.judged is None]
        return _not_comparable(gate, f"no saved rows in {' and '.join(missing)}: run `dvc repro` and register again")
    pair = pair_up(production.judged, evidence.judged)
    if len(pair.second) < gate.min_common_scans:
        return _not_comparable(gate, f"{_in_common(pair)}, at least {gate.min_common_scans} needed: {REMEDY}")
    draws = subject_draws(pair.subjects, gate.bootstrap, np.random.default_rng(gate.seed)).astype(float)
    found = differences(pair, gate.tolerance_mm, draws)
    return _margins(pair, found, gate)


REMEDY = (
    "`cmb release compare production REF --rerun-baseline` runs production on this release's locked scans; "
    "to promote on that, pass --override-gate and the reason"
)


def _margins(pair: Pair, found: dict, gate: Gate) -> list[Check]:
    sensitivity, false = found["sensitivity"], found["fp_per_scan"]
    lesions = sum(len(s.cmbs) for s in pair.second)
    note = _in_common(pair) + (f", {len(pair.remarked)} of them re-annotated since" if pair.remarked else "")
    if lesions < gate.min_lesions:
        few = f"{note} with {_plural(lesions, 'microbleed')}, at least {gate.min_lesions} needed: lock more scans with microbleeds"
        checks = _margin_of_sensitivity(None, None, gate, few)
    else:
        difference = f"difference {sensitivity.difference:+.3f} on {note}"
        low = sensitivity.interval[0] if sensitivity.interval else None
        checks = _margin_of_sensitivity(low, sensitivity.interval, gate, difference)
    high = false.interval[1] if false.interval else None
    return checks + _margin_of_fp(high, false.interval, gate, f"difference {false.difference:+.3f} on {note}")


def _not_comparable(gate: Gate, why: str) -> list[Check]:
    return _margin_of_sensitivity(None, None, gate, why) + _margin_of_fp(None, None, gate, why)


def _margin_of_sensitivity(low: float | None, interval: Sequence[float] | None, gate: Gate, note: str) -> list[Check]:
    margin = None if gate.sensitivity_margin is None else -gate.sensitivity_margin
    return at_least(f"difference in sensitivity to production, {LOW}", low, margin, interval, note)


def _margin_of_fp(high: float | None, interval: Sequence[float] | None, gate: Gate, note: str) -> list[Check]:
    return at_most(f"difference in false positives per scan to production, {HIGH}", high, gate.fp_margin, interval, note)


def _in_common(pair: Pair) -> str:
    return f"{_plural(len(pair.second), 'held-out scan')} in common"


def _plural(count: int, one: str) -> str:
    return f"{count} {one}{'' if count == 1 else 's'}"


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _largest(value: Any) -> float | None:
    """A number, or the largest of a mapping of numbers (one per network); None if any is missing."""
    numbers = [_number(v) for v in flatten({"parity": value}).values()]
    known = [n for n in numbers if n is not None]
    return max(known) if known and len(known) == len(numbers) else None

"""Formatting of numbers and sentences in the reports. Intervals are 95 %, in brackets after their value."""

from __future__ import annotations

from collections.abc import Sequence

from cmb_models.evaluation.exposure_log import exposure_summary

Interval = Sequence[float] | None


def percent(value: float | None, interval: Interval = None) -> str:
    """A share in [0, 1], such as "68 % (48–83)"; "–" for None."""
    if value is None:
        return "–"
    return f"{100 * value:.0f} %" + (f" ({100 * interval[0]:.0f}–{100 * interval[1]:.0f})" if interval else "")


def number(value: float | None, interval: Interval = None, digits: int = 2) -> str:
    """A number, such as "0.87 (0.40–1.45)"; "–" for None."""
    if value is None:
        return "–"
    text = f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus zero
    if interval:
        low, high = (f"{v:.{digits}f}" for v in interval)
        text += f" ({low} to {high})" if interval[0] < 0 else f" ({low}–{high})"
    return text.replace("-", "−")


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun, such as "1 scan" or "2 scans"."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def detected(metrics: dict) -> str:
    """Sensitivity, false positives and precision as a sentence."""
    intervals = metrics["intervals_95"]
    scans, subjects = metrics["n_scans"], metrics["n_subjects"]
    if not metrics["n_lesions"]:
        return f"Sensitivity is undefined: no microbleeds are annotated in {plural(scans, 'scan')}."
    of = plural(scans, "scan") + ("" if scans == subjects else f" of {plural(subjects, 'patient')}")
    return (
        f"In {of}, {metrics['hits']} of {plural(metrics['n_lesions'], 'microbleed')} were detected: "
        f"sensitivity {percent(metrics['sensitivity'], intervals['sensitivity'])} "
        f"at {number(metrics['fp_per_scan'], intervals['fp_per_scan'])} FP/scan, "
        f"precision {percent(metrics['precision'], intervals['precision'])}."
    )


def on_free_scans(metrics: dict) -> str:
    """False positives in scans without microbleeds as a sentence."""
    n, interval = metrics["n_cmb_free_scans"], metrics["intervals_95"]["fp_per_cmb_free_scan"]
    if not n:
        return "The set has no scans without microbleeds, so FP/scan in such scans is unknown."
    rate = number(metrics["fp_per_cmb_free_scan"], interval)
    return f"In the {plural(n, 'scan')} without microbleeds, there were {rate} FP/scan."


def counting(metrics: dict) -> str:
    """Agreement of detected and annotated counts as a sentence."""
    counts = metrics["counts"]
    if counts["bias"] is None:
        return ""
    text = f"Agreement of counts per scan: bias {number(counts['bias'])} (detected − annotated)"
    if counts["lower_limit"] is not None:
        text += f", 95 % limits of agreement {number(counts['lower_limit'])} to {number(counts['upper_limit'])}"
    if counts["icc"] is not None:
        text += f", ICC(2,1) {number(counts['icc'], counts['intervals_95']['icc'])}"
    return text + "."


def exposure(locked_set: dict) -> str:
    """The exposure of the locked set, and its consequence."""
    if locked_set["evaluations"] == 1:
        return "This is the first evaluation of these held-out scans."
    text = exposure_summary(locked_set)
    if locked_set["bundles"] > 1:
        text += " Repeated evaluation on the same scans biases the metrics optimistically."
    return text


def kind(label: str) -> str:
    """The kind of a false positive, from the annotation at its position."""
    if label.startswith("mimic:"):
        return f"annotated as {label.removeprefix('mimic:').replace('_', ' ')}"
    return {"cmb": "duplicate detection of a microbleed", "possible": "at a possible microbleed"}.get(label, "no annotation")


def plain(text: str) -> str:
    """Names with spaces: subcortical_white to subcortical white."""
    return text.replace("_", " ")

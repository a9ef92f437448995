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
    """ "1 scan", "2 scans"."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def found(metrics: dict) -> str:
    """Sensitivity, false positives and precision as a sentence."""
    intervals = metrics["intervals_95"]
    if not metrics["n_lesions"]:
        return f"There are no marked microbleeds in these {plural(metrics['n_scans'], 'scan')}, so sensitivity is undefined."
    scans, subjects = metrics["n_scans"], metrics["n_subjects"]
    of = plural(scans, "scan") + ("" if scans == subjects else f" of {plural(subjects, 'patient')}")
    return (
        f"In {of} it found {metrics['hits']} of {plural(metrics['n_lesions'], 'microbleed')}, "
        f"{percent(metrics['sensitivity'], intervals['sensitivity'])}, "
        f"with {number(metrics['fp_per_scan'], intervals['fp_per_scan'])} false positives per scan; "
        f"{percent(metrics['precision'], intervals['precision'])} of its findings were microbleeds."
    )


def on_free_scans(metrics: dict) -> str:
    """False positives in scans without microbleeds as a sentence."""
    n, interval = metrics["n_cmb_free_scans"], metrics["intervals_95"]["fp_per_cmb_free_scan"]
    if not n:
        return "Every scan has annotated microbleeds, so false positives in scans without any are unknown."
    rate = number(metrics["fp_per_cmb_free_scan"], interval)
    return f"On the {plural(n, 'scan')} without microbleeds it had {rate} false positives per scan."


def counting(metrics: dict) -> str:
    """Agreement of counts as a sentence."""
    counts = metrics["counts"]
    intervals, bias = counts["intervals_95"], counts["bias"]
    if bias is None:
        return ""
    way = "as many as" if round(bias, 2) == 0 else "more than" if bias > 0 else "fewer than"
    amount = "" if way == "as many as" else f"{abs(bias):.2f} "
    text = f"On average it counts {amount}{way} marked per scan"
    if counts["lower_limit"] is not None:
        limits = f"{number(counts['lower_limit'])} to {number(counts['upper_limit'])}"
        text += f", and for 95 % of scans the difference lies within {limits}"
    if counts["icc"] is not None:
        text += f"; agreement of counts (ICC) {number(counts['icc'], intervals['icc'])}"
    return text + "."


def exposure(locked_set: dict) -> str:
    """The exposure of the locked set, and its consequence."""
    if locked_set["evaluations"] == 1:
        return "This is the first evaluation of these held-out scans: no earlier result has influenced the model."
    text = exposure_summary(locked_set)
    if locked_set["bundles"] > 1:
        text += " Later models may have been influenced by these results: repeated evaluation biases the figures optimistically."
    return text


def kind(label: str) -> str:
    """The kind of a false positive, from the annotation at its position."""
    if label.startswith("mimic:"):
        return f"marked as {label.removeprefix('mimic:').replace('_', ' ')}"
    return {"cmb": "a second finding at a microbleed", "possible": "at a possible microbleed"}.get(label, "nothing annotated here")


def plain(text: str) -> str:
    """Names with spaces: subcortical_white to subcortical white."""
    return text.replace("_", " ")

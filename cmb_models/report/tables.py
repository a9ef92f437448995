"""The report's tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cmb_models.report.data import Evaluation, ReportData
from cmb_models.report.wording import number, percent

Metrics = Mapping
STRATA = {  # key in metrics.json: heading, unit
    "size": ("By annotated diameter", "lesion"),
    "region": ("By region", "lesion"),
    "slice_thickness": ("By slice thickness", "scan"),
    "voxel_size": ("By voxel size (protocol)", "scan"),
    "dataset": ("By dataset (site)", "scan"),
}


def _share(name: str) -> Callable[[Metrics], str]:
    return lambda m: percent(m.get(name), m.get("intervals_95", {}).get(name))


def _number(name: str) -> Callable[[Metrics], str]:
    return lambda m: number(m.get(name), m.get("intervals_95", {}).get(name))


def _within(mm: str, name: str) -> Callable[[Metrics], str]:
    return lambda m: _share(name)(m[f"within_{mm}_mm"]) if f"within_{mm}_mm" in m else "–"


def _count(name: str) -> Callable[[Metrics], str]:
    return lambda m: _number(name)(m["counts"]) if "counts" in m else "–"


def _limits(m: Metrics) -> str:
    counts = m.get("counts", {})
    return "–" if counts.get("lower_limit") is None else f"{number(counts['lower_limit'])} to {number(counts['upper_limit'])}"


FIGURES: tuple[tuple[str, Callable[[Metrics], str]], ...] = (
    ("scans (of these without microbleeds)", lambda m: f"{m['n_scans']} ({m['n_cmb_free_scans']})"),
    ("microbleeds detected", lambda m: f"{m['hits']} of {m['n_lesions']}"),
    ("sensitivity", _share("sensitivity")),
    ("FP/scan", _number("fp_per_scan")),
    ("FP/scan in scans without microbleeds", lambda m: _number("fp_per_cmb_free_scan")(m) if m["n_cmb_free_scans"] else "–"),
    ("precision", _share("precision")),
    ("F1", _number("f1")),
    ("sensitivity at 0.6 FP/scan", _share("sensitivity_at_0.6_fp")),
    ("sensitivity, mean over scans with microbleeds", _share("mean_scan_sensitivity")),
    ("scan-level sensitivity", _share("scan_sensitivity")),
    ("scan-level specificity", lambda m: _share("scan_specificity")(m) if m["n_cmb_free_scans"] else "–"),
    ("sensitivity, tolerance 2 mm", _within("2", "sensitivity")),
    ("sensitivity, tolerance 5 mm", _within("5", "sensitivity")),
    ("expected calibration error", lambda m: number(m.get("ece"), m.get("intervals_95", {}).get("ece"), 3)),
    ("counts: ICC(2,1)", _count("icc")),
    ("counts: bias (detected − annotated)", _count("bias")),
    ("counts: 95 % limits of agreement", _limits),
    ("counts: weighted kappa (0, 1–4, 5–9, ≥ 10)", _count("weighted_kappa")),
)


def overview(material: ReportData) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Headings and rows of the metrics: locked, out of fold, and its stricter variants if available."""
    locked, out_of_fold = (e.metrics for e in material.evaluations)
    columns: dict[str, Metrics] = {"held-out test set": locked, "out of fold": out_of_fold}
    columns |= {"out of fold, cross-fitted threshold": out_of_fold["cross_fitted"]} if "cross_fitted" in out_of_fold else {}
    columns |= {"nested cross-validation": out_of_fold["nested"]} if "nested" in out_of_fold else {}
    return list(columns), [(name, [format_cell(m) for m in columns.values()]) for name, format_cell in FIGURES]


def strata(material: ReportData) -> list[dict]:
    """One table per stratification: heading, by_scan, and rows of a name and one cell per evaluation, None if absent."""
    tables = []
    for key, (heading, unit) in STRATA.items():
        per_set = [{row["name"]: row for row in e.metrics["strata"][key]} for e in material.evaluations]
        names = list(dict.fromkeys(name for rows in per_set for name in rows))
        order = _order(material.evaluations, key)
        rows = [(name, [strata_rows.get(name) for strata_rows in per_set]) for name in sorted(names, key=order)]
        if rows and [name for name, _ in rows] != ["not given"]:
            tables.append({"heading": heading, "by_scan": unit == "scan", "rows": rows})
    return tables


def _order(evaluations: tuple[Evaluation, ...], key: str) -> Callable[[str], float]:
    """Sort key that keeps the order of each set's rows: the mean relative rank of a stratum."""
    places: dict[str, list[float]] = {}
    for e in evaluations:
        rows = e.metrics["strata"][key]
        for n, row in enumerate(rows):
            places.setdefault(row["name"], []).append(n / max(1, len(rows) - 1))
    return lambda name: sum(places[name]) / len(places[name])

"""Markdown blocks of measured figures; a document names them in `<!-- results:NAME -->` ... `<!-- /results -->`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import training_processors
from benchmarks.serving.__main__ import GOALS
from scripts.results import planning
from scripts.results.committed import ROOT, load

__all__ = ["BLOCKS", "METHODS", "ROOT", "load", "scaling_table", "threshold_table"]
EVALUATIONS = {
    "out_of_fold": "out of fold",
    "cross_fitted": "out of fold, each fold's threshold chosen on the others",
    "held_out": "held-out test set",
}
HEAD = "| | found | sensitivity (95 % CI) | FP/scan (95 % CI) | precision | F1 |\n|---|---|---|---|---|---|"


def summary() -> str:
    """Held-out figures of both demos, for README."""
    rows = [HEAD]
    for name, label in (("demo", "`make demo`"), ("full-demo", "`make full-demo`")):
        figures = load(f"docs/results/{name}.json")
        scans = figures["held_out"]["n_scans"]
        rows.append(evaluation_row(f"{label}: 15 training scans, out of fold", figures["out_of_fold"]))
        rows.append(evaluation_row(f"{label}: {scans} held-out scans", figures["held_out"]))
    return "\n".join(rows)


def evaluations(name: str) -> str:
    """All evaluations of one demo, with its scans free of microbleeds."""
    figures = load(f"docs/results/{name}.json")
    return "\n".join([HEAD, *(evaluation_row(label, figures[key]) for key, label in EVALUATIONS.items())])


def evaluation_row(label: str, figures: dict[str, Any]) -> str:
    """One row under HEAD."""
    found = f"{figures['hits']} of {figures['n_lesions']}"
    sensitivity, fp = (_rate(figures[key], figures["intervals_95"][key]) for key in ("sensitivity", "fp_per_scan"))
    return f"| {label} | {found} | {sensitivity} | {fp} | {figures['precision']:.2f} | {figures['f1']:.2f} |"


def _rate(value: float, interval: list[float]) -> str:
    return f"{value:.2f} ({interval[0]:.2f}–{interval[1]:.2f})"


def sizes(name: str) -> str:
    """Held-out results by lesion diameter."""
    rows = ["| diameter | found | sensitivity (95 % CI) |\n|---|---|---|"]
    for size in load(f"docs/results/{name}.json")["held_out"]["size"]:
        hits, n = size["hits"], size["n_lesions"]
        rows.append(f"| {size['name']} | {hits} of {n} | {_rate(hits / n, size['interval_95'])} |")
    return "\n".join(rows)


def learning_curve() -> str:
    """Sensitivity at one FP/scan by number of training scans, methods side by side."""
    accuracy = load("research/results/accuracy.json")
    rows = [f"| training scans | {' | '.join(map(str, accuracy['sizes']))} |", "|---" * (len(accuracy["sizes"]) + 1) + "|"]
    for method in METHODS:
        means = {row["scans"]: row["mean"] for row in accuracy["means"] if row["name"] == method}
        cells = (f"{means[n]:.2f}" if n in means else "" for n in accuracy["sizes"])
        rows.append(f"| {METHODS[method]} | {' | '.join(cells)} |")
    return "\n".join(rows)


METHODS = {
    "two-stage (ours)": "both networks",
    "stage 1 alone": "candidate network alone",
    "two-stage, nothing inserted": "both networks, without synthetic lesions",
    "U-Net segmentation": "one U-Net that segments",
    "radial symmetry": "radial symmetry (classical)",
    "nnU-Net v2": "nnU-Net v2, 1,250 steps of one training",
}


def serving() -> str:
    """The goals of benchmarks/serving and what was measured."""
    measured = load("benchmarks/results/serving.json")
    rows = ["| | measured | goal |\n|---|---|---|"]
    for key, (goal, less, meaning) in GOALS.items():
        rows.append(f"| {meaning} | {measured['goals'][key]:.3g} | {'≤' if less else '≥'} {goal:g} |")
    return "\n".join(rows)


def soak() -> str:
    """Half an hour of load with promotions, rollbacks and malformed requests."""
    figures = load("benchmarks/results/soak.json")
    cells = {
        "duration": f"{figures['minutes']:.0f} min",
        "answers": f"{figures['answers']:,}",
        "malformed requests": sum(figures["malformed"].values()),
        "release switches": figures["switches"],
        "lost or wrong answers": figures["n_faults"],
        "memory growth": f"{100 * figures['memory_growth']:.0f} %".replace("-", "−"),
    }
    return f"| {' | '.join(cells)} |\n{'|---' * len(cells)}|\n| {' | '.join(map(str, cells.values()))} |"


def phase() -> str:
    """Sensitivity with and without phase where calcifications are frequent."""
    figures = load("research/results/phase_calcifications.json")
    rows = ["| FP/scan | sensitivity without phase | with phase |\n|---|---|---|"]
    without, with_phase = (figures["sensitivity_at_fp"][key] for key in ("SWI", "SWI and phase"))
    for before, after in zip(without, with_phase, strict=True):
        rows.append(f"| {before['fp_per_scan']:g} | {before['sensitivity']:.2f} | {after['sensitivity']:.2f} |")
    return "\n".join(rows)


def training_speed() -> str:
    """Steps per second by precision and instruction set."""
    return training_processors.markdown(load("benchmarks/results/training_speed.json")["processors"]).strip()


def real_planes() -> str:
    """Microbleeds and slices of both generations of the phantom next to real ones."""
    figures = load("research/results/real_planes.json")
    kinds = [k for k in figures if k != "real"]
    rows = [f"| | real | {' | '.join(kinds)} |", "|---" * (len(kinds) + 2) + "|"]
    for part, names in REAL_PLANES.items():
        for name, label in names.items():
            spreads = [figures[k][part][name] for k in ("real", *kinds)]
            cells = [f"{s['median']:.2g} ({s['p5']:.2g}–{s['p95']:.2g})" for s in spreads]
            rows.append(f"| {label} | {' | '.join(cells)} |")
    tests = [figures[k]["real_vs_phantom_auc"] for k in kinds]
    cells = [f"{t['auc']:.2f} ({t['low']:.2f}–{t['high']:.2f})" for t in tests]
    return "\n".join([*rows, f"| two-sample test, AUC (95 % CI) | | {' | '.join(cells)} |"])


def site_scans() -> str:
    """Sensitivity on OOD scans by start and number of site scans."""
    rows = ["| start | site scans | at 0.5 FP/scan (95 % CI) | at 1 FP/scan |\n|---|---|---|---|"]
    for trained in load("research/results/data_efficiency.json")["figures"]:
        cells = [_rate(row["sensitivity"], [row["low"], row["high"]]) for row in trained["froc"]]
        rows.append(f"| {trained['start']} | {trained['scans'] or 'none'} | {' | '.join(cells)} |")
    return "\n".join(rows)


def contrast() -> str:
    """Sensitivity of the base release by contrast-to-noise ratio of the lesion, at one rate of false positives."""
    figures = load("research/results/conspicuity_base.json")
    rows = ["| CNR | found | sensitivity (95 % CI) | FP/scan at such places |\n|---|---|---|---|"]
    for row in figures["all"]:
        share = _rate(row["found"] / row["lesions"], row["interval_95"])
        rows.append(f"| {row['cnr']} | {row['found']} of {row['lesions']} | {share} | {row['false_positives_per_scan']:.2f} |")
    found, lesions = (sum(row[key] for row in figures["all"]) for key in ("found", "lesions"))
    [total] = [row for row in figures["total"]["froc"] if row["fp_per_scan"] == figures["fp_per_scan"]]
    rate = sum(row["false_positives_per_scan"] for row in figures["all"])
    share = _rate(found / lesions, [total["low"], total["high"]])
    return "\n".join([*rows, f"| all | {found} of {lesions} | {share} | {rate:.2f} |"])


def scaling() -> str:
    """Candidate network alone by number of training scans, optimizer steps and channels."""
    return scaling_table(load("research/results/scaling.json")["cells"])


def scaling_table(cells: list[dict[str, Any]]) -> str:
    """A Markdown row per cell: sensitivity at some rates on held-out phantoms and on OOD scans."""
    names = {"phantoms": "phantoms", "ood": "OOD"}
    rates = [row["fp_per_scan"] for row in cells[0]["ood"]["froc"]]
    heads = ["scans", "steps", "channels", *(f"{names[n]}, {rate:g} FP/scan" for n in names for rate in rates)]
    rows = [f"| {' | '.join(heads)} |", "|--:" * len(heads) + "|"]
    for cell in cells:
        found = [_rate(row["sensitivity"], [row["low"], row["high"]]) for n in names for row in cell[n]["froc"]]
        rows.append(f"| {' | '.join([str(cell['scans']), str(cell['optimizer_steps']), str(cell['channels']), *found])} |")
    return "\n".join(rows)


def thresholds() -> str:
    """False positives that the base release reaches on other scans, by rule."""
    return threshold_table(load("research/results/thresholds.json")["datasets"])


def threshold_table(datasets: dict[str, list[dict]]) -> str:
    """A Markdown row for each dataset and rate: false positives per scan and sensitivity by both rules."""
    lines = [
        "| scans | chosen FP/scan | as chosen: reached | sensitivity | scaled: reached | sensitivity |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, rows in datasets.items():
        for plain, scaled in zip(rows[::2], rows[1::2], strict=True):
            cells = [f"{r['fp_per_scan']:.2f} ({r['interval_95'][0]:.2f}–{r['interval_95'][1]:.2f})" for r in (plain, scaled)]
            found = ["–" if r["sensitivity"] is None else f"{r['sensitivity']:.2f}" for r in (plain, scaled)]
            lines.append(f"| {name} | {plain['chosen']:g} | {cells[0]} | {found[0]} | {cells[1]} | {found[1]} |")
    return "\n".join(lines)


def real_images() -> str:
    """Each release on real microbleeds, published false positives, and simulated microbleeds in real scans."""
    rows = [f"| {' | '.join(REAL_IMAGES)} |", "|---" * len(REAL_IMAGES) + "|"]
    for release in load("research/results/real_evidence.json")["releases"]:
        cubes, scans = release["cubes"], release["backgrounds"]
        auc, inserted = cubes["real_patch_auc"], scans["gre_crop"]["inserted"]["from_2_mm"]
        untouched = [s["untouched"] for s in scans.values()]
        false, litres = (sum(u[key] for u in untouched) for key in ("false_positives", "brain_litres"))
        cells = [_found(cubes["real_cmb_found"]), _found(cubes["real_false_positives_above_threshold"])]
        cells += [_rate(auc["auc"], auc["interval_95"]), _found(inserted), f"{false} in {litres:.2f} l"]
        rows.append(f"| {release['name']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _found(share: dict[str, Any]) -> str:
    low, high = share["interval_95"]
    return f"{share.get('count', share.get('found'))} of {share['of']} ({low:.2f}–{high:.2f})"


REAL_IMAGES = (
    "release",
    "real microbleeds found",
    "published false positives above the threshold",
    "AUC of these two",
    "inserted microbleeds from 2 mm found",
    "false positives in brain without known microbleeds",
)
REAL_PLANES = {
    "lesions": {
        "darkest_over_surround": "microbleed: darkest voxel over surroundings",
        "width_in_plane_mm": "microbleed: half-depth width in plane, mm",
        "width_through_plane_mm": "microbleed: half-depth width through plane, mm",
    },
    "texture": {
        "sd": "slice: standard deviation",
        "gradient_per_mm": "slice: mean gradient, per mm",
        "line_strength_1mm": "slice: strength of dark lines, 1 mm",
        "line_strength_2mm": "slice: strength of dark lines, 2 mm",
        "line_strength_3mm": "slice: strength of dark lines, 3 mm",
        "dark_share": "slice: share of pixels below 0.7",
    },
}


def followup() -> str:
    """New microbleeds in simulated pairs of scans, and how well these are registered."""
    figures = load("research/results/followup.json")
    lesions, false, severity = figures["lesions"], figures["false_new"], figures["severity"]
    one, other, pairs = figures["same_head"], figures["other_head"], figures["compared"]
    false_new = (
        f"{false['false_new_by_false_positive']} false positives, {false['false_new_of_old_lesion']} lesions that were there"
    )
    of = severity["most_probable_right_of"]
    by_class = ", ".join(f"{name} {of[name]} of {count}" for name, count in severity["true"].items())
    errors = {name: f"{e['rms']:.1f} mm, at most {e['max']:.1f} mm" for name, e in figures["error_mm"].items()}
    rows = {
        "pairs compared": f"{pairs} of {figures['pairs']}",
        "new microbleeds that the detector finds and the baseline shows": f"{lesions['could_be_seen']} of {lesions['new']}",
        "of these called new (95 % CI)": f"{lesions['called_new']} ({_share(lesions['called_new_95'])})",
        "called new without being so, per pair": f"{false['per_pair']:.2f} ({false_new})",
        "class of ARIA-H right (95 % CI)": f"{severity['right']} of {pairs} ({_share(severity['right_95'])})",
        "right for the new microbleeds that the detector finds": f"{severity['right_for_those_seen']} of {pairs}",
        "the most probable class right": f"{severity['most_probable_right']} of {pairs} ({by_class})",
        "expected number of new microbleeds, all pairs": f"{figures['expected_new']:.0f}, of {lesions['new']} simulated",
        "error of the registration at lesions, root mean square": errors["registration"],
        "error of a detection's place": errors["localisation"],
        "correlation of detail: one head, two heads": f"{one['detail_min']:.2f} and up; {other['detail_max']:.2f} and below",
        "scans of another head rejected": f"{other['rejected']} of {other['pairs']}",
    }
    return "\n".join(["| | |\n|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _share(interval: list[float]) -> str:
    return f"{interval[0]:.2f}–{interval[1]:.2f}"


BLOCKS: dict[str, Callable[[], str]] = {
    "summary": summary,
    "demo": lambda: evaluations("demo"),
    "full-demo": lambda: evaluations("full-demo"),
    "full-demo-sizes": lambda: sizes("full-demo"),
    "learning-curve": learning_curve,
    "serving": serving,
    "soak": soak,
    "phase": phase,
    "real-images": real_images,
    "site-scans": site_scans,
    "contrast": contrast,
    "scaling": scaling,
    "thresholds": thresholds,
    "real-planes": real_planes,
    "followup": followup,
    "training-steps-per-second": training_speed,
    **planning.BLOCKS,
}

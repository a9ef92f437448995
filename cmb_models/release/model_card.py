"""The model card of a bundle as Markdown, generated from its metadata, settings and lineage.

The export stage writes it without metrics, `cmb release register` adds them; unknown values are omitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmb_models.config.params import PipelineConfig
from cmb_models.evaluation.exposure_log import exposure_summary

FIGURES = (
    ("sensitivity", "microbleeds found", "share"),
    ("fp_per_scan", "false positives per scan", "rate"),
    ("fp_per_cmb_free_scan", "the same in scans without microbleeds", "rate"),
    ("precision", "findings that are microbleeds", "share"),
    ("sensitivity_at_0.6_fp", "found at 0.6 false positives per scan", "share"),
    ("ece", "calibration error of the scores", "small"),
)
STRATA = {"size": "Diameter", "dataset": "Dataset", "slice_thickness": "Slices", "region": "Region"}
COUNTS = {
    "scans": "scans",
    "subjects": "subjects",
    "microbleeds": "microbleeds marked",
    "scans_without_microbleeds": "scans without any",
}
MEANS = {"log_odds": "log odds are", "geometric": "logarithm is"}
MIN_LESIONS = 5  # with fewer, an interval is uninformative; the counts are in reports/
LIMITS = """\
- The figures hold for scans like the locked ones: same scanners, protocols and annotation practice. Evaluate on your own scans
  first.
- Not tested on children, on other sequences than SWI, or after surgery. Slices thicker than 6 mm are rejected.
- The tables above list missed microbleeds and false positives; vessels in cross-section, calcifications and iron deposits mimic
  microbleeds in SWI.
- A scan without findings is not a scan without microbleeds."""


def model_card(
    config: PipelineConfig,
    metadata: Mapping[str, Any],
    lineage: Mapping[str, Any],
    froc: Sequence[Mapping[str, Any]] = (),
    picture: bool = False,
) -> str:
    """Generate the card.

    froc: rows {fp_per_scan, sensitivity, low, high} of the locked evaluation, () before it. picture: the bundle has
    evaluation/froc.png.
    """
    metrics = metadata.get("metrics", {})
    parts = [
        _head(config, metadata, lineage),
        _figures(metrics),
        _froc(froc, picture),
        _strata(metrics.get("evaluate", {}).get("strata", {})),
        _mistakes(metadata.get("mistakes", {})),
        _data(metadata.get("data", {})),
        _how(config, metadata),
        f"## Limits\n\n{LIMITS}",
        _origin(lineage),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(config: PipelineConfig, metadata: Mapping[str, Any], lineage: Mapping[str, Any]) -> str:
    lines = ["# Cerebral microbleed detector", "", f"**{metadata.get('intended_use', '')}**" if "intended_use" in metadata else ""]
    test = metadata.get("metrics", {}).get("evaluate", {})
    if test.get("n_lesions") and "hits" in test:
        share, rate = (_value(test, key, kind) for key, _, kind in FIGURES[:2])
        lines += [
            "",
            f"On {test['n_scans']} locked scans with {test['n_lesions']} microbleeds, which were not used in training, it finds "
            f"{test['hits']}: {share} at {rate} false positives per scan (95 % intervals over subjects).",
        ]
    if "created" in lineage:
        before = f", after release {lineage['parent_release']}" if lineage.get("parent_release") else ""
        lines += ["", f"Registered {lineage['created']} by {lineage.get('user', 'unknown')}{before}."]
    return "\n".join(lines)


def _figures(metrics: Mapping[str, Any]) -> str:
    """The evaluations side by side, each metric with its interval."""
    folded = metrics.get("cross_validate", {})
    columns = {"locked scans": metrics.get("evaluate", {}), "out of fold": folded}
    columns |= {"out of fold, cross-fitted thresholds": folded.get("cross_fitted", {}), "nested": folded.get("nested", {})}
    columns = {name: part for name, part in columns.items() if part}
    if not columns:
        return ""
    rows = [("scans", *(str(c.get("n_scans", "–")) for c in columns.values()))]
    rows += [("microbleeds", *(str(c.get("n_lesions", "–")) for c in columns.values()))]
    for key, label, kind in FIGURES:
        cells = [_value(c, key, kind) for c in columns.values()]
        if any(cell != "–" for cell in cells):
            rows.append((label, *cells))
    exposure = metrics.get("evaluate", {}).get("locked_set")
    note = f"\n\n{exposure_summary(exposure)}" if exposure else ""
    if notes := folded.get("notes"):
        note += "\n\n" + "\n".join(f"- {n}" for n in notes)
    return "## Measured\n\n" + _table(("", *columns), rows) + note


def _froc(rows: Sequence[Mapping[str, Any]], picture: bool) -> str:
    if not rows:
        return ""
    cells = []
    for row in rows:
        share = {"s": row["sensitivity"], "intervals_95": {"s": [row.get("low"), row.get("high")]}}
        cells.append((f"{row['fp_per_scan']:g}", _value(share, "s", "share")))
    shown = "![FROC on the locked scans](evaluation/froc.png)\n\n" if picture else ""
    return f"### FROC on the locked scans\n\n{shown}" + _table(("false positives per scan", "microbleeds found"), cells)


def _strata(strata: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    tables = []
    for key, title in STRATA.items():
        groups = [g for g in strata.get(key, ()) if g.get("n_lesions", 0) >= MIN_LESIONS]
        rows = []
        for g in groups:
            share = {"s": g["sensitivity"], "intervals_95": {"s": g.get("interval_95")}}
            false = f"{g['fp_per_scan']:.2f}" if g.get("fp_per_scan") is not None else "–"
            rows.append((str(g["name"]).replace("_", " "), f"{g['hits']} of {g['n_lesions']}", _value(share, "s", "share"), false))
        if rows:
            width = 4 if any(row[3] != "–" for row in rows) else 3  # false positives have neither size nor region
            head = (title, "found", "sensitivity", "false positives per scan")
            tables.append(_table(head[:width], [row[:width] for row in rows]))
    return f"### Where it finds them (locked scans, groups of {MIN_LESIONS} or more)\n\n" + "\n\n".join(tables) if tables else ""


def _mistakes(mistakes: Mapping[str, Mapping[str, int]]) -> str:
    """False positives and misses on the locked scans, with their reasons."""
    titles = {"false_positives": "False positives lie on", "missed": "Missed, since"}
    tables = []
    for key, title in titles.items():
        if rows := [(name.replace("mimic:", "").replace("_", " "), str(n)) for name, n in mistakes.get(key, {}).items()]:
            tables.append(_table((title, "number"), rows))
    return "### Errors (locked scans)\n\n" + "\n\n".join(tables) if tables else ""


def _data(data: Mapping[str, Any]) -> str:
    columns = {name: data[key] for key, name in (("training", "training"), ("locked", "locked test")) if data.get(key)}
    if not columns:
        return ""
    rows = [(label, *(str(c.get(key, "–")) for c in columns.values())) for key, label in COUNTS.items()]
    if any(c.get("with_phase") for c in columns.values()):
        rows.append(("scans with phase", *(str(c.get("with_phase", "–")) for c in columns.values())))
    rows.append(("datasets", *(", ".join(f"{n} ({k})" for n, k in c.get("datasets", {}).items()) or "–" for c in columns.values())))
    rows.append(("voxels, mm (scans)", *(_voxels(c.get("voxels", ())) for c in columns.values())))
    if any("diameter_mm" in c for c in columns.values()):
        rows.append(("diameter, mm", *(_diameters(c.get("diameter_mm")) for c in columns.values())))
    return "## Data\n\n" + _table(("", *columns), rows) + "\n\n`lineage.json` lists every scan by name and SHA-256."


def _voxels(voxels: Sequence[Mapping[str, Any]], shown: int = 6) -> str:
    words = [f"{'×'.join(f'{side:g}' for side in v['mm'])} ({v['scans']})" for v in voxels]
    return "<br>".join(words[:shown] + ([f"and {len(words) - shown} more sizes"] if len(words) > shown else [])) or "–"


def _diameters(values: Mapping[str, float] | None) -> str:
    return f"median {values['median']:.1f} ({values['min']:.1f}–{values['max']:.1f})" if values else "–"


def _how(config: PipelineConfig, metadata: Mapping[str, Any]) -> str:
    spacing = "×".join(f"{s:g}" for s in config.preprocess.spacing_mm)
    lines = [
        "Two stages after Rau et al., Brain Sciences 2026: a 3D U-Net proposes locations in the SWI volume, a 3D CNN",
        "separates microbleeds from mimics.",
        "",
        "- Input: one whole-head SWI volume as stored by the scanner, any orientation, slices up to 6 mm.",
    ]
    if config.preprocess.phase:
        lines.append("- Its high-pass filtered phase image, in any unit and with either sign.")
    decision = config.decision
    lines += [
        f"- Working grid {spacing} mm; at most {config.candidates.max_per_scan} candidates per scan reach stage 2.",
        f"- Operating point: calibrated score of {decision.threshold:.3f} or more, chosen on out-of-fold scores.",
        f"- Fused score: its {MEANS[decision.joint_mean]} the weighted mean of those of both stages' scores, with weights "
        f"{1 - decision.stage2_weight:.3f} for stage 1 and {decision.stage2_weight:.3f} for stage 2.",
        f"- Calibration: sigmoid({decision.slope:.3f} · logit(fused score) {'+' if decision.intercept >= 0 else '−'} "
        f"{abs(decision.intercept):.3f}).",
    ]
    parity = metadata.get("parity", {})
    if parity:
        worst = ", ".join(f"{name} {value:.1e}" for name, value in sorted(parity.items()))
        lines.append(f"- Largest score difference of ONNX to torch: {worst}.")
    return "## How it works\n\n" + "\n".join(lines)


def _origin(lineage: Mapping[str, Any]) -> str:
    """Every identifying string of the lineage, and the chosen trials."""
    rows = [(key.replace("_", " "), f"`{value}`") for key, value in sorted(lineage.items()) if isinstance(value, str) and value]
    for name, chosen in sorted(lineage.get("studies", {}).items()):
        rows.append((f"{name} study, trial", f"`{chosen['study']}`, {chosen['trial']}"))
    rows += [(f"data `{path}`", f"`{md5}`") for path, md5 in sorted(lineage.get("data", {}).items())]
    return "## Origin\n\n" + _table(("", ""), rows) if rows else ""


def _value(part: Mapping[str, Any], key: str, kind: str) -> str:
    """A figure with its 95 % interval, such as `72 % (62–79)`; – where it is unknown."""
    value = part.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "–"
    if key == "fp_per_cmb_free_scan" and part.get("n_cmb_free_scans") == 0:
        return "–"  # a mean over no scans
    scale, digits = {"share": (100, ".0f"), "rate": (1, ".2f"), "small": (1, ".3f")}[kind]
    text = f"{scale * value:{digits}}" + (" %" if kind == "share" else "")
    interval = (part.get("intervals_95") or {}).get(key)
    if interval and None not in interval:
        text += f" ({scale * interval[0]:{digits}}–{scale * interval[1]:{digits}})"
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)])

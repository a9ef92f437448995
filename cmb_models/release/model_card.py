"""The model card of a bundle as Markdown, generated from its metadata, settings and lineage.

The export stage writes it without metrics, `cmb release register` adds them; unknown values are omitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmb_models.config.params import PipelineConfig
from cmb_models.evaluation.exposure_log import exposure_summary

FIGURES = (
    ("sensitivity", "sensitivity", "share"),
    ("fp_per_scan", "FP/scan", "rate"),
    ("fp_per_cmb_free_scan", "FP/scan in scans without microbleeds", "rate"),
    ("precision", "precision", "share"),
    ("sensitivity_at_0.6_fp", "sensitivity at 0.6 FP/scan", "share"),
    ("ece", "expected calibration error", "small"),
)
STRATA = {"size": "Diameter", "dataset": "Dataset", "slice_thickness": "Slice thickness", "region": "Region"}
COUNTS = {
    "scans": "scans",
    "subjects": "subjects",
    "microbleeds": "annotated microbleeds",
    "scans_without_microbleeds": "scans without microbleeds",
}
FUSIONS = {"log_odds": ("logarithmic opinion pool", "logit"), "geometric": ("weighted geometric mean", "log")}
MIN_LESIONS = 5  # with fewer, an interval is uninformative; the counts are in reports/
OUTPUT = "centre in scanner RAS mm, diameter in mm and calibrated score in [0, 1] of each detected microbleed."
LIMITATIONS = """\
- Performance may differ on other scanners, protocols, populations and annotation practices. Evaluate on your own annotated scans
  before use.
- Vessels in cross-section, calcifications and iron deposits mimic microbleeds in SWI and may be reported as such.
- A scan without detections may contain microbleeds.
- Not validated in children, after neurosurgery, or on sequences other than SWI. Slices thicker than 6 mm are rejected."""


def model_card(
    config: PipelineConfig,
    metadata: Mapping[str, Any],
    lineage: Mapping[str, Any],
    froc: Sequence[Mapping[str, Any]] = (),
    picture: bool = False,
) -> str:
    """Generate the card; sections without data are omitted.

    Args:
        config: The bundle's settings.
        metadata: Of metadata.json; `metrics` and `mistakes` are missing before registration.
        lineage: Of lineage.json.
        froc: Rows {fp_per_scan, sensitivity, low, high} on the held-out test set, () before its evaluation.
        picture: Whether the bundle has evaluation/froc.png.

    Returns:
        The card as Markdown.
    """
    metrics = metadata.get("metrics", {})
    parts = [
        _head(metadata, lineage),
        _intended_use(config, metadata),
        _data(metadata.get("data", {})),
        _method(config, metadata),
        _performance(metrics),
        _froc(froc, picture),
        _strata(metrics.get("evaluate", {}).get("strata", {})),
        _mistakes(metadata.get("mistakes", {})),
        f"## Limitations\n\n{LIMITATIONS}",
        _provenance(lineage),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(metadata: Mapping[str, Any], lineage: Mapping[str, Any]) -> str:
    parts = ["# Cerebral microbleed detector"]
    test = metadata.get("metrics", {}).get("evaluate", {})
    if test.get("n_lesions") and "hits" in test:
        share, rate = (_value(test, key, kind) for key, _, kind in FIGURES[:2])
        parts.append(
            f"On the held-out test set of {test['n_scans']} scans, it detects {test['hits']} of {test['n_lesions']} microbleeds: "
            f"sensitivity {share} at {rate} FP/scan (95 % CI over subjects in brackets)."
        )
    if "created" in lineage:
        parent = f"; parent release: {lineage['parent_release']}" if lineage.get("parent_release") else ""
        parts.append(f"Registered {lineage['created']} by {lineage.get('user', 'unknown')}{parent}.")
    return "\n\n".join(parts)


def _intended_use(config: PipelineConfig, metadata: Mapping[str, Any]) -> str:
    lines = [f"**{metadata['intended_use']}**", ""] if "intended_use" in metadata else []
    phase = " and its phase image (any unit, either sign)" if config.preprocess.phase else ""
    lines += [f"- Input: one whole-head SWI volume as stored by the scanner, in any orientation{phase}.", f"- Output: {OUTPUT}"]
    return "## Intended use\n\n" + "\n".join(lines)


def _performance(metrics: Mapping[str, Any]) -> str:
    """The evaluations in columns, each metric with its interval."""
    folded = metrics.get("cross_validate", {})
    columns = {"held-out test set": metrics.get("evaluate", {}), "out of fold": folded}
    columns |= {"out of fold, cross-fitted thresholds": folded.get("cross_fitted", {})}
    columns |= {"nested cross-validation": folded.get("nested", {})}
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
    note = f" {exposure_summary(exposure)}" if exposure else ""
    if notes := folded.get("notes"):
        note += "\n\n" + "\n".join(f"- {n}" for n in notes)
    return (
        "## Performance\n\n" + _table(("", *columns), rows) + f"\n\nFP: false positives. In brackets: 95 % CI over subjects.{note}"
    )


def _froc(rows: Sequence[Mapping[str, Any]], picture: bool) -> str:
    if not rows:
        return ""
    cells = []
    for row in rows:
        share = {"s": row["sensitivity"], "intervals_95": {"s": [row.get("low"), row.get("high")]}}
        cells.append((f"{row['fp_per_scan']:g}", _value(share, "s", "share")))
    shown = "![FROC curve on the held-out test set](evaluation/froc.png)\n\n" if picture else ""
    return f"### FROC, held-out test set\n\n{shown}" + _table(("FP/scan", "sensitivity"), cells)


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
            head = (title, "detected", "sensitivity", "FP/scan")
            tables.append(_table(head[:width], [row[:width] for row in rows]))
    if not tables:
        return ""
    return f"### By stratum, held-out test set\n\nStrata of {MIN_LESIONS} or more microbleeds.\n\n" + "\n\n".join(tables)


def _mistakes(mistakes: Mapping[str, Mapping[str, int]]) -> str:
    """False positives by annotation and misses by reason, on the held-out test set."""
    titles = {"false_positives": "False positives at", "missed": "Reason for miss"}
    tables = []
    for key, title in titles.items():
        named = {{"cmb": "microbleed already detected"}.get(name, name): n for name, n in mistakes.get(key, {}).items()}
        if rows := [(name.replace("mimic:", "").replace("_", " "), str(n)) for name, n in named.items()]:
            tables.append(_table((title, "number"), rows))
    return "### Errors, held-out test set\n\n" + "\n\n".join(tables) if tables else ""


def _data(data: Mapping[str, Any]) -> str:
    columns = {name: data[key] for key, name in (("training", "training"), ("locked", "held-out test set")) if data.get(key)}
    if not columns:
        return ""
    rows = [(label, *(str(c.get(key, "–")) for c in columns.values())) for key, label in COUNTS.items()]
    if any(c.get("with_phase") for c in columns.values()):
        rows.append(("scans with phase", *(str(c.get("with_phase", "–")) for c in columns.values())))
    rows.append(("datasets", *(", ".join(f"{n} ({k})" for n, k in c.get("datasets", {}).items()) or "–" for c in columns.values())))
    rows.append(("voxel size, mm (scans)", *(_voxels(c.get("voxels", ())) for c in columns.values())))
    if any("diameter_mm" in c for c in columns.values()):
        rows.append(("diameter, mm", *(_diameters(c.get("diameter_mm")) for c in columns.values())))
    return "## Data\n\n" + _table(("", *columns), rows) + "\n\n`lineage.json` lists every scan by name and SHA-256."


def _voxels(voxels: Sequence[Mapping[str, Any]], shown: int = 6) -> str:
    words = [f"{'×'.join(f'{side:g}' for side in v['mm'])} ({v['scans']})" for v in voxels]
    return "<br>".join(words[:shown] + ([f"and {len(words) - shown} more sizes"] if len(words) > shown else [])) or "–"


def _diameters(values: Mapping[str, float] | None) -> str:
    return f"median {values['median']:.1f} ({values['min']:.1f}–{values['max']:.1f})" if values else "–"


def _method(config: PipelineConfig, metadata: Mapping[str, Any]) -> str:
    decision, candidates = config.decision, config.candidates
    fusion, scale = FUSIONS[decision.joint_mean]
    weights = f"{1 - decision.stage2_weight:.3f} · {scale}(stage 1) + {decision.stage2_weight:.3f} · {scale}(stage 2)"
    intercept = f"{'+' if decision.intercept >= 0 else '−'} {abs(decision.intercept):.3f}"
    lines = [
        "Two stages after [Rau et al., Brain Sciences 2026](https://doi.org/10.3390/brainsci16020207): a 3D U-Net proposes",
        "candidates, a 3D CNN classifies a patch around each.",
        "",
        f"- Preprocessing: resampling to {'×'.join(f'{s:g}' for s in config.preprocess.spacing_mm)} mm, intensity normalisation.",
        f"- Candidates: at most {candidates.max_per_scan} per scan, those with the highest stage 1 scores.",
        f"- Score fusion: {fusion}, {scale}(fused) = {weights}.",
        f"- Calibration: Platt scaling, sigmoid({decision.slope:.3f} · logit(fused) {intercept}).",
        f"- Operating point: calibrated score of at least {decision.threshold:.3f}, chosen on out-of-fold scores.",
    ]
    if parity := metadata.get("parity", {}):
        differences = ", ".join(f"{value:.1e} ({name})" for name, value in sorted(parity.items()))
        lines.append(f"- ONNX export: largest score difference from PyTorch {differences}.")
    return "## Method\n\n" + "\n".join(lines)


def _provenance(lineage: Mapping[str, Any]) -> str:
    """Every identifying string of the lineage, and the chosen trials."""
    rows = [(key.replace("_", " "), f"`{value}`") for key, value in sorted(lineage.items()) if isinstance(value, str) and value]
    for name, chosen in sorted(lineage.get("studies", {}).items()):
        rows.append((f"{name} study, trial", f"`{chosen['study']}`, {chosen['trial']}"))
    rows += [(f"data `{path}`", f"`{md5}`") for path, md5 in sorted(lineage.get("data", {}).items())]
    rows += [
        (f"contents of {name}: {record['scans']} scans, {record['cmbs']} microbleeds", f"`{record['sha256']}`")
        for name, record in sorted(lineage.get("datasets", {}).items())
    ]
    return "## Provenance\n\n" + _table(("", ""), rows) if rows else ""


def _value(part: Mapping[str, Any], key: str, kind: str) -> str:
    """A metric with its 95 % interval, such as `72 % (62–79)`; – if unknown."""
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

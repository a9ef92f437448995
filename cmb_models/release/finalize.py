"""Completion of an exported bundle: rows of the locked evaluation, lineage, metrics and the model card are added."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from cmb_models.config.params import PipelineConfig
from cmb_models.evaluation.rows import DETECTIONS, LESIONS, SCANS, read_table
from cmb_models.files import read_json, write_json, write_text
from cmb_models.release.bundle import (
    CARD_FILE,
    EVALUATION_DIR,
    LINEAGE_FILE,
    MANIFEST_FILE,
    METADATA_FILE,
    PIPELINE_FILE,
    write_manifest,
)
from cmb_models.release.model_card import model_card
from cmb_models.workspace.paths import BUNDLE, EVALUATE_DIR
from cmb_models.workspace.versioning import git_lines, is_tracked

FROC, PICTURE = "froc.json", "froc.png"
EVALUATION_FILES = tuple(f"{EVALUATE_DIR}/{name}" for name in (SCANS, LESIONS, DETECTIONS, FROC))  # read when releases are compared
FALSE = "false_positive"
FOLDED_LESIONS = f"reports/cross_validate/{LESIONS}"


def complete_bundle(workspace: Path, target: Path, facts: dict[str, Any], metrics: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Copy the workspace's exported bundle to `target` and complete it.

    The lineage's export_files are the exported files' hashes, so that a reproduction can be compared file by file.

    Args:
        workspace: The workspace.
        target: Folder to create.
        facts: Keys for lineage.json, merged over those of the export stage.
        metrics: Metrics by stage.

    Returns:
        The lineage, and the manifest's SHA-256.
    """
    shutil.copytree(workspace / BUNDLE, target)
    exported = read_json(target / MANIFEST_FILE)["files"]
    lineage = {**read_json(target / LINEAGE_FILE), **facts, "export_files": exported}
    metadata = _metadata(workspace, read_json(target / METADATA_FILE), lineage, metrics)
    write_json(target / LINEAGE_FILE, lineage)
    write_json(target / METADATA_FILE, metadata)
    (target / EVALUATION_DIR).mkdir()
    for file in (*EVALUATION_FILES, *(f for f in (f"{EVALUATE_DIR}/{PICTURE}",) if is_tracked(workspace, f))):
        shutil.copyfile(workspace / file, target / EVALUATION_DIR / Path(file).name)
    config = PipelineConfig.model_validate(read_json(target / PIPELINE_FILE))
    froc = read_json(target / EVALUATION_DIR / FROC)
    write_text(target / CARD_FILE, model_card(config, metadata, lineage, froc, (target / EVALUATION_DIR / PICTURE).is_file()))
    (target / MANIFEST_FILE).unlink()
    return lineage, write_manifest(target)


def _metadata(workspace: Path, exported: dict[str, Any], lineage: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """The export's metadata with metrics, the commit's subject as changelog, and the sizes of the microbleeds."""
    subject = "; ".join(git_lines(workspace, "log", "-1", "--format=%s", lineage["git_commit"])) or "registered"
    data = {name: dict(part) for name, part in exported.get("data", {}).items()}
    for name, file in (("training", FOLDED_LESIONS), ("locked", f"{EVALUATE_DIR}/{LESIONS}")):
        if name in data and (sizes := _diameters_mm(workspace / file)):
            data[name]["diameter_mm"] = {"min": min(sizes), "median": median(sizes), "max": max(sizes)}
    changelog = {**exported.get("changelog", {}), lineage["created"]: f"{subject} ({lineage['git_commit'][:8]})"}
    merged = {**exported, "changelog": changelog, "metrics": {**exported.get("metrics", {}), **metrics}}
    return merged | ({"data": data} if data else {}) | {"mistakes": _mistakes(workspace)}


def _mistakes(workspace: Path) -> dict[str, dict[str, int]]:
    """Counts in the locked evaluation: annotation labels at false positives, and reasons why microbleeds were missed."""
    folder = workspace / EVALUATE_DIR
    detections, lesions = (read_table(folder / name) for name in (DETECTIONS, LESIONS))
    false = [r["label"] or "no annotation" for r in detections if r["at_threshold"] == FALSE]
    missed = [r["rejected"] for r in lesions if r["label"] == "cmb" and r["hit"] != "1"]
    return {"false_positives": dict(Counter(false).most_common()), "missed": dict(Counter(missed).most_common())}


def _diameters_mm(file: Path) -> list[float]:
    """Diameters of the annotated microbleeds in saved evaluation rows; [] without the file."""
    return [float(row["diameter_mm"]) for row in read_table(file) if row["label"] == "cmb"] if file.is_file() else []

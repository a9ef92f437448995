"""A bundle's evaluation on the locked scans: the saved rows, the reported metrics, the scans' hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.rows import SCANS, read_rows, read_table
from cmb_models.evaluation.statistics.paired import Judged
from cmb_models.files import read_json, sha256_of
from cmb_models.records import is_number
from cmb_models.release.bundle import EVALUATION_DIR, LINEAGE_FILE, MANIFEST_FILE, METADATA_FILE, PIPELINE_FILE


@dataclass(frozen=True)
class EvaluationRecord:
    """The locked evaluation of a bundle.

    Attributes:
        bundle: The bundle's folder.
        manifest_sha256: SHA-256 of its manifest.
        judged: The saved rows; None in a bundle without them.
        reported: The metrics of the locked set; {} without an evaluation.
        parity: Score differences of ONNX to torch from the export stage.
        contradictions: Reported values that differ from the rows.
        gate_before: The gate section of params.yaml before training; None if the release did not record it.
    """

    bundle: Path
    manifest_sha256: str
    judged: Judged | None
    reported: Mapping[str, Any]
    parity: Any
    contradictions: tuple[str, ...]
    gate_before: Mapping[str, Any] | None = None

    @property
    def scans(self) -> tuple[ScoredScan, ...]:
        return self.judged.scans if self.judged else ()


def read_evaluation_record(bundle: Path) -> EvaluationRecord:
    """Read a bundle's evaluation. Raises InputError for incomplete rows and wrong columns."""
    bundle = Path(bundle)
    metadata = read_json(bundle / METADATA_FILE)
    reported = metadata.get("metrics", {}).get("evaluate", {})
    lineage = read_json(bundle / LINEAGE_FILE) if (bundle / LINEAGE_FILE).is_file() else {}
    judged: Judged | None = None
    contradictions: tuple[str, ...] = ()
    if (bundle / EVALUATION_DIR).is_dir():
        saved = read_rows(bundle / EVALUATION_DIR)
        judged = Judged(saved.scans, saved.threshold, lineage.get("locked_scans", {}))
        contradictions = _contradictions(bundle, reported)
    manifest = sha256_of(bundle / MANIFEST_FILE)
    return EvaluationRecord(bundle, manifest, judged, reported, metadata.get("parity"), contradictions, lineage.get("gate"))


def _contradictions(bundle: Path, reported: Mapping[str, Any]) -> tuple[str, ...]:
    """Reported totals, or the bundle's threshold, that differ from the rows, which then belong to another evaluation."""
    rows = read_table(bundle / EVALUATION_DIR / SCANS)
    totals = {"n_scans": len(rows)}
    columns = {"n_lesions": "n_cmbs", "hits": "hits", "false_positives": "false_positives"}
    totals |= {name: sum(int(r[column]) for r in rows) for name, column in columns.items()}
    compared: list[tuple[str, Any, float]] = [
        (f"{name} {reported[name]}", reported[name], n) for name, n in totals.items() if is_number(reported.get(name))
    ]
    if (bundle / PIPELINE_FILE).is_file():
        threshold = read_json(bundle / PIPELINE_FILE)["decision"]["threshold"]
        compared.append((f"threshold {threshold}", threshold, float(rows[0]["threshold"])))
    return tuple(f"{name} where the rows have {n:g}" for name, value, n in compared if value != n)

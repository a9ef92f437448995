"""The promotion gate: a release's evaluation against the limits in the site's `gate` parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_models.config.params import Gate
from cmb_models.files import sha256_of
from cmb_models.registry.gate import criteria
from cmb_models.registry.gate.changes import unchanged
from cmb_models.registry.gate.evaluation_record import EvaluationRecord, read_evaluation_record
from cmb_models.registry.gate.verdict import Check
from cmb_models.release.bundle import MANIFEST_FILE

__all__ = ["Check", "GateReport", "check_gate"]


@dataclass(frozen=True)
class GateReport:
    """The gate's result for a release.

    manifest_sha256: of its bundle. against: of production's bundle, "" without one. settings: the gate's at the time.
    """

    manifest_sha256: str
    against: str
    checks: tuple[Check, ...]
    settings: Gate | None = None

    @property
    def passed(self) -> bool:
        return all(c.passed for c in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """As JSON, for the audit log and the archived gate report."""
        checks = [c.as_dict() for c in self.checks]
        settings = {} if self.settings is None else self.settings.model_dump(mode="json")
        result = {"manifest_sha256": self.manifest_sha256, "against": self.against, "passed": self.passed}
        return {**result, "checks": checks, "settings": settings}


def check_gate(bundle: Path, gate: Gate, production: Path | None = None) -> GateReport:
    """Run every check that the gate's settings enable.

    Metrics are recomputed from the rows of the locked evaluation in the bundle; a metric without rows is not measured, and fails.
    Apart from latency, the same bundles and settings give the same report.

    Args:
        bundle: The release's bundle.
        gate: The gate's settings.
        production: The bundle in production.
    """
    is_production = production is None or Path(production).resolve() == Path(bundle).resolve()
    against = sha256_of(Path(production) / MANIFEST_FILE) if production else ""
    other = None if production is None or is_production else read_evaluation_record(production)
    return judge(read_evaluation_record(bundle), gate, other, against)


def judge(candidate: EvaluationRecord, gate: Gate, production: EvaluationRecord | None, against: str) -> GateReport:
    """As check_gate, from evaluation records. against: SHA-256 of production's manifest, "" without one."""
    checks = [*unchanged(candidate.gate_before, gate), *criteria.absolute(candidate, gate), *criteria.runtime(candidate, gate)]
    if production is not None:
        checks += criteria.non_inferiority(candidate, production, gate)
    return GateReport(candidate.manifest_sha256, against, tuple(checks), gate)

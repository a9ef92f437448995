"""What a release must show before it may be promoted: its own measurements against the site's `gate` parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmb_models.config.params import Gate
from cmb_models.evaluation.statistics.paired import Judged
from cmb_models.files import sha256_of
from cmb_models.registry.gate import criteria
from cmb_models.registry.gate.changes import unchanged
from cmb_models.registry.gate.verdict import Check
from cmb_models.release.bundle import MANIFEST_FILE
from cmb_models.release.evaluation_record import EvaluationRecord, read_evaluation_record

__all__ = ["Check", "GateReport", "check_gate"]


@dataclass(frozen=True)
class GateReport:
    """What a release was asked for and showed. manifest_sha256: of its bundle. against: of production's, "" without one.

    settings: the gate's, as they were.
    """

    manifest_sha256: str
    against: str
    checks: tuple[Check, ...]
    settings: Gate | None = None

    @property
    def passed(self) -> bool:
        return all(c.passed for c in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """As JSON, for the audit log and the gate report that is kept with the release."""
        checks = [c.as_dict() for c in self.checks]
        settings = {} if self.settings is None else self.settings.model_dump(mode="json")
        told = {"manifest_sha256": self.manifest_sha256, "against": self.against, "passed": self.passed}
        return {**told, "checks": checks, "settings": settings}


def check_gate(bundle: Path, gate: Gate, production: Path | None = None, anew: Judged | None = None) -> GateReport:
    """Every check of a release that the gate's settings ask for. production: the bundle in production.

    anew: production's answers to this release's locked scans (compare.judge_anew), in place of the rows in its bundle.

    What is judged is counted anew from the rows of the locked evaluation in the bundle; a figure that it has no rows for was not
    measured, and fails. Latency apart, the same bundles and settings give the same report.
    """
    itself = production is None or Path(production).resolve() == Path(bundle).resolve()
    against = sha256_of(Path(production) / MANIFEST_FILE) if production else ""
    other = None if production is None or itself else read_evaluation_record(production)
    if other is not None and anew is not None:
        other = replace(other, judged=anew)
    return judge(read_evaluation_record(bundle), gate, other, against)


def judge(own: EvaluationRecord, gate: Gate, production: EvaluationRecord | None, against: str) -> GateReport:
    """The same of evidence that was read. against: SHA-256 of production's manifest, "" without one."""
    checks = [*unchanged(own.gate_before, gate), *criteria.own(own, gate), *criteria.running(own, gate)]
    if production is not None:
        checks += criteria.against(own, production, gate)
    return GateReport(own.manifest_sha256, against, tuple(checks), gate)

"""What a release must show before it may be promoted: its own measurements against the site's `gate` parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmb_models.bundle import MANIFEST_FILE, METADATA_FILE
from cmb_models.config import Gate
from cmb_models.files import read_json, sha256_of
from cmb_models.registry.tracking import flatten, is_number


@dataclass(frozen=True)
class Check:
    """One condition: `measured` must be at least (`min`) or at most (`max`) `limit`. None: the release has no such number."""

    name: str
    measured: float | None
    bound: str
    limit: float

    @property
    def passed(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.limit if self.bound == "min" else self.measured <= self.limit

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}

    def sentence(self) -> str:
        """The check in words, for the message of a failed gate."""
        got = "was not measured" if self.measured is None else f"is {self.measured:.4g}"
        return f"{self.name} {got}, {'at least' if self.bound == 'min' else 'at most'} {self.limit:g} is required"


@dataclass(frozen=True)
class GateReport:
    """What a release was asked for and showed. manifest_sha256: of its bundle. against: of production's, "" without one."""

    manifest_sha256: str
    against: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(c.passed for c in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """As JSON, for the audit log and the gate report that is kept with the release."""
        checks = [c.as_dict() for c in self.checks]
        return {"manifest_sha256": self.manifest_sha256, "against": self.against, "passed": self.passed, "checks": checks}


def check_gate(bundle: Path, gate: Gate, production: Path | None = None) -> GateReport:
    """Every check of a release: its locked-test metrics, the parity measured at export. production: the bundle in production."""
    against = sha256_of(Path(production) / MANIFEST_FILE) if production else ""
    return GateReport(sha256_of(Path(bundle) / MANIFEST_FILE), against, _checks(bundle, gate))


def _checks(bundle: Path, gate: Gate) -> tuple[Check, ...]:
    metadata = read_json(Path(bundle) / METADATA_FILE)
    test = metadata.get("metrics", {}).get("evaluate", {})
    # Without a CMB or a scan to test on, the evaluation's figures are perfect and mean nothing.
    sensitivity = _number(test.get("sensitivity")) if _number(test.get("n_lesions")) else None
    fp_per_scan = _number(test.get("fp_per_scan")) if _number(test.get("n_scans")) else None
    return (
        Check("sensitivity on the locked test set", sensitivity, "min", gate.min_sensitivity),
        Check("false positives per scan on the locked test set", fp_per_scan, "max", gate.max_fp_per_scan),
        Check("largest score difference of ONNX to torch", _largest(metadata.get("parity")), "max", gate.max_parity),
    )


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _largest(value: Any) -> float | None:
    """A number, or the largest of a mapping of numbers (one a network); None when any is missing."""
    numbers = [_number(v) for v in flatten({"parity": value}).values()]
    return None if not numbers or None in numbers else max(numbers)

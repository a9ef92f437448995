"""Gate settings that were loosened since a release was trained: a limit adapted to a result proves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmb_models.config.params import Gate
from cmb_models.records import flatten
from cmb_models.registry.gate.verdict import Check, at_most

METHOD = (
    "tolerance_mm",
    "bootstrap",
    "seed",
    "at_fp_per_scan",
    "min_lesions",
    "min_scans",
    "min_common_scans",
)  # any change counts
REMEDY = "restore them, or promote with --override-gate and the reason"


def unchanged(before: Mapping[str, Any] | None, gate: Gate) -> list[Check]:
    """Check that no limit was loosened or switched off and no method setting changed since training began.

    before: the gate section that the release recorded; None, for a release that recorded none, gives no check.
    """
    if before is None:
        return []
    changes = loosened(before, gate)
    note = f"{'; '.join(changes)}: {REMEDY}" if changes else ""
    return at_most("gate settings loosened since before training", len(changes), 0, None, note)


def loosened(before: Mapping[str, Any], gate: Gate) -> list[str]:
    """Each loosened setting with its value before and now; new or stricter limits are not listed."""
    old, new = flatten(before), flatten(gate.model_dump(mode="json"))
    return [f"{name} {_words(old[name])} to {_words(new.get(name))}" for name in old if _looser(name, old[name], new.get(name))]


def _looser(name: str, old: Any, new: Any) -> bool:
    if name in METHOD:
        return old != new
    if old is None:
        return False
    return new is None or (new < old if name.startswith("min_") else new > old)


def _words(value: Any) -> str:
    return "off" if value is None else f"{value:g}"

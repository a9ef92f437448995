"""What became easier in the gate since a release was trained: limits that follow a result hold nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmb_models.config.params import Gate
from cmb_models.records import flatten
from cmb_models.registry.gate.verdict import Check, at_most

HOW = ("tolerance_mm", "bootstrap", "seed", "at_fp_per_scan", "min_lesions", "min_scans", "min_common_scans")  # neither up nor down
REMEDY = "put back, or promote with --override-gate and the reason"


def unchanged(before: Mapping[str, Any] | None, gate: Gate) -> list[Check]:
    """A check that no limit was loosened or switched off, and nothing of how it is judged changed, since before training.

    before: the gate section that the release recorded then; None in a release that did not: nothing to compare with.
    """
    if before is None:
        return []
    looser = loosened(before, gate)
    note = f"{'; '.join(looser)}: {REMEDY}" if looser else ""
    return at_most("gate settings loosened since before training", len(looser), 0, None, note)


def loosened(before: Mapping[str, Any], gate: Gate) -> list[str]:
    """Each such setting with its value before and now. Limits that are new or stricter than before are none."""
    old, new = flatten(before), flatten(gate.model_dump(mode="json"))
    return [f"{name} {_words(old[name])} to {_words(new.get(name))}" for name in old if _looser(name, old[name], new.get(name))]


def _looser(name: str, old: Any, new: Any) -> bool:
    if name in HOW:
        return old != new
    if old is None:
        return False
    return new is None or (new < old if name.startswith("min_") else new > old)


def _words(value: Any) -> str:
    return "off" if value is None else f"{value:g}"

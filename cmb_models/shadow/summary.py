"""Summary of a shadow log: agreement of two releases, by week, and the scans that differ most."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from cmb_models.evaluation.statistics.bootstrap import rate_interval, share_interval, subject_draws

RESAMPLES, SEED = 2000, 0  # of scans
MAX_LISTED = 10  # scans that differ most
SIDES = ("production", "challenger")
PLACES = ("both", "only_production", "only_challenger")


def summarise(entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Summarise all entries: `pairs` of compared releases, latest first, and scans that were not compared, by reason.

    For a scan that was sent several times the last comparison counts. Without comparisons `pairs` is empty.
    """
    entries = list(entries)
    pairs: dict[tuple, dict[str, dict]] = defaultdict(dict)
    missed = Counter((e["outcome"], e.get("reason", "")) for e in entries if e.get("outcome") in ("failed", "dropped"))
    for entry in sorted((e for e in entries if e.get("outcome") == "compared"), key=lambda e: e["time"]):
        key = tuple(entry[side]["manifest_sha256"] for side in SIDES)
        pairs[key][entry["input_sha256"]] = entry
    summaries = [_pair(list(scans.values())) for scans in pairs.values()]
    return {
        "pairs": sorted(summaries, key=lambda p: p["last"], reverse=True),
        "not_compared": [{"outcome": o, "reason": reason, "scans": n} for (o, reason), n in missed.most_common()],
    }


def _pair(entries: Sequence[dict]) -> dict[str, Any]:
    """Two releases on their scans, each counted once."""
    entries = sorted(entries, key=lambda e: e["time"])
    sides = {side: {k: entries[-1][side][k] for k in ("release", "manifest_sha256", "threshold")} for side in SIDES}
    shifts = np.array([b - a for e in entries for a, b in (place["scores"] for place in e["both"])])
    weeks: dict[str, list[dict]] = defaultdict(list)
    for entry in entries:
        year, week, _ = datetime.fromisoformat(entry["time"]).isocalendar()
        weeks[f"{year}-W{week:02d}"].append(entry)
    return {
        **sides,
        "first": entries[0]["time"],
        "last": entries[-1]["time"],
        **_counts(entries),
        "score_shift": {"mean": float(shifts.mean()), "mean_absolute": float(np.abs(shifts).mean())} if len(shifts) else None,
        "weeks": [{"week": week, **_counts(rows)} for week, rows in sorted(weeks.items())],
        "most_different": _most_different(entries),
    }


def _counts(entries: Sequence[dict]) -> dict[str, Any]:
    """Counts of scans and findings, and the share that both report (None without findings), with 95 % intervals over scans."""
    counts = np.array([[len(e[kind]) for kind in PLACES] for e in entries])
    draws = subject_draws([str(n) for n in range(len(entries))], RESAMPLES, np.random.default_rng(SEED))
    both, places = counts[:, 0], counts.sum(axis=1)
    total = int(places.sum())
    return {
        "scans": len(entries),
        "scans_alike": int((counts[:, 1:].sum(axis=1) == 0).sum()),
        **dict(zip(PLACES, counts.sum(axis=0).tolist(), strict=True)),
        "agreement": both.sum() / total if total else None,
        "agreement_95": share_interval(both, places, draws) if total else None,
        "more_per_scan": float((counts[:, 2] - counts[:, 1]).mean()),
        "only_production_per_scan_95": rate_interval(counts[:, 1], draws),
        "only_challenger_per_scan_95": rate_interval(counts[:, 2], draws),
    }


def _most_different(entries: Sequence[dict]) -> list[dict[str, Any]]:
    """Scans with the most findings of only one release, ties broken by score difference, without equal scans."""

    def differing(entry: dict) -> tuple[int, float]:
        differing_places = [place for kind in PLACES[1:] for place in entry[kind]]
        return len(differing_places), max(
            (abs((b or 0) - (a or 0)) for a, b in (p["scores"] for p in differing_places)), default=0.0
        )

    ranked = sorted((e for e in entries if differing(e)[0]), key=differing, reverse=True)
    keys = ("time", "scan", "input_sha256", "only_production", "only_challenger")
    return [{k: e[k] for k in keys} | {"both": len(e["both"])} for e in ranked[:MAX_LISTED]]

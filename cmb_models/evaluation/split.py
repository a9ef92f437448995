"""Dividing subjects, never scans: into the locked test set and folds with about equally many microbleeds each."""

from __future__ import annotations

import numpy as np

from cmb_models.config import Split
from cmb_models.errors import InputError


def split_subjects(scans: list[dict], settings: Split, min_scans: int) -> dict:
    """Split the index's scans (see io.index) by subject.

    Returns {"folds": {subject: fold}, "locked": [subject, ...]}. Folds are filled greedily, subjects with most CMBs first into
    the fold with fewest, ties in a seeded order. Raises InputError when folds would be empty or without any CMB, or when
    nothing is locked for the final test.
    """
    cmbs: dict[str, int] = {}
    for scan in scans:
        cmbs[scan["subject"]] = cmbs.get(scan["subject"], 0) + scan["n_cmbs"]
    known = {scan["dataset"] for scan in scans}
    unknown = sorted(set(settings.locked_datasets) - known)
    if unknown:
        raise InputError(
            "split.locked_datasets", f"datasets of {sorted(known)}", f"{unknown}", "correct params.yaml or add the data"
        )
    locked = {scan["subject"] for scan in scans if scan["dataset"] in settings.locked_datasets}
    rng = np.random.default_rng(settings.seed)
    free: list[str] = rng.permutation(sorted(set(cmbs) - locked)).tolist()
    locked |= set(free[: round(settings.locked_fraction * len(free))])
    free = [s for s in free if s not in locked]
    _check(scans, cmbs, free, locked, settings, min_scans)
    return {"folds": _fill_folds(free, cmbs, settings.folds), "locked": sorted(locked)}


def _fill_folds(subjects: list[str], cmbs: dict[str, int], folds: int) -> dict[str, int]:
    load = np.zeros((folds, 2), dtype=int)  # CMBs, then subjects
    fold_of = {}
    for subject in sorted(subjects, key=lambda s: -cmbs[s]):
        fold = min(range(folds), key=lambda f: tuple(load[f]))
        fold_of[subject] = fold
        load[fold] += (cmbs[subject], 1)
    return dict(sorted(fold_of.items()))


def _check(scans: list[dict], cmbs: dict[str, int], free: list[str], locked: set[str], settings: Split, min_scans: int) -> None:
    training = sum(scan["subject"] in free for scan in scans)
    if training < min_scans:
        raise InputError("training data", f"at least {min_scans} scans", f"{training}", "add scans or lower ingest.min_scans")
    if len(free) < settings.folds:
        raise InputError(
            "split.folds", f"at most {len(free)}, the number of training subjects", f"{settings.folds}", "use fewer folds"
        )
    with_cmbs = sum(cmbs[s] > 0 for s in free)
    if with_cmbs < settings.folds:
        got = f"{with_cmbs} of {len(free)}"
        raise InputError(
            "training subjects", f"CMBs in at least {settings.folds}, one a fold", got, "annotate more scans or use fewer folds"
        )
    if not locked:
        raise InputError(
            "split", "locked test subjects", "none", "set split.locked_datasets or split.locked_fraction: nothing else is honest"
        )

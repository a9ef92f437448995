"""Split of the subjects into the held-out test set and folds with about the same number of microbleeds."""

from __future__ import annotations

import numpy as np

from cmb_models.config.params import Split
from cmb_models.dataset.entries import ScanEntry, SubjectSplit
from cmb_models.dataset.leakage import check_split, identities
from cmb_models.errors import InputError

FEW_CMBS = 10  # below, one microbleed more or less found moves the sensitivity by more than 10 points
FEW_SUBJECTS = 5  # with CMBs; a bootstrap over fewer hardly varies and its intervals are too narrow


def split_subjects(scans: list[ScanEntry], settings: Split, min_scans: int) -> SubjectSplit:
    """Split the scans of the index by subject.

    Folds are filled greedily: subjects with the most CMBs first, each into the fold with the fewest; ties in a seeded order.

    Args:
        scans: Entries of data/index.json.
        settings: Section `split` of params.yaml.
        min_scans: Minimum number of training scans.

    Returns:
        Folds, held-out subjects, the hashes of their files, and notes on the limits of small datasets.

    Raises:
        InputError: If folds would be empty or without CMBs, nothing is held out, or two subjects share a file.
    """
    cmbs: dict[str, int] = {}
    for scan in scans:
        cmbs[scan["subject"]] = cmbs.get(scan["subject"], 0) + scan["n_cmbs"]
    known = {scan["dataset"] for scan in scans}
    unknown = sorted(set(settings.locked_datasets) - known)
    if unknown:
        raise InputError(
            "split-unknown-dataset",
            "split.locked_datasets",
            f"datasets of {sorted(known)}",
            f"{unknown}",
            "correct params.yaml or add the data",
        )
    locked = {scan["subject"] for scan in scans if scan["dataset"] in settings.locked_datasets}
    rng = np.random.default_rng(settings.seed)
    free: list[str] = rng.permutation(sorted(set(cmbs) - locked)).tolist()
    locked |= set(free[: round(settings.locked_fraction * len(free))])
    free = [s for s in free if s not in locked]
    _check(scans, cmbs, free, locked, settings, min_scans)
    split: SubjectSplit = {
        "folds": _fill_folds(free, cmbs, settings.folds),
        "locked": sorted(locked),
        "locked_sha256": sorted(sha256 for scan in scans if scan["subject"] in locked for sha256 in identities(scan)),
        "notes": _notes([cmbs[s] for s in free], [cmbs[s] for s in locked]),
    }
    check_split(split, scans)
    return split


def _fill_folds(subjects: list[str], cmbs: dict[str, int], folds: int) -> dict[str, int]:
    load = np.zeros((folds, 2), dtype=int)  # CMBs, then subjects
    fold_of = {}
    for subject in sorted(subjects, key=lambda s: -cmbs[s]):
        fold = min(range(folds), key=lambda f: tuple(load[f]))
        fold_of[subject] = fold
        load[fold] += (cmbs[subject], 1)
    return dict(sorted(fold_of.items()))


def _check(
    scans: list[ScanEntry], cmbs: dict[str, int], free: list[str], locked: set[str], settings: Split, min_scans: int
) -> None:
    """Reject data that cannot give an unbiased figure, and name the figure."""
    training = sum(scan["subject"] in free for scan in scans)
    if training < min_scans:
        raise InputError(
            "training-too-few", "training data", f"at least {min_scans} scans", f"{training}", "add scans or lower ingest.min_scans"
        )
    if len(free) < 2:
        got = f"{len(free)}: no cross-validation is possible, and no threshold could be chosen on scans the networks have not seen"
        raise InputError("training-too-few", "training data", "at least 2 subjects", got, "add scans of other patients")
    if len(free) < settings.folds:
        raise InputError(
            "training-too-few",
            "split.folds",
            f"at most {len(free)}, the number of training subjects",
            f"{settings.folds}",
            "use fewer folds",
        )
    with_cmbs = sum(cmbs[s] > 0 for s in free)
    if not with_cmbs:
        raise InputError(
            "training-too-few",
            "training subjects",
            "marked CMBs",
            "none in any scan: there is nothing to learn",
            "annotate scans with CMBs",
        )
    if with_cmbs == 1:
        got = "all of them in one: while it is held out nothing is left to learn from, and no sensitivity can be measured"
        raise InputError(
            "training-too-few", "training subjects", "CMBs in at least 2", got, "add scans of other patients with CMBs"
        )
    if with_cmbs < settings.folds:
        got = f"{with_cmbs} of {len(free)}: a fold without CMBs has no sensitivity"
        raise InputError(
            "training-too-few",
            "training subjects",
            f"CMBs in at least {settings.folds}, one a fold",
            got,
            "annotate more scans or use fewer folds",
        )
    if not locked:
        raise InputError(
            "locked-set-empty",
            "split",
            "locked test subjects",
            "none",
            "set split.locked_datasets or split.locked_fraction: no other set gives an unbiased figure",
        )


def _notes(training: list[int], locked: list[int]) -> list[str]:
    """What the numbers of so little data cannot say, in sentences for people. training, locked: CMBs of each subject."""
    notes = []
    if 0 < (n := sum(training)) < FEW_CMBS:
        notes.append(
            f"Only {n} CMBs to train on: out of fold, one more or less found moves the sensitivity by {100 / n:.0f} points."
        )
    if (n := sum(c > 0 for c in training)) < FEW_SUBJECTS:
        notes.append(f"Only {n} training subjects have CMBs: intervals over so few subjects are too narrow.")
    if not (n := sum(locked)):
        notes.append("The locked scans hold no CMB: the final test can count false positives, but cannot measure sensitivity.")
    elif n < FEW_CMBS:
        notes.append(
            f"Only {n} CMBs in the locked scans: one more or less found moves the final sensitivity by {100 / n:.0f} points."
        )
    return notes

"""Split of the subjects into the held-out test set and folds with about the same number of microbleeds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from cmb_models.config.params import Split
from cmb_models.dataset.entries import ScanEntry, SubjectSplit
from cmb_models.dataset.leakage import check_split, identities
from cmb_models.errors import InputError, joined

FEW_CMBS = 10  # below, one microbleed more or less found moves the sensitivity by more than 10 points
FRACTIONS = (0.3, 0.2, 0.25, 0.4, 0.5)  # to hold out, the first that fits is suggested
FEW_SUBJECTS = 5  # with CMBs; a bootstrap over fewer hardly varies and its intervals are too narrow


LOCKED_NAME = "locked"  # a dataset of this name must be held out, so that it is never trained on by an oversight


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
        InputError: If folds would be empty or without CMBs, nothing is held out (all such faults in one), or two subjects share a
            file.
    """
    if len(faults := split_faults(scans, settings, min_scans)) == 1:
        raise faults[0]
    if faults:
        raise joined(faults, "split", "settings that fit the data", fitting(scans, settings, min_scans))
    cmbs = _cmbs(scans)
    free, locked = divide(scans, settings)
    split: SubjectSplit = {
        "folds": _fill_folds(free, cmbs, settings.folds),
        "locked": sorted(locked),
        "locked_sha256": sorted(sha256 for scan in scans if scan["subject"] in locked for sha256 in identities(scan)),
        "notes": _notes([cmbs[s] for s in free], [cmbs[s] for s in locked]),
    }
    check_split(split, scans)
    return split


def _cmbs(scans: Iterable[ScanEntry]) -> dict[str, int]:
    """CMBs of each subject."""
    cmbs: dict[str, int] = {}
    for scan in scans:
        cmbs[scan["subject"]] = cmbs.get(scan["subject"], 0) + scan["n_cmbs"]
    return cmbs


def divide(scans: Sequence[ScanEntry], settings: Split) -> tuple[list[str], set[str]]:
    """The training subjects in a seeded order, and the locked ones.

    The share is taken from each dataset, in the order of a hash of seed and name: when a subject is added or removed, at most one
    other of its dataset changes sides, so that later releases are tested on the same scans.
    """
    locked = {scan["subject"] for scan in scans if scan["dataset"] in settings.locked_datasets}
    others = sorted({scan["subject"] for scan in scans} - locked)
    for dataset in sorted({scan["dataset"] for scan in scans}):
        members = {scan["subject"] for scan in scans if scan["dataset"] == dataset} - locked
        ranked = sorted(members, key=lambda subject: hashlib.sha256(f"{settings.seed} {subject}".encode()).digest())
        locked |= set(ranked[: round(settings.locked_fraction * len(ranked))])
    free: list[str] = np.random.default_rng(settings.seed).permutation(others).tolist()
    return [s for s in free if s not in locked], locked


def split_faults(scans: Sequence[ScanEntry], settings: Split, min_scans: int) -> list[InputError]:
    """Every reason why data and settings cannot give an unbiased figure; [] if they can."""
    if not scans:
        remedy = "add their annotations, for instance with `cmb import marks`"
        return [InputError("training-too-few", "training data", "scans that were read", "none", remedy)]
    known = {scan["dataset"] for scan in scans}
    faults = []
    if unknown := sorted(set(settings.locked_datasets) - known):
        expected, remedy = f"datasets of {sorted(known)}", "correct params.yaml or add the data"
        faults.append(InputError("split-unknown-dataset", "split.locked_datasets", expected, f"{unknown}", remedy))
    if oversight := sorted(d for d in known - set(settings.locked_datasets) if d.casefold() == LOCKED_NAME):
        got = f"{list(settings.locked_datasets)}"
        remedy = f"set it to [{oversight[0]}] and split.locked_fraction to 0, or rename the dataset"
        faults.append(InputError("split-not-locked", "split.locked_datasets", f"the dataset {LOCKED_NAME} held out", got, remedy))
    free, locked = divide(scans, settings)
    faults += _training_faults(scans, free, settings, min_scans)
    if not locked and not unknown:
        remedy = "set split.locked_datasets or split.locked_fraction: no other set gives an unbiased figure"
        faults.append(InputError("locked-set-empty", "split", "locked test subjects", "none", remedy))
    return faults


def _training_faults(scans: Sequence[ScanEntry], free: Sequence[str], settings: Split, min_scans: int) -> list[InputError]:
    def too_few(case: str, expected: str, got: str, remedy: str) -> InputError:
        return InputError("training-too-few", case, expected, got, remedy)

    faults, cmbs = [], _cmbs(scans)
    training = sum(scan["subject"] in free for scan in scans)
    with_cmbs = sum(cmbs[s] > 0 for s in free)
    if training < min_scans:
        faults.append(too_few("training data", f"at least {min_scans} scans", f"{training}", "add scans or hold out fewer"))
    if len(free) < 2:
        got = f"{len(free)}: no cross-validation is possible, and no threshold could be chosen on scans the networks have not seen"
        faults.append(too_few("training data", "at least 2 subjects", got, "add scans of other patients"))
    elif len(free) < settings.folds:
        expected = f"at most {len(free)}, the number of training subjects"
        faults.append(too_few("split.folds", expected, f"{settings.folds}", "use fewer folds"))
    if not with_cmbs:
        got = "none in any scan: there is nothing to learn"
        faults.append(too_few("training subjects", "marked CMBs", got, "annotate scans with CMBs"))
    elif with_cmbs == 1:
        got = "all of them in one: while it is held out nothing is left to learn from, and no sensitivity can be measured"
        faults.append(too_few("training subjects", "CMBs in at least 2", got, "add scans of other patients with CMBs"))
    elif with_cmbs < settings.folds <= len(free):
        got = f"{with_cmbs} of {len(free)}: a fold without CMBs has no sensitivity"
        expected = f"CMBs in at least {settings.folds}, one a fold"
        faults.append(too_few("training subjects", expected, got, "annotate more scans or use fewer folds"))
    return faults


def fitting(scans: Sequence[ScanEntry], settings: Split, min_scans: int) -> str:
    """Settings with which the data could be split, as a sentence: the nearest to those given, if there are any."""
    datasets = sorted({scan["dataset"] for scan in scans})
    named = [d for d in datasets if d in settings.locked_datasets or d.casefold() == LOCKED_NAME]
    fractions = [settings.locked_fraction, *FRACTIONS]
    tries = [(named, fraction) for fraction in ([0.0, *fractions] if named else fractions)]
    tries += [([dataset], 0.0) for dataset in datasets if not named]
    for folds in range(settings.folds, 1, -1):
        for locked, fraction in tries:
            changed = settings.model_copy(update={"folds": folds, "locked_datasets": tuple(locked), "locked_fraction": fraction})
            if not split_faults(scans, changed, min_scans):
                values = f"folds: {folds}, locked_datasets: [{', '.join(locked)}], locked_fraction: {fraction:g}"
                return f"in params.yaml, split would fit with {values}"
    return f"no settings fit: with ingest.min_scans: {min_scans}, add scans of other patients with microbleeds"


def _fill_folds(subjects: list[str], cmbs: dict[str, int], folds: int) -> dict[str, int]:
    load = np.zeros((folds, 2), dtype=int)  # CMBs, then subjects
    fold_of = {}
    for subject in sorted(subjects, key=lambda s: -cmbs[s]):
        fold = min(range(folds), key=lambda f: tuple(load[f]))
        fold_of[subject] = fold
        load[fold] += (cmbs[subject], 1)
    return dict(sorted(fold_of.items()))


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

"""Guards against data leakage. Each raises an InputError that names the subjects or scans.

A figure is free of leakage when no subject that it is computed on contributed to what it evaluates: weights, settings,
candidates, threshold or calibration. The unit is the subject; where files are known, their content counts too, not their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cmb_models.dataset.entries import ScanEntry, SubjectSplit
from cmb_models.errors import InputError

SHOWN = 5  # names in a message; the first are enough to find the fault


def keep_apart(what: str, seen: Iterable[str], judged: Iterable[str], remedy: str) -> None:
    """Check that two sets of subjects are disjoint.

    Args:
        what: Name of what was derived from `seen`, for the message.
        seen: Subjects that contributed to it; may be empty.
        judged: Subjects that it is evaluated on; may be empty.
        remedy: What to do, for the message.

    Raises:
        InputError: If a subject is in both sets.
    """
    both = sorted(set(seen) & set(judged))
    if both:
        raise InputError(
            "leakage", what, "one made without the subjects it is used on", f"one that has seen {_names(both)}", remedy
        )


def identities(scan: ScanEntry) -> list[str]:
    """What identifies a scan of data/index.json: SHA-256 of its file, its content, and its phase image where phase is used.

    An index of an older version has no hashes of contents.
    """
    names = ("sha256", "content_sha256", "phase_sha256")
    return [sha256 for name in names if (sha256 := str(scan.get(name, "")))]


def check_split(split: SubjectSplit, scans: Sequence[ScanEntry]) -> None:
    """Check that a split is disjoint by subject and by file content, and complete.

    Args:
        split: Content of data/split.json.
        scans: Entries of data/index.json; key, subject and hashes are read.

    Raises:
        InputError: If a subject is both in a fold and held out, split and index have different subjects, or two subjects share a
            file.
    """
    remedy = "run the split stage again; split.json is written by it alone"
    if both := sorted(set(split["folds"]) & set(split["locked"])):
        raise InputError("leakage", "split.json", "each subject in a fold or locked", f"{_names(both)} in both", remedy)
    known, divided = {s["subject"] for s in scans}, {*split["folds"], *split["locked"]}
    if odd := sorted(known ^ divided):
        raise InputError(
            "split-incomplete",
            "split.json",
            "each subject of the index in one fold or locked",
            f"{_names(odd)} on one side only",
            remedy,
        )
    first: dict[str, ScanEntry] = {}
    for scan, sha256 in ((s, h) for s in scans for h in identities(s)):
        other = first.setdefault(sha256, scan)
        if other["subject"] != scan["subject"]:
            got = f"one file as {other['key']} and as {scan['key']}"
            raise InputError(
                "leakage", "split", "every scan under one subject's name", got, "keep one of them: the other would be tested on"
            )


def check_lineage(lineage: dict, scans: Sequence[ScanEntry], locked: Iterable[str]) -> None:
    """Check that no held-out scan contributed to a bundle: by subject or by content, to its networks, threshold or calibration.

    Args:
        lineage: Of the bundle: {"training_scans": {key: sha256}, "calibrated_on": [subject]}, with phase also
            {"training_phases": {key: sha256}}; in lineages since contents are hashed {"training_contents": {key: sha256}}.
        scans: Entries of data/index.json.
        locked: Subjects of the held-out test set.

    Raises:
        InputError: If one did, or the lineage lacks an entry.
    """
    remedy = "train again from a split that locks it (`dvc repro`); such a bundle's test result would be wrong"
    missing = sorted({"training_scans", "calibrated_on"} - set(lineage))
    if missing:
        raise InputError(
            "lineage-incomplete",
            "lineage.json",
            "what the bundle was made from",
            f"no {' and no '.join(missing)}",
            "export the bundle again",
        )
    locked = set(locked)
    subject_of = {s["key"]: s["subject"] for s in scans}
    keep_apart("the bundle's networks", {subject_of.get(k, k) for k in lineage["training_scans"]}, locked, remedy)
    keep_apart("the bundle's threshold and calibration", lineage["calibrated_on"], locked, remedy)
    files = [lineage["training_scans"], lineage.get("training_contents", {}), lineage.get("training_phases", {})]
    trained = {sha256: key for hashes in files for key, sha256 in hashes.items()}
    candidates_in = [(s, h) for s in scans if s["subject"] in locked for h in identities(s)]
    same = [f"{s['key']}, trained on as {trained[h]}" for s, h in candidates_in if h in trained]
    if same:
        raise InputError("leakage", "the bundle's networks", "locked scans they have not seen", "; ".join(same[:SHOWN]), remedy)


def calibration_subjects(rows: Path, subjects: Iterable[str], split: SubjectSplit) -> list[str]:
    """Check that threshold and calibration are derived from training subjects only.

    Args:
        rows: Folder that the scores were read from, for the message.
        subjects: The subjects with scores, in any order, repeated or not.
        split: Content of data/split.json.

    Returns:
        The subjects, sorted and unique.

    Raises:
        InputError: If one is held out or in no fold.
    """
    subjects = sorted(set(subjects))
    strays = [s for s in subjects if s not in split["folds"] or s in split["locked"]]
    if strays:
        raise InputError("leakage", rows, "training subjects alone", f"scores of {_names(strays)}", "run cross_validate again")
    return subjects


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

"""Guards against judging a model on what it has seen. Each raises one InputError that names the subjects or scans at fault.

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
    """Refuse when a subject that `what` was made from is among those it is used to judge. Empty sets are apart."""
    both = sorted(set(seen) & set(judged))
    if both:
        raise InputError(
            "leakage", what, "one made without the subjects it is used on", f"one that has seen {_names(both)}", remedy
        )


def file_hashes(scan: ScanEntry) -> list[str]:
    """SHA-256 of each file of an entry of data/index.json: the SWI's, and the phase image's where phase is used."""
    return [scan["sha256"], scan["phase_sha256"]] if "phase_sha256" in scan else [scan["sha256"]]


def check_split(split: SubjectSplit, scans: Sequence[ScanEntry]) -> None:
    """Refuse a split (split.json) that has a subject on both sides, or does not fit the index's scans, or one file on both sides.

    scans: entries of data/index.json; key, subject and hashes are read.
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
    for scan, sha256 in ((s, h) for s in scans for h in file_hashes(s)):
        other = first.setdefault(sha256, scan)
        if other["subject"] != scan["subject"]:
            got = f"one file as {other['key']} and as {scan['key']}"
            raise InputError(
                "leakage", "split", "every scan under one subject's name", got, "keep one of them: the other would be tested on"
            )


def check_lineage(lineage: dict, scans: Sequence[ScanEntry], locked: Iterable[str]) -> None:
    """Refuse to evaluate a bundle whose lineage names a locked scan: by subject, by content, or in its calibration.

    lineage: lineage.json of a bundle, {"training_scans": {key: sha256}, "calibrated_on": [subject]}, and with phase
    {"training_phases": {key: sha256}}. scans: the index.
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
    files = [lineage["training_scans"], lineage.get("training_phases", {})]
    trained = {sha256: key for hashes in files for key, sha256 in hashes.items()}
    candidates_in = [(s, h) for s in scans if s["subject"] in locked for h in file_hashes(s)]
    same = [f"{s['key']}, trained on as {trained[h]}" for s, h in candidates_in if h in trained]
    if same:
        raise InputError("leakage", "the bundle's networks", "locked scans they have not seen", "; ".join(same[:SHOWN]), remedy)


def calibration_subjects(rows: Path, subjects: Iterable[str], split: SubjectSplit) -> list[str]:
    """The subjects that a threshold and a calibration are taken from, sorted. Refuses one that is in no fold: locked, or unknown.

    rows: the folder that their scores were read from.
    """
    subjects = sorted(set(subjects))
    strays = [s for s in subjects if s not in split["folds"] or s in split["locked"]]
    if strays:
        raise InputError("leakage", rows, "training subjects alone", f"scores of {_names(strays)}", "run cross_validate again")
    return subjects


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

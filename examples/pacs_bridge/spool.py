"""The bridge's state on disk: received studies and what became of them. A killed bridge continues from it."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import atomic_write, files_below, read_json, write_json

UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True)
class Study:
    """A received study. images: hash of the set of its images, whatever else arrives."""

    uid: str
    folder: Path
    images: str


class Spool:
    """Folders `studies/UID/`, `results/UID/` and files `done/UID.json` below one folder.

    A study is kept until its results have been sent. Its file in `done/` then says for which images; a study that is received again
    with the same images is not processed again.
    """

    def __init__(self, folder: Path) -> None:
        self.studies, self.results, self.done = (folder / name for name in ("studies", "results", "done"))
        for place in (self.studies, self.results, self.done):
            place.mkdir(parents=True, exist_ok=True)

    def add(self, study_uid: str, instance_uid: str, data: bytes) -> None:
        """Keep an image, a file of DICOM bytes, on disk before its sender is answered.

        Raises:
            InputError: If the disk is full, or a UID is none.
        """
        for uid in (study_uid, instance_uid):
            if not UID.fullmatch(uid) or not uid.strip("."):
                raise InputError("setting-invalid", "UID", "digits and dots", "others", "export the study again")
        folder = self.studies / study_uid
        folder.mkdir(exist_ok=True)
        with atomic_write(folder / f"{instance_uid}.dcm") as temporary:
            temporary.write_bytes(data)

    def ready(self, quiet_s: float) -> Iterator[Study]:
        """Studies of which nothing has arrived for `quiet_s` seconds and that are not done."""
        for folder in sorted(self.studies.iterdir()):
            files = files_below(folder)
            if not files or time.time() - max(f.stat().st_mtime for f in files) < quiet_s:
                continue
            images = hashlib.sha256("\n".join(sorted(f.name for f in files)).encode()).hexdigest()
            study = Study(folder.name, folder, images)
            if self.outcome(study.uid).get("images") == images:
                self.remove(study)
            else:
                yield study

    def outcome(self, study_uid: str) -> dict[str, Any]:
        """What became of a study; {} if it is not done."""
        file = self.done / f"{study_uid}.json"
        outcome: dict[str, Any] = read_json(file) if file.is_file() else {}
        return outcome

    def finish(self, study: Study, outcome: dict[str, Any]) -> None:
        """Record that a study is done, then remove its images and results."""
        write_json(self.done / f"{study.uid}.json", outcome | {"images": study.images})
        self.remove(study)

    def remove(self, study: Study) -> None:
        for place in (study.folder, self.results / study.uid):
            shutil.rmtree(place, ignore_errors=True)

"""The bridge's state on disk: received studies and what became of them. A killed bridge continues from it."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import atomic_write, files_below, read_json, remove_partial, write_json

UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True)
class Study:
    """A received study. images: hash of the names of its images, which are their UIDs."""

    uid: str
    folder: Path
    images: str


class Spool:
    """Folders `studies/UID/`, `results/UID/` and files `done/UID.json` below one folder, for its owner alone.

    A study's images stay for a while after it is done, so that late ones complete it. The file in `done/` says what became of which
    images: a study that is received again with the same images is not processed again, unless it failed for another reason than
    its images.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self.studies, self.results, self.done = (folder / name for name in ("studies", "results", "done"))
        for place in (self.studies, self.results, self.done):
            place.mkdir(exist_ok=True)
            remove_partial(place, "**/*")

    def add(self, study_uid: str, instance_uid: str, data: bytes) -> None:
        """Keep an image, a file of DICOM bytes, on disk before its sender is answered.

        Raises:
            InputError: If the disk is full, the folder cannot be written to, or a UID is none.
        """
        for uid in (study_uid, instance_uid):
            if not UID.fullmatch(uid) or not uid.strip("."):
                raise InputError("setting-invalid", "UID", "digits and dots", "others", "export the study again")
        with atomic_write(self.studies / study_uid / f"{instance_uid}.dcm", mode=0o600) as temporary:
            temporary.write_bytes(data)

    def ready(self, quiet_s: float, keep_s: float) -> Iterator[Study]:
        """Studies to process: nothing has arrived for `quiet_s` seconds. Images of others are removed after `keep_s`."""
        for folder in sorted(self.studies.iterdir()):
            files = files_below(folder)
            newest = max((f.stat().st_mtime for f in files), default=0.0)
            age_s = time.time() - newest
            if not files or age_s < quiet_s:
                continue
            images = hashlib.sha256("\n".join(sorted(f.name for f in files)).encode()).hexdigest()
            outcome = self.outcome(folder.name)
            is_done = outcome.get("images") == images and (not outcome.get("again") or newest <= outcome["at"])
            if not is_done:
                yield Study(folder.name, folder, images)
            elif age_s > keep_s:
                self._remove(folder, files)

    def outcome(self, study_uid: str) -> dict[str, Any]:
        """What became of a study; {} if it is not done."""
        file = self.done / f"{study_uid}.json"
        outcome: dict[str, Any] = read_json(file) if file.is_file() else {}
        return outcome

    def finish(self, study: Study, code: str, again: bool = False, **more: Any) -> None:
        """Record that a study is done. code: of an error, or "". again: it is repeated if it is sent again."""
        before = self.outcome(study.uid)
        if code and not again and before.get("code") == "":  # late images without their study: its result stands
            code, more = "", {**before, **more}
        more |= {"code": code, "again": again, "images": study.images, "at": time.time()}
        write_json(self.done / f"{study.uid}.json", more)
        shutil.rmtree(self.results / study.uid, ignore_errors=True)

    def _remove(self, folder: Path, files: Sequence[Path]) -> None:
        for file in files:
            file.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()

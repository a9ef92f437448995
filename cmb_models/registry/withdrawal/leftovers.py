"""What of a patient remains in data/raw after a withdrawal: texts, files of unclear owners, and what links name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmb_models.io.tables import encoding_of
from cmb_models.registry.withdrawal.contents import is_image, walk
from cmb_models.registry.withdrawal.plan import SHOWN, Plan, Target, sessions_of
from cmb_models.workspace.dvc_cache import cache_dir
from cmb_models.workspace.paths import RAW

TEXT = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".md", ".yaml", ".yml", ".xml", ".log", ".html", ".bval", ".bvec")
OF_VERSIONS = (".dvc", ".gitignore", ".dvcignore")
FIRST_BYTES = 4096  # in which a text has no null byte


def leftovers(workspace: Path, plan: Plan) -> Iterator[str]:
    """Steps for the files of data/raw that hold, or may hold, something of the patient and were not removed."""
    known = {workspace / path for path in (*(file.path for file in plan.seen), *plan.rows, *plan.alike)}
    unsearched = []
    for file, is_behind in walk(workspace / RAW):
        dataset, *parts = file.relative_to(workspace / RAW).parts
        targets = [t for t in plan.targets if t.dataset == dataset or not parts]
        if file in known or not file.is_file() or not targets:
            continue
        step = _step(workspace, file, Path(*parts) if parts else Path(dataset), targets)
        if step is None:
            unsearched.append(str(file.relative_to(workspace)))
        elif step:
            again = (workspace / RAW / f"{dataset}.dvc").is_file() and parts and not is_behind
            yield step + (f", then run `dvc add {RAW / dataset}`" if again else "")
    if unsearched:
        more = f" and {len(unsearched) - SHOWN} more" if len(unsearched) > SHOWN else ""
        yield f"not searched for the patient, look yourself: {', '.join(unsearched[:SHOWN])}{more}"
    for path in plan.alike:
        yield f"{path} has the same bytes as a removed file, which do not say whose it is: delete it if it is the patient's"
    yield from (f"run `dvc remove {file.path}.dvc`" for file in plan.files if (workspace / f"{file.path}.dvc").is_file())
    yield from _linked(workspace, plan)
    for other in plan.others:
        yield f"{other} has further scans, which stay: withdraw it too if it is the same patient"


def _step(workspace: Path, file: Path, path: Path, targets: Sequence[Target]) -> str | None:
    """What to do about a file; "" if nothing, None if it could not be searched. path: in its dataset."""
    shown = file.relative_to(workspace)
    for target in targets:
        sessions = sessions_of(path)
        if target.session is not None and target.names(path) and (not sessions or target.session in sessions):
            return f"{shown} may belong to {target}: delete it, or what is the patient's in it"
    subjects = [target.subject for target in targets if target.session is None]
    if named := [subject for subject in subjects if _pattern(subject).search(path.as_posix())]:
        return f"{shown} has {named[0]} in its name: delete it if it is the patient's"
    if is_image(file) or file.name.endswith(OF_VERSIONS) or not subjects:
        return ""
    found = _subjects_in(file, subjects) if file.suffix.lower() in TEXT else None
    return None if found is None else f"remove {', '.join(found)} from {shown}" if found else ""


def _pattern(subject: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![0-9A-Za-z-]){re.escape(subject)}(?![0-9A-Za-z-])", re.IGNORECASE)


def _subjects_in(file: Path, subjects: Sequence[str]) -> list[str] | None:
    """The subjects that a text names; None if it is not readable as one."""
    try:
        encoding = encoding_of(file)
        with file.open("rb") as binary:
            if encoding != "utf-16" and b"\0" in binary.read(FIRST_BYTES):
                return None
        found = set()
        with file.open(encoding=encoding, errors="replace") as stream:
            for line in stream:
                found |= {subject for subject in subjects if _pattern(subject).search(line)}
    except (OSError, UnicodeError):
        return None
    return sorted(found)


def _linked(workspace: Path, plan: Plan) -> Iterator[str]:
    """What lies outside data/raw and was only linked there. DVC's cache is a step of its own."""
    links = [file for file in plan.files if file.real]
    removed = tuple(f"{link.path}/" for link in links)
    files = [*links, *(file for file in plan.behind if not file.path.startswith(removed))]
    if not files and not plan.linked:
        return
    raw = (workspace / RAW).resolve()
    cache = cache_dir(workspace) if (workspace / ".dvc").is_dir() else raw

    def is_left(real: Path) -> bool:
        return real.exists() and not real.is_relative_to(raw) and not real.is_relative_to(cache)

    yield from (f"delete {file.real}, which {file.path} linked to" for file in files if is_left(Path(file.real)))
    for table, real in plan.linked.items():
        if is_left(Path(real)):
            yield f"remove the patient's rows from {real}, which {table} linked to"

"""What remains to be done after a withdrawal: places that still hold the patient's scans, marks or name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from cmb_models.files import files_below
from cmb_models.importing.identity import default_key, open_key
from cmb_models.registry.withdrawal.plan import Plan
from cmb_models.registry.withdrawal.withdraw import Withdrawal, dvc
from cmb_models.workspace.dvc_cache import cache_dir
from cmb_models.workspace.paths import CANDIDATES, DVC_LOCK, PREPARED, RAW, WITHDRAWAL_LOG
from cmb_models.workspace.versioning import files_at, git_lines, head_commit

TEXT = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".md", ".yaml", ".yml", ".xml")
MOST_BYTES = 2**22  # of a text file that is searched


def remaining(workspace: Path, found: Withdrawal, key_file: Path | None = None) -> list[str]:
    """The steps that remain, in order, as sentences.

    Args:
        workspace: The workspace.
        found: The withdrawal.
        key_file: The key file from which the patient was dropped.

    Raises:
        InputError: If git or DVC fails.
    """
    steps = [*_texts(workspace, found.plan), *_key(workspace, found.plan, key_file)]
    is_trained = (workspace / DVC_LOCK).is_file()
    has_dvc = is_trained or any((workspace / f"{RAW}/{name}.dvc").is_file() for name in found.plan.datasets)
    if has_dvc:
        steps += _training(found, is_trained)
    steps += _releases(found)  # which a training without the patient comes before
    return steps + [*_stores(workspace)] if has_dvc else steps


def _texts(workspace: Path, plan: Plan) -> Iterator[str]:
    """Other text files of the datasets that name a subject."""
    tables = {workspace / table for table in plan.rows}
    for target in (target for target in plan.targets if target.session is None):
        name = re.compile(rf"(?<![0-9A-Za-z-]){re.escape(target.subject)}(?![0-9A-Za-z-])")
        folder = workspace / RAW / target.dataset
        for file in files_below(folder):
            is_left = file.suffix.lower() in TEXT and file.stat().st_size <= MOST_BYTES and file not in tables
            if not is_left or target.holds(file.relative_to(folder)):
                continue
            if name.search(file.read_text(encoding="utf-8", errors="replace")):
                again = f", then run `dvc add {RAW / target.dataset}`" if folder.with_name(f"{folder.name}.dvc").is_file() else ""
                yield f"remove {target.subject} from {file.relative_to(workspace)}{again}"
    for path in plan.alike:
        yield f"{path} has the same bytes as a removed file, which do not say whose it is: delete it if it is the patient's"
    for other in plan.others:
        yield f"{other} has further scans, which stay: withdraw it too if it is the same patient"


def _key(workspace: Path, plan: Plan, key_file: Path | None) -> Iterator[str]:
    file = default_key(workspace / RAW / plan.datasets[0])
    if file == key_file or not file.is_file():
        return
    if plan.subject in open_key(file, workspace / RAW).patients:
        yield f"the key file still says who {plan.subject} is: `cmb data withdraw {plan.subject} --key {shlex.quote(str(file))}`"


def _releases(found: Withdrawal) -> Iterator[str]:
    for use in sorted({(u.release, u.aliases) for u in (*found.uses, *found.named) if u.aliases and "training" in u.roles}):
        number, aliases = use
        yield f"release {number}, trained on the patient, is {' and '.join(aliases)}: replace it by one trained without"


def _training(found: Withdrawal, is_trained: bool) -> Iterator[str]:
    lock = [str(DVC_LOCK)] if is_trained else []
    yield f"commit: `git add {' '.join([RAW.as_posix(), str(WITHDRAWAL_LOG), *lock])} && git commit -m 'Withdraw a subject'`"
    if found.split_fault:
        yield f"index and split could not be recomputed, so nothing can be retrained: {found.split_fault}"
    if lock:
        yield f"retrain: `dvc repro`, and commit; until then {PREPARED} and {CANDIDATES} hold the patient's scans"


def _stores(workspace: Path) -> Iterator[str]:
    """DVC's cache, its remotes and git's history."""
    cache, alone, shared = cache_dir(workspace), "dvc gc --workspace", "dvc gc --workspace --projects OTHER_WORKSPACE"
    versions = "Earlier versions of all data and outputs are deleted with them"
    others = "Name every other workspace that uses it by --projects, or its files are deleted too"
    if cache.is_relative_to(workspace):
        yield f"then delete the files from DVC's cache {cache}: `{alone}`. {versions}"
    else:
        yield f"then delete the files from DVC's cache {cache}, which is outside this workspace: `{shared}`. {versions}. {others}"
    for remote in remotes(workspace):
        yield f"then delete them from the remote {remote}: `{shared} --cloud --remote {remote}`. {others}"
    if git_lines(workspace, "remote"):
        yield "push the commits, and have other clones do the same: pull, `dvc checkout`, `dvc gc --workspace`"
    commit = head_commit(workspace)
    if commit and [name for name in files_at(workspace, commit, RAW.as_posix()) if not name.endswith((".dvc", ".gitignore"))]:
        yield f"git's history holds files of {RAW} themselves: they stay in every clone until the history is rewritten"


def remotes(workspace: Path) -> list[str]:
    """The names of DVC's remotes."""
    return [line.split()[0] for line in dvc(workspace, "remote", "list").stdout.splitlines() if line.strip()]

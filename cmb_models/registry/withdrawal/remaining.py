"""What remains to be done after a withdrawal: places that still hold the patient's scans, marks or name."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from cmb_models.importing.identity import default_key, open_key
from cmb_models.registry.withdrawal.leftovers import leftovers
from cmb_models.registry.withdrawal.plan import Plan
from cmb_models.registry.withdrawal.withdraw import Withdrawal, codes_of, dvc
from cmb_models.workspace.dvc_cache import cache_dir
from cmb_models.workspace.paths import CANDIDATES, DVC_LOCK, PREPARED, RAW, STATISTICS, WITHDRAWAL_LOG
from cmb_models.workspace.versioning import git_lines

PAGE = "check.html"  # as the documentation names the page of `cmb check`; git ignores it


def remaining(workspace: Path, found: Withdrawal, key_file: Path | None = None) -> list[str]:
    """The steps that remain, in order, as sentences.

    Args:
        workspace: The workspace.
        found: The withdrawal.
        key_file: The key file from which the patient was dropped.

    Raises:
        InputError: If git or DVC fails.
    """
    steps = [*leftovers(workspace, found.plan), *_page(workspace), *_key(workspace, found.plan, key_file)]
    is_trained = (workspace / DVC_LOCK).is_file()
    has_dvc = is_trained or any((workspace / f"{RAW}/{name}.dvc").is_file() for name in found.plan.datasets)
    steps += _commit(workspace, found.plan, is_trained)
    if has_dvc:
        steps += _training(found, is_trained)
    steps += _releases(found)  # which a training without the patient comes before
    if has_dvc:
        steps += _stores(workspace)
    return [*steps, *_history(workspace, found.plan)]


def _page(workspace: Path) -> Iterator[str]:
    if (workspace / PAGE).exists():
        yield f"delete {PAGE}, which shows the scans, and write it again with `cmb check`"


def _key(workspace: Path, plan: Plan, key_file: Path | None) -> Iterator[str]:
    """The patient's codes that stay in the usual key file, and in that from which the others were dropped."""
    codes, subjects = codes_of(workspace, plan), sorted({t.subject for t in plan.targets if t.session is None})
    for file in {default_key(workspace / RAW / plan.datasets[0]), *filter(None, [key_file])}:
        patients = open_key(file, workspace / RAW).patients if file.is_file() else {}
        for subject in (subject for subject in subjects if subject in patients):
            if subject not in codes:
                which = f"the key file {file} says who {subject} is, a name that another dataset has too"
                yield f"{which}: delete it there if it is the patient"
            elif file != key_file:
                yield f"the key file still maps {subject}: `cmb data withdraw {subject} --key {shlex.quote(str(file))}`"


def _releases(found: Withdrawal) -> Iterator[str]:
    for use in sorted({(u.release, u.aliases) for u in (*found.uses, *found.named) if u.aliases and "training" in u.roles}):
        number, aliases = use
        yield f"release {number}, trained on the patient, is {' and '.join(aliases)}: replace it by one trained without"


def _commit(workspace: Path, plan: Plan, is_trained: bool) -> Iterator[str]:
    """What changed. Of folders only what git has of them: scans outside DVC stay outside git."""
    files = [f"{RAW.as_posix()}/{name}.dvc" for name in plan.datasets]
    files = [file for file in files if (workspace / file).is_file()] + [str(WITHDRAWAL_LOG)] + [str(DVC_LOCK)] * is_trained
    changed = {"/".join(Path(path).parts[:3]) for path in (*(file.path for file in plan.files), *plan.rows)}
    folders = sorted(path for path in changed if git_lines(workspace, "--literal-pathspecs", "ls-files", "--", path))
    of_folders = f" && git add -u {shlex.join(folders)}" if folders else ""
    yield f"commit: `git add {shlex.join(files)}{of_folders} && git commit -m 'Withdraw a subject'`"


def _training(found: Withdrawal, is_trained: bool) -> Iterator[str]:
    if found.split_fault:
        yield f"index and split could not be recomputed, so nothing can be retrained: {found.split_fault}"
    if is_trained:
        yield f"retrain: `dvc repro`, and commit; until then {PREPARED}, {CANDIDATES} and {STATISTICS} hold the patient's data"


def _stores(workspace: Path) -> Iterator[str]:
    """DVC's cache, its remotes and other clones."""
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


def _history(workspace: Path, plan: Plan) -> Iterator[str]:
    """Whether git itself has the files, once or now."""
    paths = [*(file.path for file in plan.files), *plan.rows]
    if git_lines(workspace, "--literal-pathspecs", "log", "--all", "--reflog", "-1", "--format=%h", "--", *paths):
        folder = RAW / plan.targets[0].dataset
        which = f"git's history holds files of the patient (`git log --all -- {folder}`)"
        yield f"{which}: they stay in every clone until it is rewritten"


def remotes(workspace: Path) -> list[str]:
    """The names of DVC's remotes."""
    return [line.split()[0] for line in dvc(workspace, "remote", "list").stdout.splitlines() if line.strip()]

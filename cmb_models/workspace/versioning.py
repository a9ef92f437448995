"""Queries of git and DVC about a workspace: clean, up to date, commits, tracked outputs, and hashes of the inputs."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from cmb_models.errors import InputError
from cmb_models.files import sha256_of
from cmb_models.hash_chain import canonical_sha256
from cmb_models.workspace.paths import (
    AUDIT_LOG,
    CODE_LOCK,
    DVC_LOCK,
    ENVIRONMENT_LOCK,
    EXPOSURE_LOG,
    PARAMS,
    RAW,
    SPLIT,
)

# Locks of the packages and of the library's code that the stages ran with.
LOCKS = {"environment_sha256": ENVIRONMENT_LOCK, "code_lock_sha256": CODE_LOCK}


def workspace_around(start: Path) -> Path | None:
    """The top folder of the git working tree that holds a folder.

    Args:
        start: A folder.

    Returns:
        The top folder; None if `start` is in no git repository.

    Raises:
        InputError: Where git cannot be consulted: no git program, a repository that git refuses to read, or a damaged one.
    """
    start = Path(start).resolve()
    if not start.is_dir():
        raise InputError("file-not-found", start, "a folder", "none", "name a folder that exists")
    marks = _repository_marks(start)
    if shutil.which("git") is None and not marks:
        return None
    process = _git(start, "rev-parse", "--show-toplevel")
    if process.returncode == 0:
        return Path(_text(process.stdout).strip())
    if not marks:
        return None
    raise _refusal(start, process)


def _repository_marks(start: Path) -> list[Path]:
    """Paths that mark a git repository in a folder or above it.

    Found without git, whose message is the same for no repository and for a damaged one.
    """
    if os.environ.get("GIT_DIR"):
        return [Path(os.environ["GIT_DIR"])]
    folders = (start, *start.parents)
    try:
        marks = [folder / ".git" for folder in folders if _exists(folder / ".git")]
        return marks + [folder for folder in folders if (folder / "HEAD").is_file() and (folder / "objects").is_dir()]
    except OSError as error:
        raise InputError(
            "git-failed", start, "folders that can be searched for .git", str(error), "correct their permissions"
        ) from error


def _exists(path: Path) -> bool:
    """Whether a path or a broken link exists. Raises OSError where os.path.lexists would return False for a failed query."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def find_workspace(start: Path) -> Path:
    """The top folder of the git working tree that holds `start`. Raises InputError outside of one, and as `workspace_around`."""
    workspace = workspace_around(start)
    if workspace is None:
        raise InputError(
            "workspace-missing",
            Path(start).resolve(),
            "a folder of a workspace, as `cmb init` creates it",
            "none",
            "run the command inside a workspace",
        )
    return workspace


def git_commit(workspace: Path) -> str:
    """The commit that is checked out. Raises InputError before the first commit."""
    if not (commit := head_commit(workspace)):
        raise InputError("git-no-commit", workspace, "a git commit", "none yet", "commit the workspace first")
    return commit


def head_commit(workspace: Path) -> str:
    """The commit that is checked out.

    Args:
        workspace: A folder.

    Returns:
        Its full hash; "" before the first commit and outside of git.

    Raises:
        InputError: Where git cannot be consulted, and where HEAD names no commit although the repository holds some.
    """
    if workspace_around(workspace) is None:
        return ""
    process = _git(workspace, "rev-parse", "--verify", "--quiet", "HEAD", absent=1)
    if process.returncode == 0:
        return _text(process.stdout).strip()
    if git_lines(workspace, "rev-list", "--all", "--reflog", "--max-count=1"):
        remedy = "check out a branch, or restore the clone from a backup"
        raise InputError(
            "git-failed", workspace, "a HEAD that names a commit", "none, although the repository holds commits", remedy
        )
    return ""


def has_commit(workspace: Path, commit: str) -> bool:
    """Whether a commit is in the repository. Raises InputError where git cannot be consulted."""
    return _git(workspace, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", absent=1).returncode == 0


def git_lines(workspace: Path, *arguments: str) -> list[str]:
    """The lines that a git command prints. Raises InputError with git's message when it fails."""
    return _text(_checked(workspace, *arguments)).splitlines()


def files_at(workspace: Path, commit: str, folder: str) -> list[str]:
    """Paths of the files directly in a folder at a commit; [] where it is not there. Raises InputError when git fails."""
    names = _checked(workspace, "ls-tree", "-z", "--name-only", commit, f"{folder}/")
    return [name for name in _text(names).split("\0") if name]


def file_at(workspace: Path, commit: str, file: Path | str) -> bytes | None:
    """A file's content at a commit; None where the commit has no such file. Raises InputError when git fails."""
    path = Path(file).as_posix()
    return _checked(workspace, "show", f"{commit}:{path}") if _checked(workspace, "ls-tree", "-z", commit, path) else None


def is_ignored(file: Path) -> bool | None:
    """Whether git ignores a file; None outside of a repository. Its folder must exist.

    Raises InputError where git cannot be consulted.
    """
    if workspace_around(file.parent) is None:
        return None
    return _git(file.parent, "check-ignore", "-q", file.name, absent=1).returncode == 0


def user_name(workspace: Path) -> str:
    """The current user: git's user name and e-mail, else the login name. Raises InputError where git cannot be consulted."""
    # `git config` alone would ignore the settings of a repository that git refuses to read.
    workspace_around(workspace)
    parts = [_text(_git(workspace, "config", key, absent=1).stdout).strip() for key in ("user.name", "user.email")]
    return " ".join(p for p in (parts[0], f"<{parts[1]}>" if parts[1] else "") if p) or getpass.getuser()


def require_clean(workspace: Path) -> None:
    """Raise InputError with the list of files that differ from the commit; the audit log and ignored files do not count."""
    status = ("status", "--porcelain", "--untracked-files=all", "--", ".", f":(exclude){AUDIT_LOG}")
    files = [line[3:] for line in git_lines(workspace, *status)]
    if files:
        shown = ", ".join(files[:20]) + (f" and {len(files) - 20} more" if len(files) > 20 else "")
        remedy = "commit or undo them, then register"
        if EXPOSURE_LOG.name in files:
            remedy = f"commit them, then register; {EXPOSURE_LOG} records an evaluation of locked scans, which cannot be undone"
        raise InputError("git-dirty", workspace, "a clean git tree", f"changes in {shown}", remedy)


def start_dvc_status(workspace: Path) -> subprocess.Popen:
    """Start `dvc status`, which takes a second or two, in the background; `require_up_to_date` reads its output."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "true"}
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    return subprocess.Popen(command, cwd=workspace, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def require_up_to_date(workspace: Path, status: subprocess.Popen) -> None:
    """Raise InputError naming each stage whose inputs or outputs differ from dvc.lock."""
    out, err = status.communicate()
    if status.returncode:
        raise InputError("dvc-failed", workspace, "a working `dvc status`", " ".join(err.split())[-300:], "repair the DVC setup")
    changed = json.loads(out)
    if changed:
        stages = "; ".join(f"{name} ({_changes(what)})" for name, what in sorted(changed.items()))
        raise InputError(
            "outputs-outdated", workspace, f"outputs as {DVC_LOCK} records them", stages, f"run `dvc repro` and commit {DVC_LOCK}"
        )


def _changes(what: list) -> str:
    """One stage of DVC's status, such as [{"changed outs": {"models/bundle": "modified"}}], as text."""
    words = []
    for part in what:
        for kind, paths in part.items() if isinstance(part, dict) else [(str(part), {})]:
            words.append(f"{kind}: {', '.join(sorted(paths))}" if paths else kind)
    return "; ".join(words)


def require_tracked(workspace: Path, paths: tuple[Path | str, ...]) -> None:
    """Raise InputError unless dvc.lock records each of `paths` as, or inside, a stage's output. DVC detects no other change."""
    untracked = [p for p in paths if not is_tracked(workspace, p)]
    if untracked:
        raise InputError(
            "outputs-outdated",
            workspace / DVC_LOCK,
            "every part of a release among its outputs",
            f"no {', '.join(map(str, untracked))}",
            "run `dvc repro`",
        )
    missing = [p for p in paths if not (workspace / p).exists()]
    if missing:
        raise InputError(
            "outputs-missing",
            workspace,
            "the outputs of all stages",
            f"no {', '.join(map(str, missing))}",
            "bring them with `dvc pull`, or run `dvc repro`",
        )


def is_tracked(workspace: Path, path: Path | str) -> bool:
    """Whether a stage's output is, or holds, `path`."""
    path = Path(path).as_posix()
    outs = [out for stage in _lock(workspace).values() for out in _hashes(stage.get("outs", []))]
    return any(path == out or path.startswith(f"{out}/") for out in outs)


def source_hashes(workspace: Path) -> dict[str, Any]:
    """Hashes of the inputs of the workspace's outputs: files by SHA-256, datasets by DVC's MD5.

    data: {path: md5} of each data/raw/*.dvc; data_sha256: of that mapping (`canonical_sha256`). environment_sha256 and
    code_lock_sha256 are "" when the workspace has no such lock.
    """
    data = datasets_now(workspace)
    return {
        "git_commit": git_commit(workspace),
        "dvc_lock_sha256": sha256_of(workspace / DVC_LOCK),
        "params_sha256": sha256_of(workspace / PARAMS),
        **{name: sha256_of(workspace / file) if (workspace / file).is_file() else "" for name, file in LOCKS.items()},
        "data": data,
        "data_sha256": canonical_sha256(data),
        "split_sha256": sha256_of(workspace / SPLIT),
    }


def datasets_now(workspace: Path) -> dict[str, str]:
    """MD5 of each path that a .dvc file in data/raw tracks."""
    files = sorted((workspace / RAW).glob("*.dvc"))
    return {path: md5 for file in files for path, md5 in dvc_outs(file.read_bytes(), RAW).items()}


def dvc_outs(content: bytes, folder: Path) -> dict[str, str]:
    """MD5 of each path that a .dvc file tracks. content: of the file; folder: the one it is in, relative to the workspace."""
    outs = (yaml.safe_load(content) or {}).get("outs", [])
    return {(folder / path).as_posix(): md5 for path, md5 in _hashes(outs).items()}


def _hashes(outs) -> dict[str, str]:
    return {out["path"]: out.get("md5", "") for out in outs}


def _lock(workspace: Path) -> dict[str, dict]:
    """The stages of dvc.lock by name."""
    file = workspace / DVC_LOCK
    if not file.is_file():
        raise InputError(
            "workspace-missing", workspace, f"a workspace with {DVC_LOCK}", "none", f"run `dvc repro` and commit {DVC_LOCK}"
        )
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("stages", {})


def _checked(workspace: Path, *arguments: str) -> bytes:
    """What a git command prints. Raises InputError when it fails."""
    return _git(workspace, *arguments, absent=0).stdout


def _git(folder: Path, *arguments: str, absent: int | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a git command in a folder. absent: the one exit code other than 0 that is accepted; None accepts all."""
    command = ("git", "-c", "core.quotepath=off", *arguments)
    try:
        process = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except FileNotFoundError as error:
        remedy = "install git, or correct PATH: without it keys, files and commits cannot be determined"
        raise InputError(
            "program-missing", folder, "the git program, to consult the repository", f"none ({error.strerror})", remedy
        ) from error
    if absent is not None and process.returncode not in (0, absent):
        raise _refusal(folder, process)
    return process


def _refusal(folder: Path, process: subprocess.CompletedProcess[bytes]) -> InputError:
    """The error for a repository that git refuses to read. Git's message names the remedy for one of another owner."""
    got = " ".join(_text(process.stderr).split()) or f"exit code {process.returncode} of `{' '.join(process.args)}`"
    remedy = f"follow git's advice, or repair the clone, until `git -C {folder} log` works"
    return InputError("git-failed", folder, "a repository that git can read", got, remedy)


def _text(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape")

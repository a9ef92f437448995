"""What git and DVC know about a site's workspace: is it clean, is it up to date, and which data made the outputs."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
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
    BUNDLE,
    CODE_LOCK,
    DVC_LOCK,
    ENVIRONMENT_LOCK,
    EXPOSURE_LOG,
    PARAMS,
    SPLIT,
)

# Of the packages and of the library's code that the stages ran with.
LOCKS = {"environment_sha256": ENVIRONMENT_LOCK, "code_lock_sha256": CODE_LOCK}


def find_workspace(start: Path) -> Path:
    """The top folder of the git working tree that holds `start`. Raises InputError outside of one."""
    done = _run("git", "rev-parse", "--show-toplevel", cwd=start)
    if done.returncode:
        raise InputError(
            "workspace-missing",
            Path(start).resolve(),
            "a folder of a workspace (a git clone)",
            "none",
            "run the command inside a workspace",
        )
    return Path(done.stdout.strip())


def is_export(folder: Path) -> bool:
    """Whether a folder is the bundle that the stages of the workspace around the current folder write."""
    try:
        return Path(folder).resolve() == (find_workspace(Path(".")) / BUNDLE).resolve()
    except (InputError, OSError):  # no workspace, or no git on this host
        return False


def git_commit(workspace: Path) -> str:
    """The commit that is checked out. Raises InputError before the first commit."""
    if not (commit := head_commit(workspace)):
        raise InputError("git-no-commit", workspace, "a git commit", "none yet", "commit the workspace first")
    return commit


def head_commit(workspace: Path) -> str:
    """The commit that is checked out; "" before the first one and outside of git."""
    return "".join(git_lines(workspace, "rev-parse", "--verify", "HEAD"))


def git_lines(workspace: Path, *arguments: str) -> list[str]:
    """The lines that a git command prints; [] when it fails."""
    done = _run("git", "-c", "core.quotepath=off", *arguments, cwd=workspace)
    return [] if done.returncode else done.stdout.splitlines()


def git_bytes(workspace: Path, *arguments: str) -> bytes | None:
    """What a git command prints, as it is; None when it fails."""
    done = subprocess.run(("git", *arguments), cwd=workspace, capture_output=True, check=False)
    return None if done.returncode else done.stdout


def is_ignored(file: Path) -> bool | None:
    """Whether git leaves a file alone; None outside of a working tree. Its folder must be there."""
    done = _run("git", "check-ignore", "-q", file.name, cwd=file.parent)
    return {0: True, 1: False}.get(done.returncode)


def user_name(workspace: Path) -> str:
    """Who is working here: git's user name and e-mail, else the login name."""
    parts = [_run("git", "config", key, cwd=workspace).stdout.strip() for key in ("user.name", "user.email")]
    return " ".join(p for p in (parts[0], f"<{parts[1]}>" if parts[1] else "") if p) or getpass.getuser()


def require_clean(workspace: Path) -> None:
    """Raise InputError with the list of files that differ from the commit; the audit log and ignored files do not count."""
    command = ("git", "-c", "core.quotepath=off", "status", "--porcelain", "--untracked-files=all")
    done = _run(*command, "--", ".", f":(exclude){AUDIT_LOG}", cwd=workspace)
    if done.returncode:
        raise InputError("git-failed", workspace, "a readable git state", done.stderr.strip(), "repair the clone")
    files = [line[3:] for line in done.stdout.splitlines()]
    if files:
        shown = ", ".join(files[:20]) + (f" and {len(files) - 20} more" if len(files) > 20 else "")
        remedy = "commit or undo them, then register"
        if EXPOSURE_LOG.name in files:
            remedy = f"commit them, then register; {EXPOSURE_LOG} counts a look at locked scans, which cannot be undone"
        raise InputError("git-dirty", workspace, "a clean git tree", f"changes in {shown}", remedy)


def start_dvc_status(workspace: Path) -> subprocess.Popen:
    """Start `dvc status` (a second or two); `require_up_to_date` reads it, so that other work can go on meanwhile."""
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
    """One stage of DVC's status, such as [{"changed outs": {"models/bundle": "modified"}}], in words."""
    words = []
    for part in what:
        for kind, paths in part.items() if isinstance(part, dict) else [(str(part), {})]:
            words.append(f"{kind}: {', '.join(sorted(paths))}" if paths else kind)
    return "; ".join(words)


def require_tracked(workspace: Path, paths: tuple[Path | str, ...]) -> None:
    """Raise InputError unless dvc.lock records each of `paths` as, or inside, a stage's output: else DVC could not see a change."""
    strays = [p for p in paths if not is_tracked(workspace, p)]
    if strays:
        raise InputError(
            "outputs-outdated",
            workspace / DVC_LOCK,
            "every part of a release among its outputs",
            f"no {', '.join(map(str, strays))}",
            "run `dvc repro`",
        )
    missing = [p for p in paths if not (workspace / p).exists()]
    if missing:
        raise InputError(
            "outputs-missing", workspace, "the outputs of all stages", f"no {', '.join(map(str, missing))}", "run `dvc repro`"
        )


def is_tracked(workspace: Path, path: Path | str) -> bool:
    """Whether a stage's output is, or holds, `path`."""
    path = Path(path).as_posix()
    outs = [out for stage in _lock(workspace).values() for out in _hashes(stage.get("outs", []))]
    return any(path == out or path.startswith(f"{out}/") for out in outs)


def cached_out(workspace: Path, path: str, md5: str) -> Path | None:
    """The file that DVC knows by this MD5: in its cache beside the workspace, else the workspace's own if it is still that one."""
    cached = workspace / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    if md5 and cached.is_file():
        return cached
    own = workspace / path
    return own if own.is_file() and hashlib.md5(own.read_bytes(), usedforsecurity=False).hexdigest() == md5 else None


def source_hashes(workspace: Path) -> dict[str, Any]:
    """What the workspace's outputs were made from: files by SHA-256, and the datasets by DVC's MD5.

    data: {path: md5} of each data/raw/*.dvc; data_sha256: of that mapping (`canonical_sha256`). environment_sha256 and
    code_lock_sha256 are "" when the workspace has no such lock.
    """
    data = _hashes(out for file in sorted(workspace.glob("data/raw/*.dvc")) for out in _dvc_file_outs(workspace, file))
    return {
        "git_commit": git_commit(workspace),
        "dvc_lock_sha256": sha256_of(workspace / DVC_LOCK),
        "params_sha256": sha256_of(workspace / PARAMS),
        **{name: sha256_of(workspace / file) if (workspace / file).is_file() else "" for name, file in LOCKS.items()},
        "data": data,
        "data_sha256": canonical_sha256(data),
        "split_sha256": sha256_of(workspace / SPLIT),
    }


def _dvc_file_outs(workspace: Path, file: Path) -> list[dict]:
    """The outputs of a .dvc file, their paths relative to the workspace."""
    folder = file.parent.relative_to(workspace)
    outs = yaml.safe_load(file.read_text(encoding="utf-8")).get("outs", [])
    return [{**out, "path": (folder / out["path"]).as_posix()} for out in outs]


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


def _run(*command: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=cwd, text=True, capture_output=True, check=False)

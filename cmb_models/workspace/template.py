"""A site's workspace: created from the template that the library carries, and brought up to a newer one."""

from __future__ import annotations

import difflib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cmb_models.config.params import load_params
from cmb_models.errors import InputError
from cmb_models.files import shipped, write_text
from cmb_models.workspace.code_lock import CodeChange, code_change, read_lock, write_lock
from cmb_models.workspace.paths import CODE_LOCK, ENVIRONMENT_LOCK, PARAMS

# As the template was when the workspace was created or last upgraded: the base of the next merge.
BASE = Path(".cmb/template")
DVC_FILES = (Path(".dvc/config"), Path(".dvc/.gitignore"))
GITIGNORE = """\
__pycache__/
.partial-*
# MLflow's store, Optuna's studies, the server's state, results
/mlflow.db*
/mlruns/
/mlartifacts/
/studies/
/serving-state/
/releases/
/results/
/shadow*.jsonl
# A signing key never belongs in git
/keys/*.key
# Outputs of stages; git keeps the .dvc files and the metrics
/data/*
!/data/raw/
/data/raw/*
!/data/raw/*.dvc
/models/
/reports/*.html
/reports/*/*
!/reports/*/metrics.json
"""
DVCIGNORE = "__pycache__\n.ipynb_checkpoints\n.cmb\n"


@dataclass(frozen=True)
class Upgrade:
    """What `upgrade` did.

    Attributes:
        differences: Unified diff of each file that changed, by its path in the workspace.
        code: What changed between the code of the previous code.lock and the installed code.
        library: The version that wrote the previous code.lock.
    """

    differences: Mapping[Path, str]
    code: CodeChange
    library: str


def template() -> dict[Path, str]:
    """The files of a new workspace, by path: from the installed package, or from the checkout that it runs from."""
    source = shipped("template", ".")
    names = [Path("dvc.yaml"), PARAMS, *(p.relative_to(source) for p in sorted((source / "pipelines").glob("*.py")))]
    files = {name: (source / name).read_text(encoding="utf-8") for name in names}
    return {**files, Path(".gitignore"): GITIGNORE, Path(".dvcignore"): DVCIGNORE}


def create(folder: Path) -> None:
    """Write a new workspace with a git and a DVC repository; nothing is committed.

    Args:
        folder: New, empty, or with a site's data in it already; no file in it is overwritten.

    Raises:
        InputError: The folder is a workspace, has a file of the template's name, or git or DVC fails.
    """
    folder = Path(folder)
    files = template()
    if (folder / "dvc.yaml").exists():
        raise InputError(
            "folder-taken",
            folder,
            "a folder without dvc.yaml",
            "a workspace",
            "bring it up to date with `cmb init --upgrade FOLDER`",
        )
    if taken := [str(name) for name in files if (folder / name).exists() and name.name != ".gitignore"]:
        raise InputError(
            "folder-taken",
            folder,
            "a folder without files of these names",
            ", ".join(taken),
            "move them away, or name another folder",
        )
    (folder / "data/raw").mkdir(parents=True, exist_ok=True)
    if not (folder / ".git").exists():
        _run(folder, "git", "init", "-q", "-b", "main")
    if not (folder / ".dvc").exists():
        _run(folder, sys.executable, "-m", "dvc", "init", "-q", "-f")
        _run(folder, sys.executable, "-m", "dvc", "config", "core.analytics", "false")
    for name, text in files.items():
        if name.name == ".gitignore" and (folder / name).exists():
            text = (folder / name).read_text(encoding="utf-8") + text
        if name.name != "dvc.yaml":
            write_text(folder / name, text)
    _write_base(folder, files)
    write_text(folder / "dvc.yaml", files[Path("dvc.yaml")])
    write_lock(folder)
    _run(folder, "git", "add", "--", *map(str, files), str(BASE), str(CODE_LOCK), str(ENVIRONMENT_LOCK), *map(str, DVC_FILES))


def upgrade(folder: Path) -> Upgrade:
    """Merge the installed template into a workspace and record the installed code.

    Args:
        folder: A workspace. The site's own values in params.yaml win; so do its other changes wherever the template did not
            change the same lines.

    Returns:
        What changed in the files and in the code.

    Raises:
        InputError: No workspace, the site and the template changed the same lines of a script or of dvc.yaml, the site changed a
            script that the template no longer has, or params.yaml has keys that the new version does not know. Nothing has been
            written then.
    """
    folder = Path(folder)
    before, files = read_lock(folder), template()
    merged, conflicts, obsolete = {}, [], []
    for name, new in files.items():
        own = _read(folder / name)
        merged[name], clashes = _merge(own, _read(folder / BASE / name), new, keep_own=name == PARAMS)
        if clashes:
            conflicts.append(str(name))
    for name in _files_of(folder / BASE):
        if name not in files:
            obsolete.append(name)
            if _read(folder / name) not in ("", _read(folder / BASE / name)):
                conflicts.append(str(name))
    if conflicts:
        remedy = "undo your changes there, upgrade, and make them again"
        raise InputError(
            "upgrade-conflict",
            folder,
            "changes that merge with the template's",
            f"the same lines changed in {', '.join(conflicts)}",
            remedy,
        )
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch) / PARAMS
        trial.write_text(merged[PARAMS], encoding="utf-8")
        try:
            load_params(trial)
        except InputError as error:
            remedy = f"rename or remove these keys in {folder / PARAMS} as the new template has them, and upgrade again"
            raise InputError("upgrade-conflict", folder / PARAMS, "values that the new version knows", error.got, remedy) from error
    differences = {name: _difference(name, _read(folder / name), text) for name, text in merged.items()}
    for name, text in merged.items():
        write_text(folder / name, text)
    for name in obsolete:
        differences[name] = _difference(name, _read(folder / name), "")
        (folder / name).unlink(missing_ok=True)
        (folder / BASE / name).unlink()
    _write_base(folder, files)
    return Upgrade({n: d for n, d in differences.items() if d}, code_change(before, write_lock(folder)), before.library)


def relock(folder: Path) -> Upgrade:
    """Record the installed code in code.lock without touching the workspace's other files; what changed since the last one."""
    try:
        before = read_lock(folder)
    except InputError:
        if (Path(folder) / CODE_LOCK).exists():
            raise
        write_lock(folder)
        return Upgrade({}, CodeChange((), ()), "")
    return Upgrade({}, code_change(before, write_lock(folder)), before.library)


def _write_base(folder: Path, files: Mapping[Path, str]) -> None:
    for name, text in files.items():
        write_text(folder / BASE / name, text)


def _files_of(folder: Path) -> list[Path]:
    """The files in a folder, relative to it."""
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _merge(own: str, base: str, new: str, keep_own: bool) -> tuple[str, bool]:
    """Three-way merge by git, and whether both sides changed the same lines. keep_own: the own side wins there."""
    with tempfile.TemporaryDirectory() as scratch:
        sides = [Path(scratch) / name for name in ("own", "base", "new")]
        for file, text in zip(sides, (own, base, new), strict=True):
            file.write_text(text, encoding="utf-8")
        command = ["git", "merge-file", "-p", *(["--ours"] if keep_own else []), *map(str, sides)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0 or done.returncode > 127:
        raise InputError("git-failed", "git merge-file", "a merge", done.stderr.strip(), "install git 2.28 or newer")
    return done.stdout, done.returncode != 0


def _difference(name: Path, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"{name} (before)", f"{name} (now)", lineterm="")
    return "\n".join(lines)


def _run(folder: Path, *command: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
    except OSError as error:
        raise InputError("program-missing", command[0], "a program to run", str(error), "install it") from error
    if done.returncode:
        shown = "dvc " + command[3] if command[0] == sys.executable else " ".join(command[:2])
        raise InputError(
            "command-failed",
            folder,
            f"`{shown}` to succeed",
            " ".join((done.stderr or done.stdout).split())[-300:],
            "see its message",
        )

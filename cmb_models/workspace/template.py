"""Creation of a site's workspace from the template in this package, and its upgrade to a newer template."""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from cmb_models.config.params import load_params
from cmb_models.errors import InputError
from cmb_models.files import exclusive, shipped, writable, write_text
from cmb_models.workspace.code_lock import CodeChange, code_change, read_lock, stage_names, write_lock
from cmb_models.workspace.paths import CODE_LOCK, DVC_YAML, ENVIRONMENT_LOCK, PARAMS
from cmb_models.workspace.versioning import workspace_around

# The template as of creation or the last upgrade: the base of the next merge.
BASE = Path(".cmb/template")
# Held by the command that writes to the workspace; .gitignore covers the name.
LOCK_FILE = ".partial-lock"
GIT_IGNORE, DVC_IGNORE = Path(".gitignore"), Path(".dvcignore")
DVC_FILES = (Path(".dvc/config"), Path(".dvc/.gitignore"))
# Of params.yaml: other values would hold out other subjects, some of whom earlier releases were trained on.
KEPT = "split"
GITIGNORE = """\
__pycache__/
.partial-*
# MLflow's store, Optuna's studies, the server's state, results, exported evidence
/mlflow.db*
/mlruns/
/mlartifacts/
/studies/
/serving-state/
/releases/
/results/
/evidence/
/shadow*.jsonl
/check.html
# A signing key never belongs in git
/keys/*.key
# Outputs of stages; git keeps the .dvc files and the metrics. With * instead of ?* DVC ignores the folders
# themselves and overlooks the .dvc files in them: push and pull skip the scans, and gc deletes them
/data/?*
!/data/raw/
/data/raw/?*
!/data/raw/*.dvc
/models/
/reports/*.html
/reports/*/*
!/reports/*/metrics.json
"""
DVCIGNORE = "__pycache__\n.ipynb_checkpoints\n.cmb\n"


@dataclass(frozen=True)
class Upgrade:
    """Changes made by `upgrade` or `relock`.

    Attributes:
        differences: Unified diff of each file that changed, by its path in the workspace.
        code: What changed between the code of the previous code.lock and the installed code.
        library: The version that wrote the previous code.lock; "" without a readable one.
    """

    differences: Mapping[Path, str]
    code: CodeChange
    library: str


def template() -> dict[Path, str]:
    """The files of a new workspace, by path: from the installed package, or from the checkout that it runs from."""
    source = shipped("template", ".")
    names = [DVC_YAML, PARAMS, *(p.relative_to(source) for p in sorted((source / "pipelines").glob("*.py")))]
    files = {name: (source / name).read_text(encoding="utf-8") for name in names}
    return {**files, GIT_IGNORE: GITIGNORE, DVC_IGNORE: DVCIGNORE}


def create(folder: Path) -> None:
    """Write a new workspace with a git and a DVC repository; nothing is committed.

    After a kill or an error the same call completes the workspace.

    Args:
        folder: New, empty, or with a site's data in it already. No file in it is overwritten; ignore files are extended.

    Raises:
        InputError: The folder is a workspace, has a file of the template's name, cannot be written to, or git or DVC fails.
    """
    folder = Path(folder)
    _require_programs(folder)
    with writable(folder):
        (folder / "data/raw").mkdir(parents=True, exist_ok=True)
    with _sole_writer(folder):
        files = template()
        _require_free(folder, files)
        # Idempotent, and it completes a repository that a kill left incomplete.
        if not (folder / ".git").is_file():
            _run(folder, "git", "init", "-q", "-b", "main")
        workspace_around(folder)
        config = folder / ".dvc/config"
        if not config.is_file():
            _run(folder, sys.executable, "-m", "dvc", "init", "-q")
        if not config.read_text(encoding="utf-8"):
            _run(folder, sys.executable, "-m", "dvc", "config", "core.analytics", "false")
        for name, text in files.items():
            write_text(folder / name, _extended(_read(folder / name), text) if name in (GIT_IGNORE, DVC_IGNORE) else text)
        _write_base(folder, files)
        write_lock(folder)
        _run(folder, "git", "add", "--", *map(str, files), str(BASE), str(CODE_LOCK), str(ENVIRONMENT_LOCK), *map(str, DVC_FILES))


def _require_programs(folder: Path) -> None:
    if shutil.which("git") is None:
        raise InputError("program-missing", folder, "the git program", "none", "install git, or correct PATH")
    if find_spec("dvc") is None:
        remedy = "run pip install 'cmb-models[train]'"
        raise InputError("package-missing", folder, "the packages of a workspace", "no dvc", remedy)


@contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    """Wait for any other command that writes to the workspace."""
    with writable(folder), exclusive(folder / LOCK_FILE):
        yield


def _require_free(folder: Path, files: Mapping[Path, str]) -> None:
    """Raise InputError for a workspace and for files that `create` would overwrite with different content."""
    if (folder / DVC_YAML).exists() and (folder / CODE_LOCK).exists():
        remedy = "bring it up to date with `cmb init --upgrade FOLDER`"
        raise InputError("folder-taken", folder, "a folder without dvc.yaml", "a workspace", remedy)
    names = [name for name in files if name not in (GIT_IGNORE, DVC_IGNORE) and (folder / name).exists()]
    if taken := [str(name) for name in names if _read(folder / name) != files[name]]:
        expected, remedy = "a folder without files of these names", "move them away, or use another folder"
        raise InputError("folder-taken", folder, expected, ", ".join(taken), remedy)


def _extended(existing: str, text: str) -> str:
    """The lines of an ignore file with the template's after them, once."""
    if text in existing:
        return existing
    return existing + ("\n" if existing and not existing.endswith("\n") else "") + text


def upgrade(folder: Path) -> Upgrade:
    """Merge the installed template into a workspace and record the installed code.

    A killed upgrade is completed by the next one.

    Args:
        folder: A workspace. The site's values in params.yaml win; so do its other changes wherever the template did not change the
            same lines.

    Returns:
        What changed in the files and in the code.

    Raises:
        InputError: Not a workspace, the site and the template changed the same lines of a script or of dvc.yaml, the site changed a
            script that the template no longer has, params.yaml has keys that the new version does not know, or its keys were moved
            such that a value would be lost. Nothing has been written then.
    """
    folder = Path(folder)
    _require_programs(folder)
    stage_names(folder)
    with _sole_writer(folder):
        before, files = read_lock(folder), template()
        merged = _merged_files(folder, files)
        obsolete = [name for name in _files_of(folder / BASE) if name not in files]
        existing = {name: _read(folder / name) for name in (*merged, *obsolete)}
        for name, text in merged.items():
            if text != existing[name]:
                write_text(folder / name, text)
        for name in obsolete:
            (folder / name).unlink(missing_ok=True)
            (folder / BASE / name).unlink()
        _write_base(folder, files)
        code = code_change(before, write_lock(folder))
    differences = {name: _difference(name, text, merged.get(name, "")) for name, text in existing.items()}
    return Upgrade({n: d for n, d in differences.items() if d}, code, before.library)


def _merged_files(folder: Path, files: Mapping[Path, str]) -> dict[Path, str]:
    """The template merged into the workspace's files, without those that the site deleted. Raises InputError on a conflict."""
    if not (folder / PARAMS).is_file():
        raise InputError("file-not-found", folder / PARAMS, "a params.yaml", "no such file", "restore it, for example from git")
    merged, conflicts = {}, []
    for name, new in files.items():
        site, base = _read(folder / name), _read(folder / BASE / name)
        if not (folder / name).exists() and (folder / BASE / name).exists():
            if base != new:
                conflicts.append(f"{name} (deleted)")
        elif name == PARAMS:
            merged[name] = _merge_params(site, base, new)
        elif name in (GIT_IGNORE, DVC_IGNORE):  # lines of both sides: a pattern twice does no harm
            merged[name] = _merge(site, base, new, "--union")[0]
        else:
            merged[name], clashes = _merge(site, base, new)
            conflicts += [str(name)] if clashes else []
    for name in _files_of(folder / BASE):
        if name not in files and _read(folder / name) not in ("", _read(folder / BASE / name)):
            conflicts.append(str(name))
    if conflicts:
        expected, got = "changes that merge with the template's", f"the same lines changed in {', '.join(conflicts)}"
        raise InputError("upgrade-conflict", folder, expected, got, "undo your changes there, upgrade, and make them again")
    _require_values(folder, files[PARAMS], merged[PARAMS])
    return merged


def _merge_params(site: str, base: str, new: str) -> str:
    """Merge where the site's side wins, line by line: its change of one value does not hide the template's of the next line.

    In the section KEPT it also wins where it has the old template's values.
    """
    mark = "#\x01"
    section = re.compile(rf"^{KEPT}:\n(?:[ \t]+.*\n|\n)*", re.MULTILINE)
    if (old := section.search(base)) and (changed := section.search(new)):
        lines = {line.split(":")[0]: line for line in changed[0].splitlines()}
        base = base.replace(old[0], "".join(f"{lines.get(line.split(':')[0], line)}\n" for line in old[0].splitlines()))
    spaced = [text.replace("\n", f"\n{mark}\n") for text in (site, base, new)]
    return _merge(*spaced, "--ours")[0].replace(f"{mark}\n", "")


def _require_values(folder: Path, new: str, merged: str) -> None:
    """Raise InputError unless the merged params.yaml is valid and holds the site's changed values and the template's others."""
    file, expected = folder / PARAMS, "values that the new version knows"
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch) / PARAMS
        trial.write_text(merged, encoding="utf-8")
        try:
            load_params(trial)
        except InputError as error:
            remedy = "correct these keys and values there as in the params.yaml of a new workspace (`cmb init`), and upgrade again"
            raise InputError("upgrade-conflict", file, expected, error.got, remedy) from error
    site, base, result = (_values(text) for text in (_read(file), _read(folder / BASE / PARAMS), merged))
    lost = []
    for key, value in _values(new).items():
        changed = key in site and (site[key] != base.get(key) or key.startswith(f"{KEPT}."))
        if key in result and result[key] != (site[key] if changed else value):
            lost.append(key)
    if lost:
        got, remedy = (
            f"other values of {', '.join(lost)}",
            f"restore these keys from {BASE / PARAMS}, upgrade, and change them again",
        )
        raise InputError("upgrade-conflict", file, "changes that merge with the template's", got, remedy)


def _values(text: str) -> dict[str, Any]:
    """The values of a params.yaml by dotted key."""

    def leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(leaves(yaml.safe_load(text) or {}, ""))


def relock(folder: Path) -> Upgrade:
    """Record the installed code in code.lock without touching the workspace's other files; what changed since the last one."""
    folder = Path(folder)
    stage_names(folder)
    with _sole_writer(folder):
        try:
            before = read_lock(folder)
        except InputError:
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
    """A file's text with Unix line ends; "" where it is missing."""
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    except UnicodeDecodeError as error:
        raise InputError(
            "workspace-damaged", file, "text in UTF-8", f"byte {error.start + 1} in another encoding", "convert it"
        ) from error


def _merge(site: str, base: str, new: str, *options: str) -> tuple[str, bool]:
    """Three-way merge by git, and whether both sides changed the same lines."""
    with tempfile.TemporaryDirectory() as scratch:
        sides = [Path(scratch) / name for name in ("site", "base", "new")]
        for file, text in zip(sides, (site, base, new), strict=True):
            file.write_text(text, encoding="utf-8")
        command = ["git", "merge-file", "-p", *options, *map(str, sides)]
        process = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if process.returncode < 0 or process.returncode > 127:
        raise InputError("git-failed", "git merge-file", "a merge", process.stderr.strip(), "install git 2.28 or newer")
    return process.stdout, process.returncode != 0


def _difference(name: Path, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"{name} (before)", f"{name} (now)", lineterm="")
    return "\n".join(lines)


def _run(folder: Path, *command: str) -> None:
    process = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
    if process.returncode:
        shown = "dvc " + command[3] if command[0] == sys.executable else " ".join(command[:2])
        # DVC ends its message with a pointer to its support forum.
        output = (process.stderr or process.stdout).split("Having any troubles?")[0]
        got = " ".join(output.split())[:300]
        raise InputError("command-failed", folder, f"`{shown}` to succeed", got, "correct what it names, and run the command again")

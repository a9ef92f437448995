"""`code.lock`: a hash of the code that each stage of a workspace runs, so that DVC reruns a stage when its code has changed.

The hash of a module is that of its syntax tree without docstrings, comments, annotations for type checkers and messages, and of
the data files next to it. The hash of a stage is that of its script and of all library modules that the script imports,
directly or not. A reworded message therefore retrains nothing; a changed constant retrains what uses it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

from cmb_models import __version__
from cmb_models.errors import InputError
from cmb_models.files import write_text
from cmb_models.workspace.normal_form import is_type_checking, normal_form
from cmb_models.workspace.paths import CODE_LOCK, DVC_YAML, ENVIRONMENT_LOCK, SCRIPTS

LIBRARY = "cmb_models"
# Modules that change no output of a stage: errors, logging to MLflow, reading of git and DVC, progress bars, where jobs run.
LEFT_OUT = (
    *(f"{LIBRARY}.{name}" for name in ("errors", "registry", "workspace")),
    *(f"{LIBRARY}.training.{name}" for name in ("progress", "validation.scheduler")),
)
PACKAGE = Path(__file__).resolve().parents[1]
HEADER = "# The code that each stage runs: hashes of syntax trees. Written by `cmb lock`; commit it, do not edit it.\n"


@dataclass(frozen=True)
class CodeLock:
    """Content of code.lock.

    Attributes:
        library: Version of cmb-models that wrote it.
        stages: Hash of each stage's code by stage name.
        modules: Hash of each module that some stage runs, by dotted name.
    """

    library: str
    stages: Mapping[str, str]
    modules: Mapping[str, str]


@dataclass(frozen=True)
class CodeChange:
    """What differs between a workspace's code.lock and the installed code.

    Attributes:
        modules: Changed, added and removed modules, by dotted name, sorted.
        stages: Stages whose code changed, in the order of dvc.yaml; DVC reruns them and what depends on their outputs.
    """

    modules: tuple[str, ...]
    stages: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.stages)


def stage_names(workspace: Path) -> list[str]:
    """The stages of a workspace's dvc.yaml, in its order. Raises InputError if there is none or it cannot be read."""
    file = Path(workspace) / DVC_YAML
    if not file.is_file():
        raise InputError("workspace-missing", workspace, "a workspace with dvc.yaml", "none", "create one with `cmb init FOLDER`")
    try:
        return list(yaml.safe_load(file.read_bytes())["stages"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        got = _one_line(error) if isinstance(error, yaml.YAMLError) else "none"
        raise InputError("workspace-damaged", file, "YAML with stages", got, "correct the file") from error


def installed_code(workspace: Path) -> CodeLock:
    """The lock that describes the installed library and the workspace's scripts."""
    stages: dict[str, str] = {}
    modules: dict[str, str] = {}
    for stage in stage_names(workspace):
        hashes = stage_modules(workspace, stage)
        stages[stage] = _digest(hashes)
        modules |= hashes
    return CodeLock(__version__, stages, dict(sorted(modules.items())))


def stage_modules(workspace: Path, stage: str) -> dict[str, str]:
    """Hashes of a stage's script and of the library modules that it runs, by dotted name. {} for a stage without a script."""
    script = Path(workspace) / SCRIPTS / f"{stage}.py"
    if not script.is_file():
        return {}
    try:
        tree = ast.parse(script.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise InputError("workspace-damaged", script, "a Python script", _one_line(error), "correct the file") from error
    library = module_hashes(_imports(tree))
    return {f"{SCRIPTS}.{stage}": _digest(normal_form(tree)), **library}


def library_hash(*modules: str) -> str:
    """One hash of library modules, by dotted name, and of all that they import: names Optuna studies and checkpoints."""
    return _digest(module_hashes(modules))


def module_hashes(modules: Iterable[str]) -> dict[str, str]:
    """Hashes of library modules and of all library modules that they import, by dotted name."""
    found: dict[str, str] = {}
    pending = list(modules)
    while pending:
        name = pending.pop()
        file = _file_of(name)
        if file is None or name in found or name == LIBRARY or f"{name}.".startswith(tuple(f"{m}." for m in LEFT_OUT)):
            continue
        found[name], imported = _parsed(file)
        pending += imported
    return dict(sorted(found.items()))


def read_lock(workspace: Path) -> CodeLock:
    """The workspace's code.lock. Raises InputError when it is missing or damaged."""
    file = Path(workspace) / CODE_LOCK
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return CodeLock(str(content["library"]), dict(content["stages"]), dict(content["modules"]))
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        got = _one_line(error) if file.exists() else "no such file"
        raise InputError("code-lock-damaged", file, "the hashes of the stages' code", got, "write it with `cmb lock`") from error


def write_lock(workspace: Path) -> CodeLock:
    """Record the installed code and packages in code.lock and requirements.lock."""
    lock = installed_code(workspace)
    content = {"library": lock.library, "stages": dict(lock.stages), "modules": dict(lock.modules)}
    write_text(Path(workspace) / ENVIRONMENT_LOCK, installed_packages())
    write_text(Path(workspace) / CODE_LOCK, HEADER + yaml.safe_dump(content, sort_keys=False))
    return lock


def installed_packages() -> str:
    """The installed distributions, one `name==version` per line."""
    found = {f"{d.metadata['Name'].lower().replace('_', '-')}=={d.version}" for d in distributions() if d.metadata["Name"]}
    return "\n".join(sorted(found)) + "\n"


def code_change(before: CodeLock, after: CodeLock) -> CodeChange:
    """What changed from one lock to another."""
    names = sorted({*before.modules, *after.modules})
    changed = tuple(n for n in names if before.modules.get(n) != after.modules.get(n))
    return CodeChange(changed, tuple(s for s in after.stages if before.stages.get(s) != after.stages[s]))


def require_locked(workspace: Path, stage: str) -> None:
    """Raise InputError unless code.lock describes the code that a stage would run.

    Otherwise DVC would attribute the outputs to other code.
    """
    lock = read_lock(workspace)
    modules = stage_modules(workspace, stage)
    if stage not in lock.stages:
        remedy = "name the script after its stage in dvc.yaml, and run `cmb lock`"
        raise InputError("code-changed", f"stage {stage}", f"a stage of {CODE_LOCK}", f"{SCRIPTS / stage}.py without one", remedy)
    if lock.stages.get(stage) == _digest(modules):
        return
    differing = [n for n, sha in modules.items() if lock.modules.get(n) != sha]
    got = f"cmb-models {__version__} with changed {', '.join(differing[:5]) or 'modules'}" + (" …" if len(differing) > 5 else "")
    remedy = "install that version, or run `cmb lock` to record the installed code and `dvc repro` again"
    raise InputError("code-changed", f"stage {stage}", f"the code of {CODE_LOCK} (cmb-models {lock.library})", got, remedy)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _digest(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return _sha256(_json(value))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _parsed(file: Path) -> tuple[str, tuple[str, ...]]:
    """Hash of a module's code and the data files next to it, and the library modules that it imports."""
    code, imported = _code_of(file.read_text(encoding="utf-8"))
    data = {p.relative_to(file.parent).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in _data_files(file.parent)}
    return _sha256(f"[{code}, {_json(data)}]"), imported


@cache
def _code_of(text: str) -> tuple[str, tuple[str, ...]]:
    """The normal form of a module's text as JSON, and the library modules that it imports."""
    tree = ast.parse(text)
    imported = tuple(_imports(tree))
    return _json(normal_form(tree)), imported


@cache
def _data_files(folder: Path) -> tuple[Path, ...]:
    """Files other than code, in a folder and in those folders below it that are not packages."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name != "__pycache__" and folder != PACKAGE and not (path / "__init__.py").is_file():
            found += (p for p in sorted(path.rglob("*")) if p.is_file() and p.suffix not in (".py", ".pyc"))
        elif path.is_file() and path.suffix not in (".py", ".pyc", ".typed"):
            found.append(path)
    return tuple(found)


def _imports(tree: ast.Module) -> set[str]:
    """Library modules that a module imports at run time, functions included; `from a import b` gives a.b where that is one."""
    names: set[str] = set()
    type_checking = {id(inside) for node in ast.walk(tree) if is_type_checking(node) for inside in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in type_checking:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                names.add(submodule if _file_of(submodule) else node.module)
    return {n for n in names if n == LIBRARY or n.startswith(f"{LIBRARY}.")}


def _file_of(module: str) -> Path | None:
    """The file of a library module by dotted name; None if there is no such module."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    if module != LIBRARY and path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None

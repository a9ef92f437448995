"""What a module imports, read from the source: shared by the tests of the architecture and of the DVC graph."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cmb_models", "pipelines", "serving")


def module_file(name: str) -> Path | None:
    """The file of a module of this project, by dotted name; None for anything else."""
    path = ROOT.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


@cache
def imports_of(file: Path) -> frozenset[str]:
    """Dotted names a file imports anywhere in it, functions included; `from a import b` gives a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write the whole name"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def project_imports(file: Path) -> set[Path]:
    """Files of this project that `file` imports directly."""
    found = {module_file(name) for name in imports_of(file) if name.split(".")[0] in PACKAGES}
    return {f for f in found if f is not None and f.stat().st_size > 0}


def closure(file: Path, leave_out: tuple[str, ...] = ()) -> set[Path]:
    """All files of this project that `file` needs, itself included, but for those below the folders `leave_out`."""
    seen: set[Path] = set()
    todo = [file]
    while todo:
        current = todo.pop()
        if current in seen or any(current.is_relative_to(ROOT / folder) for folder in leave_out):
            continue
        seen.add(current)
        todo += project_imports(current)
    return seen

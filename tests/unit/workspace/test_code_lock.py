"""A change of the code makes stale what it can change, and nothing else."""

from __future__ import annotations

import shutil

import pytest

from cmb_models.workspace import code_lock
from cmb_models.workspace.code_lock import (
    CodeLock,
    code_change,
    installed_code,
    library_hash,
    read_lock,
    require_locked,
    write_lock,
)
from tests.support.imports import ROOT
from tests.support.refused import refused

# Whose code computes candidates, trains on them or measures their diameters.
USE_CANDIDATES = ("tune_unet", "detect_candidates", "tune_cnn", "cross_validate", "train", "export", "evaluate", "report")


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A copy of the library that a test may change; gives its folder."""
    package = tmp_path / "library/cmb_models"
    shutil.copytree(ROOT / "cmb_models", package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_lock, "PACKAGE", package)
    forget()
    yield package
    forget()


@pytest.fixture
def workspace(tmp_path):
    """The scripts and stages of a new workspace."""
    shutil.copytree(ROOT / "pipelines", tmp_path / "site/pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path / "site")
    return tmp_path / "site"


def forget() -> None:
    code_lock._parsed.cache_clear()
    code_lock._data_files.cache_clear()


def stale(workspace, file, old, new) -> tuple[str, ...]:
    """The stages that a replacement in a file makes stale."""
    before, text = installed_code(workspace), file.read_text(encoding="utf-8")
    assert old in text, f"{file} has no {old!r}"
    file.write_text(text.replace(old, new), encoding="utf-8")
    forget()
    return code_change(before, installed_code(workspace)).stages


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("detect/candidates.py", '"""Peaks of a heatmap.', '"""Local maxima.'),
        ("detect/candidates.py", "# A network that is unsure everywhere", "# An unsure network"),
        ("detect/validation.py", "raise InputError(", "raise InputError('more', "),
        ("training/loop.py", "log.warning(", "log.warning('and ' + "),
        ("volume.py", "from __future__ import annotations\n", "from __future__ import annotations\n\n# nothing\n"),
        ("errors.py", "class InputError", "class Unused: ...\n\n\nclass InputError"),
        ("__init__.py", '__version__ = "', '__version__ = "9.'),
        ("cli/detect.py", "def ", "def _unused() -> None: ...\n\n\ndef "),
    ],
    ids=["docstring", "comment", "message", "log", "module comment", "errors", "version", "command line"],
)
def test_what_changes_no_result_makes_no_stage_stale(library, workspace, name, old, new):
    assert stale(workspace, library / name, old, new) == ()


def test_a_message_made_in_steps_makes_no_stage_stale(library, workspace):
    file = library / "detect/checks.py"
    old = "def check_scan("
    text = file.read_text(encoding="utf-8")
    body = 'def _odd(size: int) -> None:\n    if size > 3:\n        remedy = "{}"\n        got, n = f"{{size}} {}", 2\n'
    body += '        raise InputError("scan", "less", got, remedy + str(n))\n\n\n'
    file.write_text(text.replace(old, body.format("one", "two") + old, 1), encoding="utf-8")
    forget()
    assert stale(workspace, file, 'remedy = "one"', 'remedy = "other"') == ()
    assert stale(workspace, file, "{size} two", "{size} voxels") == ()
    assert "ingest" in stale(workspace, file, "if size > 3", "if size > 4")


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("detect/candidates.py", "FIRST_LOOK = 20_000", "FIRST_LOOK = 20_001", USE_CANDIDATES),
        ("dataset/split.py", "def split_subjects(", "EXTRA = 1\n\n\ndef split_subjects(", ("split",)),
        ("report/templates/style.css.j2", "{", "{ ", ("report",)),
        ("report/wording.py", "def percent(", "EXTRA = 1\n\n\ndef percent(", ("report",)),
        ("runtime/cpu.py", "def open_onnx(", "EXTRA = 1\n\n\ndef open_onnx(", ("export", "evaluate", "report")),
    ],
    ids=["candidates", "split", "template", "wording", "runtime"],
)
def test_what_changes_a_result_makes_stale_the_stages_that_use_it(library, workspace, name, old, new, expected):
    assert stale(workspace, library / name, old, new) == expected


def test_a_stage_refuses_code_that_the_lock_does_not_describe(library, workspace):
    write_lock(workspace)
    require_locked(workspace, "split")
    file = library / "dataset/split.py"
    file.write_text(file.read_text(encoding="utf-8") + "\n\nEXTRA = 1\n", encoding="utf-8")
    forget()
    with refused("code-changed"):
        require_locked(workspace, "split")
    require_locked(workspace, "calibrate")
    write_lock(workspace)
    require_locked(workspace, "split")


def test_a_script_without_a_stage_of_its_name_is_refused(workspace):
    write_lock(workspace)
    (workspace / "pipelines/split.py").rename(workspace / "pipelines/folds.py")
    with refused("code-changed", case="folds", got=r"pipelines/folds\.py"):
        require_locked(workspace, "folds")


def test_a_script_with_a_byte_order_mark_is_read(workspace):
    """Windows editors write one."""
    file = workspace / "pipelines/split.py"
    before = installed_code(workspace)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert not code_change(before, installed_code(workspace))


def test_a_changed_script_makes_its_own_stage_stale(workspace):
    file = workspace / "pipelines/split.py"
    assert stale(workspace, file, "def main() -> None:", "EXTRA = 1\n\n\ndef main() -> None:") == ("split",)


def test_the_change_names_modules_and_stages():
    before = CodeLock("1", {"a": "x", "b": "y"}, {"m.a": "1", "m.b": "2", "m.c": "3"})
    after = CodeLock("2", {"a": "x", "b": "z"}, {"m.a": "1", "m.b": "4", "m.d": "5"})
    change = code_change(before, after)
    assert (change.modules, change.stages) == (("m.b", "m.c", "m.d"), ("b",))
    assert change and not code_change(before, before)


@pytest.mark.parametrize("content", ["", "stages: 3", "library: 1\nstages: {}", "{", "\x00"], ids=repr)
def test_a_damaged_lock_is_refused(tmp_path, content):
    (tmp_path / "code.lock").write_text(content)
    with refused("code-lock-damaged"):
        read_lock(tmp_path)


def test_a_hash_of_the_library_follows_imports(library):
    before = library_hash("cmb_models.training.loop"), library_hash("cmb_models.dataset.split")
    file = library / "training/losses.py"
    file.write_text(file.read_text(encoding="utf-8") + "\n\nEXTRA = 1\n", encoding="utf-8")
    forget()
    after = library_hash("cmb_models.training.loop"), library_hash("cmb_models.dataset.split")
    assert before[0] != after[0] and before[1] == after[1]


def test_the_lock_reads_back(workspace):
    assert write_lock(workspace) == read_lock(workspace)
    packages = (workspace / "requirements.lock").read_text().splitlines()
    assert packages == sorted(packages) and any(line.startswith("numpy==") for line in packages)

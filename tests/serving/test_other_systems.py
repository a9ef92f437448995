"""Detection and client need nothing that only Linux has and give the same files without it; training and serving require Linux."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cmb_models.files import exclusive, write_text
from cmb_models.io.nifti import write_volume
from cmb_models.machine import require_linux
from tests.support.bundles import head
from tests.support.imports import ROOT
from tests.support.refused import refused

pytestmark = pytest.mark.serving

RESTRICTED = [sys.executable, "-m", "tests.support.other_system"]
UNRESTRICTED = [sys.executable, "-c", "from cmb_models.cli import main; main()"]


def run(command: list, *arguments, cwd) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True)


def outputs(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("where", ["bundle", "server"])
def test_detection_writes_the_same_files(served, tmp_path, where):
    write_volume(tmp_path / "scan.nii.gz", head())
    place = ["--bundle", served.bundle] if where == "bundle" else ["--server", served.server.grpc_url]
    results = []
    for command, out in ((UNRESTRICTED, "here"), (RESTRICTED, "there")):
        done = run(command, "detect", "scan.nii.gz", *place, "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        results.append(outputs(tmp_path / out))
    assert results[0] == results[1] and len(results[0]["detections.csv"].splitlines()) == 4  # the head's three spots


def test_results_replace_earlier_ones(served, tmp_path):
    write_volume(tmp_path / "scan.nii.gz", head())
    for _ in range(2):
        done = run(RESTRICTED, "detect", "scan.nii.gz", "--bundle", served.bundle, "--out", "out", cwd=tmp_path)
        assert done.returncode == 0, done.stderr


CODE = """
from tests.support.other_system import restrict
restrict()
from pathlib import Path
from cmb_models.client.log_lines import LineLog
from cmb_models.files import atomic_directory
log = LineLog(Path("log.jsonl"), max_bytes=100)
for n in range(5):
    log.append({"n": n, "text": "x" * 40})
for text in ("one", "two"):
    with atomic_directory(Path("folder")) as folder:
        (folder / "file").write_text(text)
print(sorted(p.name for p in Path(".").iterdir()), Path("folder/file").read_text())
"""


def test_logs_turn_over_and_folders_are_replaced(tmp_path):
    done = run([sys.executable, "-c", CODE], cwd=tmp_path)
    assert done.stdout.strip() == "['folder', 'log.jsonl', 'log.jsonl.1', 'log.jsonl.2', 'log.jsonl.3', 'log.jsonl.4'] two", (
        done.stderr
    )


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("os.sched_getaffinity(0)", "AttributeError"),
        ("import fcntl", "ModuleNotFoundError"),
        ("os.open('.', os.O_RDONLY)", "PermissionError"),
        ("os.fsync(os.open('file', os.O_RDONLY))", "Bad file descriptor"),
    ],
)
def test_the_restriction_takes_effect(tmp_path, line, error):
    """Else the tests above would prove nothing."""
    (tmp_path / "file").touch()
    done = run(
        [sys.executable, "-c", f"from tests.support.other_system import restrict; restrict(); import os\n{line}"], cwd=tmp_path
    )
    assert done.returncode == 1 and error in done.stderr.splitlines()[-1]


def test_what_needs_a_lock_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with refused("system-unsupported"), exclusive(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_training_and_serving_say_that_they_need_linux(tmp_path, monkeypatch, system):
    from cmb_models.serving.run.triton_process import running_server
    from cmb_models.workspace import stage

    monkeypatch.setattr(sys, "platform", system)
    with refused("system-unsupported", case="training", got=system):
        require_linux("training")
    with pytest.raises(SystemExit, match="2"):
        stage.run(lambda: write_text(tmp_path / "ran", ""))
    with refused("system-unsupported", case="serving", got=system), running_server(tmp_path / "repository"):
        pass
    assert not list(tmp_path.iterdir())

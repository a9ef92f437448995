"""Which Python `make setup` takes, of those that a machine has: stand-ins that give themselves out as another version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.imports import ROOT

SHIM = """
import platform, sys
version, *arguments = sys.argv[1:]
sys.version_info = (*map(int, version.split(".")), 0, "final", 0)
platform.python_version = lambda: version
sys.executable = "/usr/bin/python" + version
if version == "3.12" and "no-venv" in __file__:
    sys.modules["ensurepip"] = None
assert arguments[0] == "-c"
exec(arguments[1])
"""


@pytest.fixture
def machine(tmp_path):
    """Makes a PATH with these interpreters, `python3` among them under the version given for it; runs `make python` with it."""
    for tool in ("make", "bash", "sh", "env"):
        (tmp_path / tool).symlink_to(shutil.which(tool))

    def run(interpreters: dict[str, str], *arguments: str, venv: bool = True) -> subprocess.CompletedProcess:
        shim = tmp_path / ("shim.py" if venv else "no-venv.py")
        shim.write_text(SHIM)
        for name, version in interpreters.items():
            file = tmp_path / name
            file.write_text(f'#!{shutil.which("bash")}\nexec {sys.executable} {shim} {version} "$@"\n')
            file.chmod(0o755)
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "SERVER_PYTHON", "MAKEFLAGS")}
        line = ["make", "-s", "python", *arguments]
        return subprocess.run(line, cwd=ROOT, env=environment | {"PATH": str(tmp_path)}, capture_output=True, text=True)

    return run


CASES = {
    "the newest of three": ({"python3.11": "3.11", "python3.12": "3.12", "python3.13": "3.13"}, "3.13", "3.12"),
    "Ubuntu 24.04": ({"python3": "3.12", "python3.12": "3.12"}, "3.12", None),
    "Debian 13": ({"python3": "3.13", "python3.13": "3.13"}, "3.13", None),
    "Debian 12": ({"python3": "3.11", "python3.11": "3.11"}, "3.11", None),
    "python3 alone": ({"python3": "3.11"}, "3.11", None),
    "a newer one as well": ({"python3": "3.14", "python3.11": "3.11"}, "3.11", None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_newest_is_taken_and_named(machine, case):
    interpreters, chosen, for_the_server = CASES[case]
    lines = machine(interpreters).stdout.splitlines()
    assert lines[0] == f"Python {chosen} at /usr/bin/python{chosen}"
    assert lines[1:] == ([f"for the server: Python {for_the_server} at /usr/bin/python{for_the_server}"] if for_the_server else [])


def test_one_without_its_venv_module_is_passed_over(machine):
    """As on Debian and Ubuntu without python3-venv."""
    assert machine({"python3.12": "3.12", "python3.11": "3.11"}, venv=False).stdout.startswith("Python 3.11 at")


@pytest.mark.parametrize("interpreters", [{}, {"python3": "3.10"}, {"python3": "3.14"}], ids=str)
def test_none_is_refused_in_a_sentence(machine, interpreters):
    done = machine(interpreters)
    assert done.returncode == 2 and "expected Python 3.11, 3.12 or 3.13 with its venv module, found none" in done.stderr


def test_the_users_own_is_taken(machine, tmp_path):
    machine({"python3.13": "3.13", "other": "3.12"})
    done = machine({}, f"PYTHON={tmp_path / 'other'}")
    assert done.stdout == "Python 3.12 at /usr/bin/python3.12\n"


def test_the_users_own_is_refused_when_it_does_not_fit(machine, tmp_path):
    machine({"other": "3.10"})
    for python in (tmp_path / "other", tmp_path / "none"):
        done = machine({}, f"PYTHON={python}")
        assert done.returncode == 2 and f"PYTHON={python}: expected Python 3.11, 3.12 or 3.13" in done.stderr


def test_locks_are_exact():
    """One lock for all versions: each line one package at one version, so that machines with the same lock have the same code."""
    for lock in ("requirements.lock", "serving/requirements.txt"):
        lines = [line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#")]
        assert lines and all(line.count("==") == 1 for line in lines), lock
    assert "setuptools==" in (ROOT / "requirements.lock").read_text()  # venvs of Python 3.12 and later bring none to build with

"""The `cmb` command as a whole: its groups, what all commands share, and errors as data."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer

from cmb_models import __version__
from cmb_models.cli import build_app
from tests.support.command_line import cmb

GROUPS = {
    "": {"init", "import", "check", "data", "lock", "detect", "compare-scans", "cohort", "simulate", "release", "server", "keys"},
    "release": {"register", "list", "show", "compare", "promote", "rollback", "challenge", "repair", "history", "verify"}
    | {"merge", "export", "lineage", "reproduce"},
    "server": {"run", "deploy", "status", "check", "export", "shadow-report"},
    "keys": {"create"},
    "data": {"diff", "withdraw"},
}


def run(*arguments: str, cwd=None) -> subprocess.CompletedProcess:
    code = "from cmb_models.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_has_its_commands_and_each_command_its_help(group):
    command = typer.main.get_command(build_app())
    if group:
        command = command.commands[group]
    assert set(command.commands) == GROUPS[group]
    for name, one in command.commands.items():
        assert one.help, f"cmb {group} {name} has no help"


def test_version():
    assert cmb("--version").output.strip() == f"cmb-models {__version__}"


def test_an_unknown_log_level_is_refused():
    done = cmb("--log-level", "loud", "init", "--help")
    assert done.exit_code == 2 and "loud" in done.output


def test_an_error_is_one_line_and_with_json_its_code_and_parts(tmp_path):
    done = run("lock", "nowhere", "--json", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.startswith("error: nowhere: expected")
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "workspace-missing" and set(error) == {"code", "case", "expected", "got", "remedy"}
    assert run("lock", "nowhere", cwd=tmp_path).stdout == ""


def test_a_missing_mlflow_is_an_error_with_the_extra(tmp_path):
    """In an interpreter of its own, since mlflow may have been imported before."""
    assert cmb("init", str(tmp_path / "site")).exit_code == 0
    for command in (["release", "list"], ["server", "status", "--server", "localhost:1"]):
        code = "import sys; sys.modules['mlflow'] = None; from cmb_models.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "--json"], cwd=tmp_path / "site", text=True, capture_output=True
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        error = json.loads(done.stdout)["error"]
        assert (error["code"], error["got"]) == ("package-missing", "no mlflow") and "cmb-models[train]" in error["remedy"]


def test_a_workspace_is_created_and_upgraded(tmp_path):
    created = cmb("init", str(tmp_path / "site"))
    assert created.exit_code == 0 and "dvc repro" in created.output, created.output
    assert "the same as before" in cmb("lock", str(tmp_path / "site")).output
    lock = tmp_path / "site/code.lock"
    lock.write_text(lock.read_text().replace("  split: ", "  split: 0"))
    done = json.loads(cmb("lock", str(tmp_path / "site"), "--json").output)
    assert done["stages"] == ["split"] and done["before"] == __version__

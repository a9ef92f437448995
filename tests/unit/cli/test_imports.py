"""Commands that read the audit log alone do not import MLflow, which takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.registry_speed import make_workspace
from tests.support.imports import ROOT

HEAVY = ("mlflow", "torch", "monai", "sqlalchemy", "matplotlib", "dvc")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("speed")
        make_workspace(folder, 3)
        return folder


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("release history", "benchmark"),
        ("release history --at 2020-01-01", "nothing had been promoted"),
    ],
)
def test_it_is_not_imported(workspace, command, said):
    code = (
        "import sys; from cmb_models.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('imported', [m for m in " + repr(HEAVY) + " if m in sys.modules])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], cwd=workspace, env=environment, capture_output=True, text=True, check=False
    )
    assert said in done.stdout, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"

"""What every stage does before its own work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.imports import ROOT

COUNT = """
import numpy, torch
from cmb_models.workspace import stage
from threadpoolctl import threadpool_info
stage.run(lambda: print(torch.get_num_threads(), max(pool["num_threads"] for pool in threadpool_info())))
"""


def run(code: str, **variables: str) -> subprocess.CompletedProcess:
    unset = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CMB_CORES")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | variables
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMP_NUM_THREADS": "8", "OPENBLAS_NUM_THREADS": "8", "CMB_CORES": "1"}, "1 1"),
        ({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, "1 1"),  # what the user has lowered is not raised
        ({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "8", "CMB_CORES": "2"}, "1 2"),
    ],
    ids=["limited", "left", "one of them limited"],
)
def test_threads_are_no_more_than_cores(variables, expected):
    done = run(COUNT, **variables)
    assert done.stdout.split() == expected.split(), done.stderr


@pytest.mark.parametrize(("name", "value"), [("CMB_CORES", "0"), ("CMB_CORES", "two")])
def test_an_impossible_setting_ends_the_stage_in_one_line(name, value):
    done = run(COUNT, **{name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == (
        f"error: ${name}: expected a whole number of cores, 1 or more, got '{value}'; unset it to use all there are"
    )


def test_an_unknown_log_level_ends_the_stage_in_one_line():
    done = run(COUNT, CMB_LOG="loud")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == (
        "error: $CMB_LOG: expected one of debug, info, warning, error, got 'loud'; correct it, or unset it for warning"
    )
    assert run(COUNT, CMB_LOG="Info").returncode == 0


def test_a_stage_that_is_stopped_by_ctrl_c_shows_no_traceback():
    code = "import os, signal\nfrom cmb_models.workspace import stage\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    done = run(code + "stage.run(lambda: os.kill(os.getpid(), signal.SIGINT) or signal.pause())")
    assert (done.returncode, done.stderr) == (130, "stopped; `dvc repro` resumes\n")


def test_each_test_worker_has_its_share_of_the_cores():
    """Also where the process that started the workers has set more."""
    workers, available = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), len(os.sched_getaffinity(0))
    for variable in ("CMB_CORES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        assert 1 <= int(os.environ[variable]) <= max(1, available // workers), variable

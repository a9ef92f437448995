"""The GPU check: packages of its kit, deadlines of its parts, estimates of its full run."""

from __future__ import annotations

import time

import pytest

from benchmarks.gpu_check import run_part
from benchmarks.gpu_full_run import estimate, fitting_share, planned_steps, settings
from scripts.gpu_kit import LIST, OF_THE_SERVER, is_used
from tests.support.imports import ROOT


def pins(file: str) -> set[str]:
    return {line for line in (ROOT / file).read_text().splitlines() if "==" in line and not line.startswith("#")}


def test_the_kit_has_the_versions_of_the_locks():
    packed = set(LIST.read_text().splitlines())
    server = {line for line in packed if line.split("==")[0] in OF_THE_SERVER}
    assert len(server) == len(OF_THE_SERVER) and server <= pins("serving/requirements.txt")
    assert {line for line in packed - server if not line.startswith("#")} <= pins("requirements.lock")


@pytest.mark.parametrize(
    ("path", "package", "used"),
    [
        ("pytriton/tritonserver/python_backend_stubs/3.12/triton_python_backend_stub", "nvidia-pytriton", True),
        ("pytriton/tritonserver/python_backend_stubs/3.1/triton_python_backend_stub", "nvidia-pytriton", False),
        ("pytriton/decorators.py", "nvidia-pytriton", False),
        ("nvidia_pytriton.libs/libpython3-419a3a08.13.so.1.0", "nvidia-pytriton", False),
        ("nilearn/datasets/data/mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz", "nilearn", True),
        ("nilearn/plotting/__init__.py", "nilearn", False),
        ("numpy/core/tests/test_multiarray.py", "numpy", False),
        ("numpy/testing/__init__.py", "numpy", True),
    ],
)
def test_what_is_packed_of_a_wheel(path, package, used):
    assert is_used(path, package, "3.12") is used


def test_a_part_that_is_stopped_keeps_what_it_measured():
    row = {}

    def part(row):
        row["first"] = 1
        time.sleep(30)

    run_part("part", part, row, 0.2)
    assert row["first"] == 1 and row["stopped_after_s"] == 0.2 and row["seconds"] < 10


def test_a_part_that_fails_says_why():
    row = {}
    run_part("part", lambda row: 1 / 0, row, 5)
    assert row["error"] == "ZeroDivisionError: division by zero"


def test_a_stage_that_was_cut_off_is_extrapolated():
    assert estimate(True, 12.0, {}) == 12
    # 10 of 50 trials in 60 s; the steps would say 30 s, since trials are pruned.
    assert estimate(False, 60.0, {"trials": 10, "of_trials": 50, "steps": 400, "of_steps": 200}) == 300
    assert estimate(False, 60.0, {"trials": 0, "of_trials": 50, "steps": 100, "of_steps": 400}) == 240
    assert estimate(False, 60.0, {"steps": 0, "of_steps": 400}) is None


def test_a_training_takes_the_steps_for_which_there_is_time():
    # 100 steps/s by ten processes, so 50 by five.
    searched, steps = {"tune_unet": {"steps": 6000, "seconds": 60.0}}, planned_steps(settings(1.0), "detect_candidates")
    half_s = steps / 2 / 50
    assert fitting_share("detect_candidates", searched, half_s, 1.0) == pytest.approx(0.7 / 2)
    assert fitting_share("detect_candidates", searched, 10_000, 1.0) == 1
    assert fitting_share("detect_candidates", {}, 1, 1.0) == fitting_share("preprocess", searched, 1, 1.0) == 1

"""On an older processor the same is trained in float32 and the same found: oneDNN is limited to what such a processor has.

ONEDNN_MAX_CPU_ISA limits the convolutions of torch, in training and detection. Each run is a process of its own, since oneDNN reads
the variable once.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cmb_models.training.precision import VARIABLE
from tests.support.answer_times import write_networks
from tests.support.imports import ROOT

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instruction sets of x86 processors")
OLDER = ("AVX2", "SSE41")
# The tolerances that docs/explanation/hardware.md states.
MAX_SCORE = 1e-4
MAX_WEIGHTS = 1e-4


def run(**variables: str) -> dict:
    environment = {k: v for k, v in os.environ.items() if k not in (VARIABLE, "ONEDNN_MAX_CPU_ISA")} | variables
    line = [sys.executable, "-m", "tests.support.processor_run"]
    done = subprocess.run(line, cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def default() -> dict:
    """This processor, with all that it has, in float32."""
    return run(**{VARIABLE: "float32"})


@pytest.mark.parametrize("instructions", OLDER)
def test_an_older_processor_trains_in_float32_and_finds_the_same(default, instructions):
    older = run(ONEDNN_MAX_CPU_ISA=instructions)
    assert older["precision"] == "float32"
    weights, expected = np.array(older["weights"]), np.array(default["weights"])
    assert np.sqrt(np.mean((weights - expected) ** 2)) < MAX_WEIGHTS * np.sqrt(np.mean(expected**2))
    np.testing.assert_allclose(older["heatmap"], default["heatmap"], atol=MAX_SCORE)
    got, wanted = np.array(older["detections"]), np.array(default["detections"])
    assert got.shape == wanted.shape and len(got) > 3
    np.testing.assert_array_equal(got[:, :3], wanted[:, :3])  # places
    np.testing.assert_allclose(got[:, 3:], wanted[:, 3:], atol=MAX_SCORE)  # scores


MAX_SLOWER = 10  # an answer without AVX-512 took 80 times as long while a test's network had one large filter of one channel


@pytest.fixture(scope="module")
def without_avx512(tmp_path_factory) -> Path:
    """A library that hides AVX-512 from all that it is preloaded into; skips where that cannot be done or there is none to hide."""
    library = tmp_path_factory.mktemp("mask") / "cpuid_mask.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    line = [compiler, "-O1", "-shared", "-fPIC", "-o", library, ROOT / "tests/support/cpuid_mask.c", "-ldl"]
    if subprocess.run(line).returncode:
        pytest.skip("the C compiler has no system headers")
    ask = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    seen = []
    for more in ({}, {"LD_PRELOAD": str(library)}):
        done = subprocess.run([sys.executable, "-c", ask], env=os.environ | more, capture_output=True, text=True)
        seen.append(done.stdout.strip())
    if seen != ["AVX512", "AVX2"]:
        pytest.skip(f"this processor's instructions cannot be hidden: {seen[0]} without the mask, {seen[1] or 'a crash'} with it")
    return library


def test_an_answer_without_avx512_is_the_same_and_not_much_slower(without_avx512, tmp_path):
    """All libraries are limited here, OpenVINO's and NumPy's kernels too."""
    write_networks(tmp_path)
    line = [sys.executable, "-m", "tests.support.answer_times", tmp_path]
    found = []
    for more in ({}, {"LD_PRELOAD": str(without_avx512)}):
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | more
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    new, old = found
    assert (new["avx512"], old["avx512"]) == (True, False)
    for name in ("heatmap", "scores"):
        np.testing.assert_allclose(old[name], new[name], atol=MAX_SCORE)
    np.testing.assert_allclose(old["detections"], new["detections"], atol=MAX_SCORE)
    slower = {name: old[name] / new[name] for name in ("bundle_s", "unet_s", "cnn_s")}
    assert max(slower.values()) < MAX_SLOWER, slower


SIMULATE = """
import sys, numpy as np
from cmb_models.phantom.presets import draw_config
from cmb_models.phantom.scan import simulate_subject
[scan] = simulate_subject(7, [2], draw_config("small", np.random.default_rng(1)))
np.savez(sys.argv[1], swi=scan.swi.data, places=[a.centre_mm for a in scan.annotations])
"""
AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"


def test_a_seed_gives_the_same_scan_up_to_one_grey_value(tmp_path):
    older = {"NPY_DISABLE_CPU_FEATURES": AVX512, "OPENBLAS_CORETYPE": "Haswell"}
    scans = {}
    for name, more in {"all": {}, "older": older}.items():
        line = [sys.executable, "-W", "ignore", "-c", SIMULATE, tmp_path / f"{name}.npz"]
        subprocess.run(line, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)} | more, check=True)
        scans[name] = dict(np.load(tmp_path / f"{name}.npz"))
    one, other = (np.rint(scans[name]["swi"]) for name in scans)
    assert np.abs(one - other).max() <= 1 and (one != other).mean() < 1e-3
    np.testing.assert_allclose(scans["all"]["places"], scans["older"]["places"], atol=1e-5)  # mm
    assert len(scans["all"]["places"]) > 2  # microbleeds and mimics


def test_bfloat16_is_chosen_only_where_it_is_native():
    line = "from cmb_models.training.precision import *; print(choose_precision(torch.device('cpu')).precision)"
    environment = {k: v for k, v in os.environ.items() if k not in (VARIABLE, "ONEDNN_MAX_CPU_ISA")}
    found = {}
    for name, more in {"all": {}, **{isa: {"ONEDNN_MAX_CPU_ISA": isa} for isa in OLDER}}.items():
        done = subprocess.run([sys.executable, "-c", line], env=environment | more, capture_output=True, text=True, check=True)
        found[name] = done.stdout.strip()
    assert all(found[name] == "float32" for name in OLDER)
    assert found["all"] == ("bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32")

"""Which number format trainings compute in: by the instructions of the processor, or as the user says."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from cmb_models.training import precision
from cmb_models.training.checkpoint import open_checkpoint
from cmb_models.training.precision import BFLOAT16, FLOAT32, VARIABLE, Choice, autocast, choose_precision
from cmb_models.training.validation.workers import Workers
from tests.support.refused import refused

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    """As in a new process, whatever the environment of the tests says."""
    monkeypatch.setattr(precision, "_chosen", {})
    monkeypatch.setattr(precision, "_adopted", {})
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize(("native", "expected"), [(True, BFLOAT16), (False, FLOAT32)])
def test_the_processors_instructions_decide_and_it_is_logged_once(monkeypatch, caplog, native, expected):
    monkeypatch.setattr(precision, "native_bfloat16", lambda: native)
    with caplog.at_level(logging.INFO, precision.__name__):
        assert choose_precision(CPU) is choose_precision(CPU)
    [record] = caplog.records
    has = "bfloat16" if native else "no bfloat16"
    assert record.getMessage() == f"training on cpu in {expected}: the processor has {has} instructions that this library uses"


@pytest.mark.parametrize("has_instructions", [True, False])
@pytest.mark.parametrize(
    ("limit", "allowed"), [("", True), ("AVX512_CORE_BF16", True), ("DEFAULT", True), ("AVX512_CORE_VNNI", False), ("avx2", False)]
)
def test_the_limit_of_onednn_counts_as_the_processors(monkeypatch, has_instructions, limit, allowed):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert precision.native_bfloat16() is (has_instructions and allowed)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("setting", [FLOAT32, BFLOAT16])
def test_the_override_wins_and_bfloat16_without_instructions_is_a_warning(monkeypatch, caplog, setting, native):
    monkeypatch.setattr(precision, "native_bfloat16", lambda: native)
    monkeypatch.setenv(VARIABLE, setting)
    for _ in range(2):
        assert choose_precision(CPU) == Choice(setting, f"set by ${VARIABLE}")
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == (setting == BFLOAT16 and not native)
    assert all("has no bfloat16 instructions that this library uses" in message for message in warnings)


def test_a_changed_override_counts_at_once_and_an_adopted_choice_stays(monkeypatch):
    for setting in (FLOAT32, BFLOAT16, FLOAT32):
        monkeypatch.setenv(VARIABLE, setting)
        assert choose_precision(CPU).precision == setting
    precision.adopt_precision(CPU, Choice(BFLOAT16, "as the test says"))
    assert choose_precision(CPU).precision == BFLOAT16 and precision.own_precision(CPU).precision == FLOAT32


@pytest.mark.parametrize("setting", ["float16", "bf16", "fast"])
def test_an_unknown_setting_is_refused_by_name(monkeypatch, setting):
    monkeypatch.setenv(VARIABLE, setting)
    with refused("setting-invalid", case="CMB_PRECISION", got=setting):
        choose_precision(CPU)


@pytest.mark.parametrize(("native", "expected"), [(True, BFLOAT16), (False, FLOAT32)])
def test_a_cuda_device_is_asked(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert choose_precision(CUDA).precision == expected


@pytest.mark.parametrize("setting", [FLOAT32, BFLOAT16])
def test_networks_compute_in_what_was_chosen(monkeypatch, setting):
    monkeypatch.setenv(VARIABLE, setting)
    with autocast(CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert str(product.dtype) == f"torch.{setting}"


def chosen_by_a_worker(_job: int) -> str:
    return choose_precision(CPU).precision


@pytest.mark.parametrize("setting", [FLOAT32, BFLOAT16])
def test_worker_processes_take_over_the_choice(monkeypatch, setting):
    precision.adopt_precision(CPU, Choice(setting, "as the test says"))
    with Workers(2, unet=False) as workers:
        assert isinstance(workers._pool, ProcessPoolExecutor)
        assert workers.map(chosen_by_a_worker, [0, 1], 0, "test") == [setting, setting]


def test_a_checkpoint_of_the_other_precision_is_another_file(tmp_path):
    names = set()
    for setting in (FLOAT32, BFLOAT16):
        precision.adopt_precision(CPU, Choice(setting, ""))
        names.add(open_checkpoint(tmp_path, "unet", SimpleNamespace(seed=1)).path.name)
    assert len(names) == 2

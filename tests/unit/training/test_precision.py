"""Which number format trainings compute in: by the processor, by a timing where that is not enough, or as the user says."""

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
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def processor(monkeypatch):
    """Sets whether oneDNN has bfloat16 and how much faster a step is in it; records how often that is measured."""
    measured = []

    def set_to(native: bool, speedup: float = 1.0) -> list:
        monkeypatch.setattr(precision, "native_bfloat16", lambda: native)
        monkeypatch.setattr(precision, "bfloat16_speedup", lambda *args, **kwargs: measured.append(kwargs) or speedup)
        return measured

    return set_to


def test_an_emulated_format_is_never_chosen_and_costs_no_measurement(processor):
    measured = processor(native=False)
    assert choose_precision(CPU).precision == FLOAT32 and not measured


@pytest.mark.parametrize(("speedup", "expected"), [(1.6, BFLOAT16), (1.06, BFLOAT16), (1.04, FLOAT32), (0.4, FLOAT32)])
def test_where_it_is_native_the_faster_one_is_chosen(processor, speedup, expected):
    processor(native=True, speedup=speedup)
    assert choose_precision(CPU).precision == expected


def test_it_is_decided_and_logged_once(processor, caplog):
    measured = processor(native=True, speedup=1.5)
    with caplog.at_level(logging.INFO, precision.__name__):
        assert choose_precision(CPU) is choose_precision(CPU)
    assert len(measured) == 1 and [r.getMessage() for r in caplog.records] == [
        "training on cpu in bfloat16: a step in bfloat16 is 1.50 times as fast as in float32"
    ]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("setting", [FLOAT32, BFLOAT16])
def test_the_override_wins(processor, monkeypatch, setting, native):
    processor(native, speedup=1.5 if setting == FLOAT32 else 0.5)
    monkeypatch.setenv(VARIABLE, setting)
    assert choose_precision(CPU) == Choice(setting, f"set by ${VARIABLE}")


@pytest.mark.parametrize(("speedup", "warnings"), [(0.04, ["25.0 times as long"]), (1.2, [])])
def test_an_override_that_is_slower_is_warned_of_with_the_ratio(processor, monkeypatch, caplog, speedup, warnings):
    processor(native=False, speedup=speedup)
    monkeypatch.setenv(VARIABLE, BFLOAT16)
    for _ in range(2):
        choose_precision(CPU)
    got = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(got) == len(warnings) and all(words in message for words, message in zip(warnings, got, strict=True))


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


def test_the_speedup_is_that_of_the_processors_own_time():
    """Of two real steps, whatever they take: both were run, and nothing of the caller's is changed."""
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert 0 < precision.bfloat16_speedup(batch=2, steps=1) < 100
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


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

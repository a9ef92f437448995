"""The number format that trainings compute in: bfloat16 where the processor has it and gains by it, else float32.

oneDNN emulates bfloat16 on processors without it: a training step then takes more than ten times as long as in float32 (figures in
docs/explanation/hardware.md). Processors that have some of its instructions may still be slower with it, so where torch
reports support both are timed on a real step. Weights, optimizer and averages are float32 in either case.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from cmb_models.errors import InputError
from cmb_models.networks.cnn import PatchClassifier

log = logging.getLogger(__name__)

VARIABLE = "CMB_PRECISION"
FLOAT32, BFLOAT16 = "float32", "bfloat16"
SETTINGS = ("auto", FLOAT32, BFLOAT16)
# bfloat16 must be faster by this factor: float32 gives the same weights on more processors.
MIN_SPEEDUP = 1.05
# Of the timed step: the classifier's, which needs no import of MONAI, as the candidate network does.
CHANNELS, PATCH_VOX, BATCH = (8, 16, 32), (20, 20, 10), 16
# The first step of each format compiles oneDNN's kernels and is not counted.
TIMED_STEPS = 5


@dataclass(frozen=True)
class Choice:
    """A number format and why it was taken, as one clause for the log."""

    precision: str
    reason: str


_chosen: dict[str, Choice] = {}


def best_device() -> torch.device:
    """The CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(device: torch.device) -> Choice:
    """Decide once per process and device type; the same choice is returned, and nothing logged, from then on.

    Args:
        device: where the training runs.

    Returns:
        The override of $CMB_PRECISION if it is set (`float32`, `bfloat16`), else the faster format of this processor.

    Raises:
        InputError: $CMB_PRECISION is something else.
    """
    if device.type not in _chosen:
        adopt_precision(device, _decide(device))
        log.info("training on %s in %s: %s", device.type, _chosen[device.type].precision, _chosen[device.type].reason)
    return _chosen[device.type]


def adopt_precision(device: torch.device, choice: Choice) -> None:
    """Take over a decision, as worker processes do from the process that started them."""
    _chosen[device.type] = choice


def autocast(device: torch.device) -> torch.autocast:
    """A context in which networks compute in the chosen format."""
    return torch.autocast(device.type, torch.bfloat16, enabled=choose_precision(device).precision == BFLOAT16)


def describe_compute(device: torch.device) -> dict[str, str]:
    """What a release's lineage keeps of the hardware that trained it: device, instruction set of the CPU kernels, precision."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"device": device.type, "processor": name, "precision": choose_precision(device).precision}


def _decide(device: torch.device) -> Choice:
    setting = os.environ.get(VARIABLE, "auto") or "auto"
    if setting not in SETTINGS:
        raise InputError(
            "setting-invalid",
            f"${VARIABLE}",
            f"one of {', '.join(SETTINGS)}",
            repr(setting),
            "unset it to have the faster one chosen",
        )
    if device.type == "cuda":
        # CUDA devices before Ampere only emulate it, slower than float32.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        automatic = Choice(BFLOAT16 if native else FLOAT32, f"the device {'has' if native else 'only emulates'} bfloat16")
        return automatic if setting == "auto" else Choice(setting, f"set by ${VARIABLE}")
    return _decide_on_cpu(setting)


def _decide_on_cpu(setting: str) -> Choice:
    """As `_decide`, on the CPU; a bfloat16 that is slower than float32 is allowed, with a warning."""
    native = native_bfloat16()
    if setting == FLOAT32:
        return Choice(FLOAT32, f"set by ${VARIABLE}")
    if setting == "auto" and not native:
        return Choice(FLOAT32, "the processor has no bfloat16 instructions that oneDNN uses")
    # An emulated step takes seconds: one, of a quarter of the batch, is enough for a warning.
    speedup = bfloat16_speedup() if native else bfloat16_speedup(batch=BATCH // 4, steps=1)
    if setting == BFLOAT16:
        if speedup < 1:
            slower = f"{1 / speedup:.1f} times as long as in float32 on this processor"
            log.warning("$%s=bfloat16: a training step takes %s; unset it to train in float32", VARIABLE, slower)
        return Choice(BFLOAT16, f"set by ${VARIABLE}")
    measured = f"a step in bfloat16 is {speedup:.2f} times as fast as in float32"
    return Choice(BFLOAT16 if speedup >= MIN_SPEEDUP else FLOAT32, measured)


def native_bfloat16() -> bool:
    """Whether oneDNN reports bfloat16 kernels for this processor, with $ONEDNN_MAX_CPU_ISA taken into account.

    True does not mean that they are fast: with AVX-512 alone they convert to float32 and back.
    """
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bfloat16_speedup(batch: int = BATCH, steps: int = TIMED_STEPS) -> float:
    """Time of a float32 training step of the classifier over that of a bfloat16 one, on one thread, the least of `steps` each.

    One thread, as trainings run one per core. This thread's own time is measured, and the formats take turns, so that other load on
    the machine does not decide. Leaves torch's thread count and random state as they were.
    """
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        torch.set_num_threads(1)
        run = {precision: _step(batch, precision) for precision in (FLOAT32, BFLOAT16)}
        for step in run.values():
            step()
        seconds: dict[str, list[float]] = {precision: [] for precision in run}
        for _ in range(steps):
            for precision, step in run.items():
                seconds[precision].append(step())
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    return min(seconds[FLOAT32]) / min(seconds[BFLOAT16])


def _step(batch: int, precision: str) -> Callable[[], float]:
    """A training step of the classifier on random patches, which returns its own seconds."""
    # torch's stubs have no `memory_format` for modules.
    model = PatchClassifier(CHANNELS, 0.0).to(memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    patches = torch.randn(batch, 1, *PATCH_VOX).to(memory_format=torch.channels_last_3d)
    target = torch.zeros(batch)

    def run() -> float:
        began = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == BFLOAT16):
            loss = nn.functional.binary_cross_entropy_with_logits(model(patches).float(), target)
        model.zero_grad()
        loss.backward()
        return time.thread_time() - began

    return run

"""The number format that trainings compute in: bfloat16 where the processor has instructions for it, else float32.

Decided by instructions rather than by a timing, so that other load on the machine never changes it: one seed gives one set of
weights on one processor, and a killed training continues from its checkpoint. A training step in bfloat16 is faster where there are
bfloat16 dot products (AVX512_BF16, AMX), takes twice as long where oneDNN converts to float32 and back (other AVX-512), and more
than ten times as long on AVX2 (figures in docs/explanation/hardware.md). Processors other than x86 train in float32: their
bfloat16 instructions were not measured. Weights, optimizer and averages are float32 either way.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import torch

from cmb_models.errors import InputError

log = logging.getLogger(__name__)

VARIABLE = "CMB_PRECISION"
FLOAT32, BFLOAT16 = "float32", "bfloat16"
SETTINGS = ("auto", FLOAT32, BFLOAT16)
# Values of $ONEDNN_MAX_CPU_ISA that leave oneDNN no bfloat16 dot products (oneDNN's page "CPU Dispatcher Control").
WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


@dataclass(frozen=True)
class Choice:
    """A number format and why it was taken, as one clause for the log."""

    precision: str
    reason: str


_chosen: dict[tuple[str, str], Choice] = {}  # by type of device and $CMB_PRECISION, so that a change of the variable counts
_adopted: dict[str, Choice] = {}  # by type of device


def best_device() -> torch.device:
    """The CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(device: torch.device) -> Choice:
    """The number format of this process's trainings. The log has one line for each choice.

    Args:
        device: where the training runs.

    Returns:
        The choice that was adopted, if one was; else the process's own, as `own_precision`.

    Raises:
        InputError: $CMB_PRECISION is neither `float32`, `bfloat16`, `auto` nor empty.
    """
    return _adopted.get(device.type) or own_precision(device)


def own_precision(device: torch.device) -> Choice:
    """The override of $CMB_PRECISION if it is set, else bfloat16 where the device computes in it; whatever was adopted.

    Raises InputError as `choose_precision`.
    """
    key = (device.type, os.environ.get(VARIABLE, "auto") or "auto")
    if key not in _chosen:
        _chosen[key] = _decide(device, key[1])
        log.info("training on %s in %s: %s", device.type, _chosen[key].precision, _chosen[key].reason)
    return _chosen[key]


def adopt_precision(device: torch.device, choice: Choice) -> None:
    """Take over a decision, whatever $CMB_PRECISION says, as worker processes do from the process that started them."""
    _adopted[device.type] = choice


def autocast(device: torch.device) -> torch.autocast:
    """A context in which networks compute in the chosen format."""
    return torch.autocast(device.type, torch.bfloat16, enabled=choose_precision(device).precision == BFLOAT16)


def describe_compute(device: torch.device) -> dict[str, str]:
    """What a release's lineage keeps of the hardware that trained it: device, instruction set of the CPU kernels, precision."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"device": device.type, "processor": name, "precision": choose_precision(device).precision}


def _decide(device: torch.device, setting: str) -> Choice:
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
    """As `_decide`, on the CPU; bfloat16 without its instructions is allowed, with a warning."""
    native = native_bfloat16()
    if setting == "auto":
        reason = f"the processor has {'bfloat16' if native else 'no bfloat16'} instructions that this library uses"
        return Choice(BFLOAT16 if native else FLOAT32, reason)
    if setting == BFLOAT16 and not native:
        text = "$%s=bfloat16: this processor has no bfloat16 instructions that this library uses; unset it to train in float32"
        log.warning(text, VARIABLE)
    return Choice(setting, f"set by ${VARIABLE}")


def native_bfloat16() -> bool:
    """Whether this processor has bfloat16 dot products (AVX512_BF16; AMX comes with them) that oneDNN may use.

    torch's own question of oneDNN is true for every AVX-512 processor, where it may only convert to float32 and back.
    """
    if not torch.backends.mkldnn.is_available() or not torch.cpu._is_avx512_bf16_supported():
        return False
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return limit.upper() not in WITHOUT_BFLOAT16

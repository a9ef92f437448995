"""Both networks by every runtime at hand, on the same arrays: seconds, and how far the scores are from torch's in float32."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cmb_models.release.bundle import CNN_FILE, CNN_INPUT, CNN_OUTPUT, UNET_FILE, UNET_INPUT, UNET_OUTPUT
from cmb_models.runtime.cpu import RUNTIMES, open_onnx

Network = Callable[[np.ndarray], np.ndarray]
MATRIX = 4096  # rows and columns of the product that measures the machine's peak


@dataclass(frozen=True)
class Timed:
    """Median seconds of a network under one runtime, and the largest score difference to torch in float32."""

    seconds: float
    difference: float


def compare(
    bundle: Path, unet: nn.Module, cnn: nn.Module, image: np.ndarray, patches: np.ndarray, rounds: int
) -> dict[str, dict[str, Timed]]:
    """{network: {runtime: Timed}}; the runtimes take turns, `rounds` times after one to warm up.

    unet, cnn: ending in scores, (1, 1, I, J, K) and (N, C, i, j, k) to a heatmap and (N,).
    """
    found = {}
    for name, model, array, file, ends in (
        ("unet", unet, image, UNET_FILE, (UNET_INPUT, UNET_OUTPUT)),
        ("cnn", cnn, patches, CNN_FILE, (CNN_INPUT, CNN_OUTPUT)),
    ):
        networks = {runtime: open_onnx(bundle / file, *ends, runtime=runtime) for runtime in RUNTIMES}
        networks |= {"torch": in_torch(model, torch.float32), "torch bfloat16": in_torch(model, torch.bfloat16)}
        seconds: dict[str, list[float]] = {runtime: [] for runtime in networks}
        answers = {runtime: run(array) for runtime, run in networks.items()}
        for _ in range(rounds):
            for runtime, run in networks.items():
                start = time.perf_counter()
                run(array)
                seconds[runtime].append(time.perf_counter() - start)
        apart = {runtime: float(np.abs(a - answers["torch"]).max()) for runtime, a in answers.items()}
        found[name] = {runtime: Timed(float(np.median(s)), apart[runtime]) for runtime, s in seconds.items()}
    return found


def in_torch(model: nn.Module, dtype: torch.dtype) -> Network:
    """A network in torch on all cores; bfloat16 by autocast, as training runs it."""
    model = model.eval().to(memory_format=torch.channels_last_3d)

    def run(array: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            return model(torch.from_numpy(array)).float().numpy()

    return run


def gigaflop(model: nn.Module, array: np.ndarray) -> float:
    """Of one call, multiplications and additions of convolutions alone."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.from_numpy(array))
    return counter.get_total_flops() / 1e9


def peak_gigaflops(rounds: int = 5) -> float:
    """What the machine reaches in a product of two float32 matrices, the best of `rounds`."""
    matrix = torch.rand(MATRIX, MATRIX)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / min(seconds) / 1e9

"""Torch's devices, and a torch network as the callable that `detect` runs: numpy in, numpy out."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import nn

from cmb_models.detect.detector import Network
from cmb_models.runtime.accelerator import DeviceFailed, first_line

KEPT_SHARE = 0.1  # of a card's memory that one step may keep between scans


def open_torch_device(device: str) -> tuple[torch.device, str]:
    """A device that torch can use, and its name.

    Args:
        device: "cuda" or "cuda:1" for the second card; "cpu" runs the same code without CUDA, for tests.

    Raises:
        DeviceFailed: If the driver, the card or CUDA in torch is missing.
    """
    opened = torch.device(device)
    try:
        torch.zeros(1, device=opened)
        return opened, torch.cuda.get_device_name(opened) if opened.type == "cuda" else "torch on the cpu"
    except Exception as error:  # the calls that torch defers until then fail with a base of their own
        raise DeviceFailed(first_line(error)) from error


def release_spare_memory(device: torch.device) -> None:
    """Give back a card's memory that torch keeps for later, if it is much: a server's other steps share the card."""
    if device.type != "cuda":
        return
    with contextlib.suppress(RuntimeError):  # after a failure of the device, which is raised elsewhere
        total = torch.cuda.get_device_properties(device).total_memory
        if torch.cuda.memory_reserved(device) > KEPT_SHARE * total:
            with torch.cuda.device(device):
                torch.cuda.empty_cache()


def as_callable(model: nn.Module, device: torch.device) -> Network:
    """Run a network that ends in scores (Heatmap, Score) in float32, in evaluation mode, whatever the training precision was."""
    model.eval()

    def run(array: np.ndarray) -> np.ndarray:
        # cuDNN's default for float32 convolutions, TF32, moves scores by more than a release may differ from what was judged.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return model(torch.from_numpy(array).to(device)).float().cpu().numpy()

    return run

"""A torch network as the callable that `detect` runs: numpy in, numpy out."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from cmb_models.detect.detector import Network


def as_callable(model: nn.Module, device: torch.device) -> Network:
    """Run a network that ends in scores (Heatmap, Score) in float32, in evaluation mode, whatever the training precision was."""
    model.eval()

    def run(array: np.ndarray) -> np.ndarray:
        # cuDNN's default for float32 convolutions, TF32, moves scores by more than a release may differ from what was judged.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return model(torch.from_numpy(array).to(device)).float().cpu().numpy()

    return run

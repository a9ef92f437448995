"""What people write: the same networks in torch, MONAI's sliding window over the scan, labels of a thresholded map, patch by patch.

Preprocessing is this project's own, so that only inference and candidates are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage
from torch import nn

from cmb_models.config.params import PipelineConfig
from cmb_models.detect.preprocess import prepare
from cmb_models.networks.cnn import Score
from cmb_models.networks.unet import Heatmap
from cmb_models.volume import Volume

ROI_VOX = (96, 96, 48)  # a usual window, several times the training patch
OVERLAP = 0.25  # MONAI's own


def plain_detector(unet: nn.Module, cnn: nn.Module, config: PipelineConfig) -> Callable[[Volume], int]:
    """A function from a scan to the number of places scored, at most `candidates.max_per_scan` of them."""
    heatmap, score = Heatmap(unet).eval(), Score(cnn).eval()

    def run(volume: Volume) -> int:
        prepared = prepare(volume, config.preprocess, "scan")
        with torch.inference_mode():
            image = torch.from_numpy(prepared.image[None, None])
            scores = sliding_window_inference(image, ROI_VOX, 1, heatmap, overlap=OVERLAP, mode="gaussian")[0, 0].numpy()
            labels, count = ndimage.label(scores >= config.candidates.floor)
            numbers = np.arange(1, count + 1)
            peaks = np.asarray(ndimage.maximum(scores, labels, numbers))
            best = numbers[np.argsort(-peaks)[: config.candidates.max_per_scan]]
            for centre in ndimage.center_of_mass(scores, labels, best):
                score(torch.from_numpy(_patch(prepared.image, np.rint(centre).astype(int), config.patch_vox))[None, None])
        return len(best)

    return run


def _patch(image: np.ndarray, centre: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    padded = np.pad(image, [(s, s) for s in shape], mode="edge")
    low = centre + np.asarray(shape) - np.asarray(shape) // 2
    return np.ascontiguousarray(padded[tuple(slice(a, a + s) for a, s in zip(low, shape, strict=True))])

"""What stage 1 learns: a heatmap with a Gaussian at every microbleed's centre."""

from __future__ import annotations

import numpy as np
import torch

from cmb_models.volume import index_from_world

REACH = 3.0  # in sigmas; beyond, the Gaussian is below .012 and is cut to zero


def centre_heatmap(shape: tuple[int, int, int], affine: np.ndarray, centres_mm: np.ndarray, sigma_mm: float) -> np.ndarray:
    """(I, J, K) float32 in [0, 1]: a Gaussian of `sigma_mm` at each of centres_mm (N, 3), 1 at its nearest voxel.

    Where two overlap the larger value stands. Centres outside the volume are left out; zeros for no centres.
    """
    heatmap = np.zeros(shape, dtype=np.float32)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    reach = np.ceil(REACH * sigma_mm / spacing).astype(int)
    for centre in np.rint(index_from_world(centres_mm, affine)).astype(int):
        if (centre < 0).any() or (centre >= shape).any():
            continue
        low, high = np.maximum(centre - reach, 0), np.minimum(centre + reach + 1, shape)
        axes = [((np.arange(a, b) - c) * s) ** 2 for a, b, c, s in zip(low, high, centre, spacing, strict=True)]
        squared_mm2 = axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
        gaussian = np.where(squared_mm2 <= (REACH * sigma_mm) ** 2, np.exp(-squared_mm2 / (2 * sigma_mm**2)), 0)
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        heatmap[window] = np.maximum(heatmap[window], gaussian)
    return heatmap


def centre_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, gamma: float, beta: float) -> torch.Tensor:
    """Penalty-reduced focal loss of CornerNet (Law and Deng 2018, equation 1), summed and divided by the number of centres.

    logits, target, weight: (N, 1, I, J, K); target in [0, 1] with 1 at centres; weight 0 where the truth is unknown (lesions marked
    `possible`). gamma focuses on hard voxels, beta spares voxels near a centre. A batch without centres divides by 1.
    """
    logits = logits.float()
    log_p, log_q = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
    p = torch.sigmoid(logits)
    centre = (target >= 1).float()
    loss = centre * (1 - p) ** gamma * log_p + (1 - centre) * (1 - target) ** beta * p**gamma * log_q
    return -(loss * weight).sum() / centre.sum().clamp(min=1)


def microbleed_loss(logits: torch.Tensor, of_kinds: torch.Tensor, kinds: torch.Tensor, kind_weight: float) -> torch.Tensor:
    """Cross-entropy of microbleed or not, plus kind_weight times that of what it is, over those whose kind is known.

    logits: (N,). of_kinds: (N, K) logits. kinds: (N,) int64, 0 for a microbleed, 1 to K - 1 for mimics, below 0 for unknown ones.
    """
    value = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), (kinds == 0).float())
    known = kinds >= 0
    if kind_weight and known.any():
        value = value + kind_weight * torch.nn.functional.cross_entropy(of_kinds[known].float(), kinds[known])
    return value

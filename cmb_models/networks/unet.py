"""Stage 1: a 3D U-Net from the image to a heatmap of microbleed centres."""

from __future__ import annotations

import torch
from torch import nn


def build_unet(channels: tuple[int, ...], residual_units: int) -> nn.Module:
    """(N, 1, I, J, K) image to (N, 1, I, J, K) logits; I, J, K multiples of 2 ** (len(channels) - 1).

    Batch normalisation, not instance normalisation: its running statistics make a voxel's answer independent of how much
    of the head is in view, so training on patches and running on whole scans agree (and ONNX parity holds, FACTS 8).
    """
    from monai.networks.nets.unet import UNet  # imported here: it takes seconds, and most of a stage's processes build no network

    return UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        channels=channels,
        strides=(2,) * (len(channels) - 1),
        num_res_units=residual_units,
        norm="BATCH",
    )


class Heatmap(nn.Module):
    """A U-Net with its sigmoid: what is exported, so that the server adds no arithmetic of its own."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.unet(image))

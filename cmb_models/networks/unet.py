"""Stage 1: a 3D U-Net from the image to a heatmap of microbleed centres."""

from __future__ import annotations

import math

import torch
from torch import nn

from cmb_models.networks.spots import CHANNELS, DarkSpots

PRIOR = 0.01  # score a voxel starts with: nearly none is a centre (the initialisation of focal loss, Lin et al. 2017, section 4.1)


def build_unet(channels: tuple[int, ...], strides: tuple[int, ...]) -> nn.Module:
    """(N, 1, I, J, K) image to (N, 1, I, J, K) logits; I, J, K multiples of the product of `strides`. DarkSpots comes first.

    strides: one fewer than `channels`. A first stride of 1 keeps a level at full resolution: the smallest microbleeds are one
    or two voxels wide, and half of their trace is gone after a first convolution with stride 2.
    Batch normalisation, not instance normalisation: its running statistics make a voxel's answer independent of how much
    of the head is in view, so training on patches and running on whole scans agree (and ONNX parity holds).
    """
    from monai.networks.nets.unet import UNet  # imported here: it takes seconds, and most of a stage's processes build no network

    unet = UNet(
        spatial_dims=3,
        in_channels=CHANNELS,
        out_channels=1,
        channels=channels,
        strides=strides,
        num_res_units=0,
        act="RELU",
        norm="BATCH",
    )
    last = [m for m in unet.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d) and m.out_channels == 1][-1]
    nn.init.constant_(last.bias, -math.log((1 - PRIOR) / PRIOR))
    return nn.Sequential(DarkSpots(), unet)


class Heatmap(nn.Module):
    """A U-Net with its sigmoid, as it is used and exported: the server adds no arithmetic of its own."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.unet(image))

"""Stage 1: a 3D U-Net from the image to a heatmap of microbleed centres."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import nn

from cmb_models.detect.spots import CHANNELS
from cmb_models.networks.spots import DarkSpots

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


def for_export(unet: nn.Module) -> nn.Module:
    """What follows DarkSpots in a U-Net, the same up to rounding, with its last layer in a form that CPUs compute much faster.

    That layer makes one channel of many, a shape for which no runtime has a good kernel. Nine channels, one for each place of the
    kernel within slices, are an ordinary convolution; fixed ones then add them up. With a first stride above 1 nothing changes.
    """
    copy = deepcopy(unet[1])
    names = [name for name, m in copy.named_modules() if isinstance(m, nn.ConvTranspose3d) and m.out_channels == 1]
    if names and copy.get_submodule(names[-1]).stride == (1, 1, 1):
        copy.set_submodule(names[-1], _by_taps(copy.get_submodule(names[-1])))
    return copy


def _by_taps(last: nn.ConvTranspose3d) -> nn.Module:
    # Transposed and of stride 1, it is a convolution by the mirrored kernel, (channels, 1, 3, 3, 3).
    kernel = last.weight.detach().flip(2, 3, 4)
    taps = nn.Conv3d(last.in_channels, 9, (1, 1, 3), padding=(0, 0, 1), bias=False)
    taps.weight.data = kernel[:, 0].permute(1, 2, 0, 3).reshape(9, last.in_channels, 1, 1, 3).contiguous()
    total = nn.Conv3d(9, 1, (3, 3, 1), padding=(1, 1, 0))
    total.weight.data = torch.eye(9).reshape(1, 9, 3, 3, 1)
    total.bias.data = last.bias.detach().clone()
    return nn.Sequential(taps, total)

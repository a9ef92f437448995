"""Stage 1: a 3D U-Net from the image to a heatmap of microbleed centres."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from cmb_models.detect.line_filters import CHANNELS
from cmb_models.networks.convolution import with_sliced_gradients
from cmb_models.networks.line_filters import BottomHatFilter

IN_SLICE = (3, 3, 1)  # the first convolutions stay within their slice, as nnU-Net's do where slices are thicker than pixels
PRIOR = 0.01  # score a voxel starts with: nearly none is a centre (the initialisation of focal loss, Lin et al. 2017, section 4.1)


def build_unet(channels: tuple[int, ...], strides: tuple[int, ...]) -> nn.Sequential:
    """The candidate network: BottomHatFilter, then MONAI's DynUNet (the U-Net of nnU-Net) with residual blocks.

    Residual blocks have two convolutions per level; with one, microbleeds near the dark background outside the brain are not
    learned. Batch normalisation instead of instance normalisation makes a voxel's output independent of the field of view, so
    training on patches and inference on whole scans agree, and so do PyTorch and ONNX.

    Args:
        channels: Feature channels of each level.
        strides: Stride into each level. The first should be 1: the smallest microbleeds are one or two voxels wide.

    Returns:
        A network from images (N, 1, I, J, K), float32, on the working grid to logits of the same shape. I, J and K must be
        multiples of the product of `strides`.
    """
    from monai.networks.nets.dynunet import DynUNet  # imported here: it takes seconds, and most processes build no network

    unet = DynUNet(
        spatial_dims=3,
        in_channels=CHANNELS,
        out_channels=1,
        kernel_size=[IN_SLICE, *[3] * (len(channels) - 1)],
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=channels,
        norm_name="batch",
        act_name=("relu", {"inplace": True}),
        res_block=True,
    )
    nn.init.constant_(unet.output_block.conv.conv.bias, -math.log((1 - PRIOR) / PRIOR))
    return nn.Sequential(BottomHatFilter(), with_sliced_gradients(unet))


def encoder_levels(network: nn.Sequential) -> list[nn.Module]:
    """The encoder of a network of `build_unet`, level by level from full resolution down."""
    # DynUNet's stubs describe its parts as tensors or modules.
    unet: Any = network[1]
    return [unet.input_block, *unet.downsamples, unet.bottleneck]


class Heatmap(nn.Module):
    """The exported form of the U-Net, with sigmoid: images (N, 1, I, J, K) to scores in [0, 1] of the same shape."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.unet(image))

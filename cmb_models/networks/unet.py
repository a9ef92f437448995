"""Stage 1: a 3D U-Net from the image to a heatmap of microbleed centres."""

from __future__ import annotations

import math

import torch
from torch import nn

from cmb_models.detect.line_filters import CHANNELS
from cmb_models.networks.convolution import with_sliced_gradients
from cmb_models.networks.line_filters import BottomHatFilter

IN_SLICE = (3, 3, 1)  # the first convolutions stay within their slice, as nnU-Net's do where slices are thicker than pixels
PRIOR = 0.01  # score a voxel starts with: nearly none is a centre (the initialisation of focal loss, Lin et al. 2017, section 4.1)


def build_unet(channels: tuple[int, ...], strides: tuple[int, ...]) -> nn.Sequential:
    """(N, 1, I, J, K) image to (N, 1, I, J, K) logits; I, J, K multiples of the product of `strides`. BottomHatFilter comes first.

    MONAI's DynUNet, the U-Net of nnU-Net, with residual blocks: two convolutions at each level on the way down and two on the way
    up. With one alone a microbleed near the dark outside of the brain is not learned, not even in the training scans. On the
    way down the first level's are IN_SLICE.
    strides: into each level, the first 1: the smallest microbleeds are one or two voxels wide, and half of their trace would be
    gone after a first convolution with stride 2.
    Batch normalisation, not instance normalisation: its running statistics make a voxel's answer independent of how much
    of the head is in view, so training on patches and running on whole scans agree (and ONNX parity holds).
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


class Heatmap(nn.Module):
    """A U-Net with its sigmoid, as it is used and exported: the server adds no arithmetic of its own."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.unet(image))

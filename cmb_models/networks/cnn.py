"""Stage 2: a small 3D CNN that separates microbleeds from mimics in a patch around a candidate."""

from __future__ import annotations

import torch
from torch import nn

from cmb_models.detect.line_filters import CHANNELS
from cmb_models.networks.convolution import Conv3d
from cmb_models.networks.line_filters import BottomHatFilter

# What a candidate can be besides a microbleed, as far as annotations name it (`mimic:<kind>`): an auxiliary target in training.
KINDS = ("calcification", "iron", "vein", "air_bone", "cavernoma", "flow_void")


class PatchClassifier(nn.Module):
    """The classifier: patches (N, C, I, J, K), float32, to logits (N,).

    BottomHatFilter comes first; without it, a short training may fail to converge. Each level has two 3x3x3 convolutions with batch
    normalisation, then pooling by 2. The first pooling does not reduce K, since slices are thicker than pixels.

    Args:
        channels: Feature channels of each level.
        dropout: Dropout probability before the heads.
        patch_channels: C: 1, or 2 with phase (detect/patches.py).
    """

    def __init__(self, channels: tuple[int, ...], dropout: float, patch_channels: int = 1) -> None:
        super().__init__()
        self.spots = BottomHatFilter()
        layers: list[nn.Module] = []
        before = patch_channels + CHANNELS - 1
        for level, width in enumerate(channels):
            layers += [_convolution(before, width), _convolution(width, width)]
            if level < len(channels) - 1:
                layers.append(nn.MaxPool3d((2, 2, 1) if level == 0 else 2))
            before = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * before, 1)
        self.kinds = nn.Linear(2 * before, 1 + len(KINDS))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.judge(self.spots(patches))

    def judge(self, spots: torch.Tensor) -> torch.Tensor:
        """Logits (N,) of filtered patches (N, C + 2, I, J, K), as returned by BottomHatFilter."""
        return self.head(self._pooled(spots))[:, 0]

    def levels(self) -> list[nn.Module]:
        """The levels, each its two convolutions with normalisation; pooling has no weights."""
        convolutions = [module for module in self.features if not isinstance(module, nn.MaxPool3d)]
        return [nn.ModuleList(convolutions[n : n + 2]) for n in range(0, len(convolutions), 2)]

    def with_kinds(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N,) and logits of the kind (N, 1 + len(KINDS)), an auxiliary target in training that is not exported."""
        pooled = self._pooled(self.spots(patches))
        return self.head(pooled)[:, 0], self.kinds(pooled)

    def _pooled(self, spots: torch.Tensor) -> torch.Tensor:
        features = self.features(spots)
        # The maximum keeps a small dark spot that the mean over the patch would dilute.
        pooled = torch.cat([features.mean(dim=(2, 3, 4)), features.amax(dim=(2, 3, 4))], dim=1)
        return self.dropout(pooled)


def _convolution(before: int, after: int) -> nn.Module:
    return nn.Sequential(Conv3d(before, after, 3, padding=1, bias=False), nn.BatchNorm3d(after), nn.ReLU(inplace=True))


class Score(nn.Module):
    """The exported form of the classifier: patches (N, C, I, J, K) to scores (N,) in [0, 1].

    Test-time augmentation: sigmoid of the mean logit over four flips in the slice plane. BottomHatFilter commutes with flips, so it
    runs once.

    Args:
        classifier: The trained network.
        filtered: Whether inputs have already passed BottomHatFilter: (N, C + 2, I, J, K).
    """

    FLIPS = ((), (2,), (3,), (2, 3))

    def __init__(self, classifier: PatchClassifier, filtered: bool = False) -> None:
        super().__init__()
        self.classifier, self.filtered = classifier, filtered

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        spots = patches if self.filtered else self.classifier.spots(patches)
        logits = [self.classifier.judge(torch.flip(spots, axes) if axes else spots) for axes in self.FLIPS]
        return torch.sigmoid(torch.stack(logits).mean(dim=0))

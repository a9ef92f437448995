"""Both networks, exported and in torch."""

from __future__ import annotations

import pytest
import torch

from cmb_models.networks.cnn import PatchClassifier, Score
from cmb_models.networks.unet import Heatmap, build_unet
from cmb_models.release.export import export_networks
from cmb_models.runtime.torch import as_callable
from tests.support.bundles import settings


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Folder with both ONNX files, and the torch networks that they were exported from."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(3)
    unet, cnn = build_unet((4, 8, 16, 16), (1, 2, 2, 1)), PatchClassifier((4, 8, 8), dropout=0.1)
    export_networks(unet, cnn, settings(), folder)
    return folder, as_callable(Heatmap(unet), torch.device("cpu")), as_callable(Score(cnn), torch.device("cpu"))

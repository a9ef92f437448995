"""Convolutions whose weight gradients are computed slice by slice have the gradients of torch's own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cmb_models.networks import convolution
from cmb_models.networks.cnn import PatchClassifier
from cmb_models.networks.convolution import Conv3d, weight_gradient, with_sliced_gradients
from cmb_models.networks.unet import build_unet

# Volumes, channels in and out, shape, kernel, stride, padding.
CASES = {
    "several volumes": (3, 4, 8, (8, 7, 5), (3, 3, 3), 1, (1, 1, 1)),
    "one volume": (1, 3, 8, (9, 7, 5), (3, 3, 1), 1, (1, 1, 0)),
    "kernel along one axis": (2, 2, 3, (5, 3, 4), (3, 1, 1), 1, (1, 0, 0)),
    "two slices": (4, 2, 3, (2, 3, 4), (3, 3, 1), 1, (1, 1, 0)),
    "one slice": (4, 2, 3, (1, 3, 4), (3, 3, 3), 1, (1, 1, 1)),
    "one slice of one volume": (1, 1, 1, (1, 1, 1), (3, 3, 3), 1, (1, 1, 1)),
    "stride 2, even": (2, 8, 16, (8, 8, 4), (3, 3, 3), 2, (1, 1, 1)),
    "stride 2, odd": (2, 8, 16, (9, 7, 5), (3, 3, 3), 2, (1, 1, 1)),
    "stride 2, one slice": (2, 2, 3, (1, 3, 4), (3, 3, 3), 2, (1, 1, 1)),
    "stride 3": (2, 2, 3, (7, 6, 4), (3, 3, 3), 3, (1, 1, 1)),
}


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last_3d], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("case", CASES)
def test_weight_gradients_are_torchs(case, order):
    """Against torch's in double precision, so that the bound is that of rounding."""
    volumes, before, after, shape, kernel, stride, padding = CASES[case]
    torch.manual_seed(0)
    image = torch.randn(volumes, before, *shape).to(memory_format=order)
    weight = torch.randn(after, before, *kernel)
    gradient = torch.randn_like(nn.functional.conv3d(image, weight, None, stride, padding))
    expected = torch.nn.grad.conv3d_weight(image.double(), weight.shape, gradient.double(), stride, padding)
    got = weight_gradient(gradient, image, weight.shape, (stride,) * 3, padding)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


@pytest.fixture
def without_avx512(monkeypatch):
    monkeypatch.setattr(convolution, "lacks_avx512", lambda: True)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {"unet": build_unet((4, 8, 8), (1, 2, 2)), "cnn": PatchClassifier((4, 8), 0.0)}


def plain(network: nn.Module) -> nn.Module:
    """A copy of torch's own convolutions."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if type(module) is Conv3d:
            module.__class__ = nn.Conv3d
    return network


def values(network: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """What a network answers, and its parameters' gradients."""
    answer = network(image)
    answer.square().mean().backward()
    return [answer.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", ["unet", "cnn"])
def test_whole_networks_train_alike(without_avx512, kind, monkeypatch):
    network = networks()[kind].train()
    reference = plain(network)
    image = torch.randn(2, 1, 16, 16, 8)
    got, expected = values(network, image), values(reference, image)
    largest = max(float(e.abs().max()) for e in expected[1:])
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5 * max(1, largest))
    calls = []
    monkeypatch.setattr(convolution, "weight_gradient", lambda *args: calls.append(args) or weight_gradient(*args))
    values(network, image)
    assert len(calls) > 2, "no convolution took the way that this test is about"


def test_inference_and_bfloat16_take_torchs_own_way(without_avx512, monkeypatch):
    monkeypatch.setattr(convolution, "_SlicedWeightGradient", None)  # anything that uses it fails
    network, image = networks()["cnn"], torch.randn(2, 1, 8, 8, 4)
    network.eval()(image)
    with torch.no_grad():
        network.train()(image)
    with torch.autocast("cpu", torch.bfloat16):
        network.train()(image)
    with pytest.raises(AttributeError):
        network.train()(image)


def test_with_avx512_torchs_own_way_is_taken(monkeypatch):
    monkeypatch.setattr(convolution, "lacks_avx512", lambda: False)
    monkeypatch.setattr(convolution, "_SlicedWeightGradient", None)
    answer = networks()["cnn"].train()(torch.randn(2, 1, 8, 8, 4))
    assert answer.shape == (2,) and answer.requires_grad


@pytest.mark.parametrize(
    "settings",
    [{"groups": 2}, {"dilation": 2}, {"padding": 0}, {"padding_mode": "replicate"}, {"padding": "same"}, {"kernel_size": 5}],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(settings):
    module = nn.Conv3d(4, 4, **{"kernel_size": 3, "padding": 1, **settings})
    assert type(with_sliced_gradients(nn.Sequential(module))[0]) is nn.Conv3d


def test_state_is_that_of_torchs_own():
    network = networks()["unet"]
    assert list(network.state_dict()) == list(plain(network).state_dict())

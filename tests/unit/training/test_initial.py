"""Trainings that start from a release's weights: which they are, that they fit, and what cannot pick up whose state."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cmb_models.errors import InputError
from cmb_models.networks.cnn import PatchClassifier
from cmb_models.networks.unet import build_unet
from cmb_models.registry.provenance.initial import require_unseen, starting_point
from cmb_models.training.initial import INITIAL, initial_source, load_initial, start_from, write_initial, write_state


@pytest.fixture
def release(tmp_path):
    """A folder of weights as a bundle has it."""
    torch.manual_seed(3)
    write_state(tmp_path / "weights/unet.npz", build_unet((4, 6, 8), (1, 2, 2)).state_dict())
    write_state(tmp_path / "weights/cnn.npz", PatchClassifier((4, 6), 0.0).state_dict())
    return tmp_path / "weights"


def put(prepared, release, name="7"):
    write_initial(prepared / INITIAL, {"name": name, "manifest_sha256": "ab"}, release)
    return prepared


def test_networks_start_from_the_releases_weights(tmp_path, release):
    prepared = put(tmp_path / "prepared", release)
    torch.manual_seed(4)
    unet, cnn = build_unet((4, 6, 8), (1, 2, 2)), PatchClassifier((4, 6), 0.0)
    for name, model in (("unet", unet), ("cnn", cnn)):
        start_from(model, load_initial(prepared, name), name)
        with np.load(release / f"{name}.npz") as theirs:
            assert all(np.array_equal(tensor.numpy(), theirs[key]) for key, tensor in model.state_dict().items())
    assert initial_source(prepared) == {"name": "7", "manifest_sha256": "ab"}


def test_random_weights_and_earlier_workspaces_have_none(tmp_path):
    assert load_initial(tmp_path, "unet") is None
    write_initial(tmp_path / INITIAL, {"name": "random"}, None)
    assert load_initial(tmp_path, "cnn") is None
    assert initial_source(tmp_path) == {"name": "random"}


@pytest.mark.parametrize("channels", [(4, 6, 10), (4, 6, 8, 8)])
def test_another_architecture_is_refused(tmp_path, release, channels):
    initial = load_initial(put(tmp_path / "prepared", release), "unet")
    with pytest.raises(InputError) as error:
        start_from(build_unet(channels, (1, *[2] * (len(channels) - 1))), initial, "unet")
    assert error.value.code == "params-invalid"
    assert "unet.channels" in error.value.remedy


def test_a_release_without_weights_is_refused(tmp_path):
    with pytest.raises(InputError) as error:
        write_initial(tmp_path / "initial", {"name": "2"}, tmp_path / "nowhere")
    assert error.value.code == "bundle-incomplete"


def test_damaged_weights_are_refused(tmp_path, release):
    prepared = put(tmp_path / "prepared", release)
    (prepared / INITIAL / "cnn.npz").write_bytes(b"PK\x03\x04 not a zip file")
    with pytest.raises(InputError) as error:
        load_initial(prepared, "cnn")
    assert error.value.code == "prepared-outdated"


def entry(key, sha256, content):
    return {"key": key, "sha256": sha256, "content_sha256": content}


@pytest.mark.parametrize(
    "lineage",
    [
        {"training_scans": {"a": "1"}},
        {"training_scans": {"a": "9"}, "training_contents": {"a": "c1"}},
    ],
)
def test_a_release_that_saw_a_scan_of_the_workspace_is_refused(lineage):
    scans = [entry("site.sub-001", "1", "c1"), entry("site.sub-002", "2", "c2")]
    with pytest.raises(InputError) as error:
        require_unseen("5", lineage, scans)
    assert error.value.code == "leakage"
    assert "site.sub-001" in error.value.got
    assert "sub-002" not in error.value.got
    require_unseen("5", lineage, scans[1:])


def test_random_needs_no_registry(tmp_path):
    assert starting_point("random", [], tmp_path) == ({"name": "random"}, None)


def test_weights_are_the_same_bytes_each_time(tmp_path, release):
    torch.manual_seed(3)
    write_state(tmp_path / "again.npz", build_unet((4, 6, 8), (1, 2, 2)).state_dict())
    assert (tmp_path / "again.npz").read_bytes() == (release / "unet.npz").read_bytes()
    json.dumps(initial_source(tmp_path))

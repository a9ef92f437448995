"""Trainings that start from a release's weights: which they are, that they fit, and what cannot pick up whose state."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from cmb_models.errors import InputError
from cmb_models.files import read_json, sha256_of, write_json
from cmb_models.networks.cnn import PatchClassifier
from cmb_models.networks.unet import build_unet
from cmb_models.registry.provenance.initial import require_unseen, starting_point
from cmb_models.release.keys import new_keys
from cmb_models.training import loop
from cmb_models.training.checkpoint import Checkpoint
from cmb_models.training.initial import (
    FIRST,
    INITIAL,
    Initial,
    frozen_levels,
    initial_source,
    load_initial,
    start_from,
    write_initial,
    write_state,
)
from cmb_models.training.loop import train_cnn, train_unet
from cmb_models.workspace import code_lock
from pipelines import initialise
from tests.integration.registry_workspace import git
from tests.support.bundles import make_base
from tests.support.examples import CNN, UNET
from tests.support.imports import ROOT
from tests.support.refused import refused
from tests.support.trainings import SNAPSHOT, Killed, assert_equal, cnn_sampler, kill_at, train, unet_sampler


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


def test_a_classifier_with_phase_starts_from_one_without(tmp_path, release):
    """It scores as that one whatever the phase, and phase can be learned; one without phase cannot start from one with."""
    initial = load_initial(put(tmp_path / "prepared", release), "cnn")
    without, with_phase = PatchClassifier((4, 6), 0.0).eval(), PatchClassifier((4, 6), 0.0, patch_channels=2).eval()
    start_from(without, initial, "cnn")
    start_from(with_phase, initial, "cnn")
    torch.manual_seed(5)
    patches = torch.randn(3, 2, 20, 20, 10)
    assert torch.equal(with_phase(patches), without(patches[:, :1]))
    with_phase(patches).sum().backward()
    assert with_phase.get_parameter(FIRST).grad[:, -1].abs().max() > 0
    with refused("params-invalid", case="cnn.frozen_levels"):
        frozen_levels(with_phase.levels(), 1, initial)
    assert frozen_levels(with_phase.levels(), 0, initial) == [] and len(frozen_levels(without.levels(), 1, initial)) == 1
    theirs = {name: tensor.numpy() for name, tensor in with_phase.state_dict().items()}
    with refused("params-invalid") as refusal:
        start_from(without, Initial(theirs, "ab", "7"), "cnn")
    assert "preprocess.phase" in refusal.value.remedy


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


def started(kind, frozen, release, **changes):
    """A short training from the release's weights with this many frozen levels; gives its weights before and after."""
    with np.load(release / f"{kind}.npz") as arrays:
        initial = Initial(dict(arrays), "ab", "7")
    sampler = {"unet": unet_sampler, "cnn": cnn_sampler}[kind](frozen_levels=frozen, weight_decay=0.1, **changes)
    fit = {"unet": train_unet, "cnn": train_cnn}[kind]
    return initial.weights, {n: t.numpy() for n, t in fit(sampler, 3, initial=initial).state_dict().items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights of a release with normalisation statistics that are those of no new network."""
    folder = tmp_path_factory.mktemp("release")
    torch.manual_seed(3)
    for name, network in (("unet", build_unet(UNET.channels, UNET.strides)), ("cnn", PatchClassifier(CNN.channels, 0.0))):
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.25)
        write_state(folder / f"{name}.npz", network.state_dict())
    return folder


FROZEN = {
    ("unet", 0): (),
    ("unet", 1): ("input_block",),
    ("unet", 2): ("input_block", "downsamples.0"),
    ("unet", 3): ("input_block", "downsamples.0", "bottleneck"),
    ("cnn", 1): ("features.0.", "features.1."),
    ("cnn", 2): ("features.0.", "features.1.", "features.3.", "features.4."),
}


@pytest.mark.parametrize(("kind", "count"), FROZEN)
def test_frozen_levels_keep_weights_and_statistics_and_all_else_is_trained(trained, kind, count):
    """Also across hard-negative mining, which leaves the network in training mode."""
    # Else the head for the kinds of mimics is not trained.
    before, after = started(kind, count, trained, **({"kind_weight": 0.3} if kind == "cnn" else {}))
    # MONAI's network names each part twice, also by its place in nested skip connections.
    parts = {n: v for n, v in after.items() if ".skip_layers." not in n and not n.endswith("num_batches_tracked")}
    kept = {n for n in parts if any(part in n for part in FROZEN[kind, count])}
    assert len(kept) >= 8 * count
    assert all(np.array_equal(before[n], after[n]) for n in kept)
    counters = {n for n in after if n.endswith("num_batches_tracked") and any(part in n for part in FROZEN[kind, count])}
    assert all(after[n] == before[n] for n in counters)
    assert [n for n in set(parts) - kept if np.array_equal(before[n], after[n])] == []


def test_frozen_statistics_are_those_that_normalise_in_training(trained, monkeypatch):
    """With the statistics of each batch instead, the trained levels would learn from other features than production shows them."""
    modes, forward = [], torch.nn.BatchNorm3d.forward

    def note(self, batch):
        modes.append((self.weight.requires_grad, self.training))
        return forward(self, batch)

    monkeypatch.setattr(torch.nn.BatchNorm3d, "forward", note)
    started("cnn", 1, trained)
    assert set(modes) == {(False, False), (True, True)}


@pytest.mark.parametrize("kind", ["unet", "cnn"])
def test_nothing_is_frozen_that_no_release_trained(kind):
    with refused("params-invalid", case="frozen_levels"):
        train(kind, frozen_levels=1)


@pytest.mark.parametrize("kind", ["unet", "cnn"])
def test_a_killed_training_with_frozen_levels_ends_as_one_that_was_not(trained, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SNAPSHOT", SNAPSHOT)
    with np.load(trained / f"{kind}.npz") as arrays:
        initial = Initial(dict(arrays), "ab", "7")
    fit = {"unet": train_unet, "cnn": train_cnn}[kind]

    def sampler():
        return {"unet": unet_sampler, "cnn": cnn_sampler}[kind](frozen_levels=1)

    checkpoint = Checkpoint(tmp_path / "c.pt", every_s=0)
    with pytest.raises(Killed):
        fit(sampler(), 3, kill_at(SNAPSHOT + 1), checkpoint, initial)
    resumed = fit(sampler(), 3, None, checkpoint, initial).state_dict()
    assert_equal(resumed, fit(sampler(), 3, None, None, initial).state_dict())


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
    assert starting_point("random", [], UNET, CNN, tmp_path) == ({"name": "random"}, None)


def with_weights(scans=None, networks=True):
    """A change of a hand-made bundle: the weights of two networks, and a lineage that names scans and settings."""

    def change(bundle):
        torch.manual_seed(3)
        write_state(bundle / "weights/unet.npz", build_unet(UNET.channels, UNET.strides).state_dict())
        write_state(bundle / "weights/cnn.npz", PatchClassifier(CNN.channels, 0.0).state_dict())
        settings = {"networks": {"unet": UNET.model_dump(), "cnn": CNN.model_dump()}} if networks else {}
        write_json(bundle / "lineage.json", {"training_scans": scans or {"phantom.sub-001": "9"}, **settings})

    return change


def test_training_starts_from_the_base_release(tmp_path, monkeypatch):
    """What the stage writes, with the package's folder as its argument; a workspace folder named base is another release."""
    base = make_base(tmp_path / "package", with_weights())
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    source, weights = starting_point("base", [entry("site.sub-001", "1", "c1")], UNET, CNN, tmp_path, base)
    assert source == {
        "name": "base",
        "manifest_sha256": sha256_of(base / "bundle/manifest.json"),
        "training_scans": 1,
    }
    write_initial(tmp_path / "prepared" / INITIAL, source, weights)
    initial = load_initial(tmp_path / "prepared", "unet")
    with np.load(base / "bundle/weights/unet.npz") as theirs:
        assert all(np.array_equal(initial.weights[name], theirs[name]) for name in theirs)
    with refused("params-invalid", case="cnn.frozen_levels"):
        starting_point("base", [], UNET, CNN, tmp_path, base, frozen_with_phase=2)
    with refused("base-release-missing"):
        starting_point("base", [], UNET, CNN, tmp_path, tmp_path / "nothing")


def test_a_base_release_that_saw_a_scan_is_refused(tmp_path):
    base = make_base(tmp_path / "package", with_weights({"phantom.sub-001": "1"}))
    with refused("leakage", case="base", got="site.sub-001"):
        starting_point("base", [entry("site.sub-001", "1", "c1")], UNET, CNN, tmp_path, base)


def test_a_workspace_that_requires_signatures_requires_its_keys_of_the_base_release_too(tmp_path):
    base = make_base(tmp_path / "package", with_weights())
    site = tmp_path / "site"
    git(tmp_path, "init", "-q", str(site))
    (site / ".gitignore").write_text("*.key\n")
    new_keys(site / "keys")
    git(site, "add", "-A")
    git(site, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "Releases are signed")
    with refused("signature-invalid"):
        starting_point("base", [], UNET, CNN, site, base)


def test_other_channels_are_refused_before_anything_is_trained(tmp_path):
    base = make_base(tmp_path / "package", with_weights())
    unet, cnn = UNET.model_copy(update={"channels": (4, 8, 16)}), CNN.model_copy(update={"channels": (8,)})
    with refused("params-invalid", case="base") as refusal:
        starting_point("base", [], unet, cnn, tmp_path, base)
    assert refusal.value.expected == "unet.channels [8, 8, 16] and cnn.channels [8, 16], as the release has"
    old = make_base(tmp_path / "old", with_weights(networks=False))
    assert starting_point("base", [], unet, cnn, tmp_path, old)[1] == old / "bundle/weights"


def test_the_stage_takes_the_packages_base_release(tmp_path, monkeypatch):
    """pipelines/initialise.py in a workspace, with a base release in the place of the package's."""
    base = make_base(tmp_path / "package", with_weights())
    monkeypatch.setattr(initialise, "FOLDER", base)
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["train"]["init_from"] = "base"
    params["unet"] |= {"channels": list(UNET.channels), "strides": list(UNET.strides), "frozen_levels": 1}
    params["cnn"] |= {"channels": list(CNN.channels)}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    write_json(tmp_path / "data/index.json", {"scans": [entry("site.sub-001", "1", "c1")]})
    initialise.main()
    assert read_json(tmp_path / "models/initial/source.json")["manifest_sha256"] == sha256_of(base / "bundle/manifest.json")
    for name in ("unet", "cnn"):
        assert sha256_of(tmp_path / f"models/initial/{name}.npz") == sha256_of(base / f"bundle/weights/{name}.npz")


def test_another_base_release_makes_the_stage_stale(tmp_path, monkeypatch):
    """code.lock hashes the files next to cmb_models/base_release/__init__.py."""
    package = tmp_path / "library/cmb_models"
    shutil.copytree(ROOT / "cmb_models", package, ignore=shutil.ignore_patterns("__pycache__", "bundle"))
    monkeypatch.setattr(code_lock, "PACKAGE", package)
    forget = [code_lock._parsed.cache_clear, code_lock._data_files.cache_clear]
    before = code_lock.installed_code(ROOT)
    for clear in forget:
        clear()
    make_base(package / "base_release", with_weights())
    change = code_lock.code_change(before, code_lock.installed_code(ROOT))
    for clear in forget:
        clear()
    assert (change.modules, change.stages) == (("cmb_models.base_release",), ("initialise",))


def test_weights_are_the_same_bytes_each_time(tmp_path, release):
    torch.manual_seed(3)
    write_state(tmp_path / "again.npz", build_unet((4, 6, 8), (1, 2, 2)).state_dict())
    assert (tmp_path / "again.npz").read_bytes() == (release / "unet.npz").read_bytes()
    json.dumps(initial_source(tmp_path))

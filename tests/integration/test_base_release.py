"""`make base`: what it copies into the package, and the whole way with small networks: made, shipped, used, up to date."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import typer

import cmb_models
from cmb_models import base_release
from cmb_models.cli import build_app
from cmb_models.config.params import load_params
from cmb_models.dataset.layout import find_scans
from cmb_models.files import read_json, write_json
from cmb_models.phantom.dataset import cmb_counts
from cmb_models.registry.provenance.initial import starting_point
from cmb_models.release.base import load_base
from cmb_models.workspace.paths import INDEX
from scripts import base, demo
from tests.support.bundles import make_base
from tests.support.imports import ROOT
from tests.support.refused import refused
from tests.support.tiny import TINY

ORIGIN = "base release 0.1.0, trained on simulated scans only"


def trained(bundle: Path) -> None:
    """What a registered bundle has besides: here any bytes as weights, since they are copied only."""
    (bundle / "weights").mkdir()
    for name in ("unet", "cnn"):
        (bundle / f"weights/{name}.npz").write_bytes(b"weights")
    write_json(bundle / "lineage.json", {"export_sha256": "ab", "datasets": {name: {"scans": 1} for name in base.DATASETS}})


@pytest.fixture
def made(tmp_path):
    """A folder with a signed release that could be shipped, and its public key."""
    return make_base(tmp_path / "made", trained)


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_signed_release_is_copied_with_its_key_and_replaces_the_former_one(made, tmp_path):
    package = make_base(tmp_path / "package")
    (package / "bundle/of the former one").touch()
    assert base.ship(made / "bundle", made / "release.pub", package) == ORIGIN
    assert names(package) == names(made)
    assert load_base(folder=package).lineage == load_base(folder=made).lineage


def test_what_cannot_be_shipped_leaves_the_former_one(made, tmp_path, monkeypatch):
    package = make_base(tmp_path / "package")
    former = load_base(folder=package).manifest_sha256
    with refused("signature-invalid"):
        base.ship(made / "bundle", package / "release.pub", package)
    other = make_base(tmp_path / "other")
    with refused("bundle-incomplete", got="none"):
        base.ship(other / "bundle", other / "release.pub", package)
    foreign = make_base(
        tmp_path / "foreign", lambda b: [trained(b), write_json(b / "lineage.json", {"datasets": {"hospital": {"scans": 9}}})]
    )
    with pytest.raises(SystemExit, match="of the datasets hospital, not of simulated, simulated-locked"):
        base.ship(foreign / "bundle", foreign / "release.pub", package)
    size = sum(p.stat().st_size for p in (made / "bundle").rglob("*") if p.is_file())
    monkeypatch.setattr(base, "MOST_BYTES", size - 1)
    with pytest.raises(SystemExit, match="MB that the wheel may carry"):
        base.ship(made / "bundle", made / "release.pub", package)
    assert load_base(folder=package).manifest_sha256 == former
    monkeypatch.setattr(base, "MOST_BYTES", size)
    assert base.ship(made / "bundle", made / "release.pub", package) == ORIGIN


def test_the_settings_are_valid(tmp_path):
    """With those of the template, by which a workspace begins."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    site = base.SimulatedSite(tmp_path, "test")
    site.set(base.SETTINGS)
    params = load_params(tmp_path / "params.yaml")
    for section, values in base.SETTINGS.items():
        assert {key: getattr(getattr(params, section), key) for key in values} == {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
    assert params.train.init_from == "random" and set(params.split.locked_datasets) < set(base.DATASETS)


@pytest.mark.parametrize("name", base.DATASETS)
def test_the_scans_can_be_simulated(name):
    """Options that `cmb simulate` has, with enough subjects for the microbleeds."""
    command = typer.main.get_command(build_app()).commands["simulate"]
    asked = command.make_context("simulate", ["out", *base.DATASETS[name]]).params
    assert (asked["generation"], asked["preset"]) == (2, ["random"])
    counts = cmb_counts(np.random.default_rng(0), asked["scans"], asked["cmbs"], asked["cmb_free"])
    assert counts.sum() == asked["cmbs"] and (counts == 0).sum() == asked["cmb_free"]
    assert asked["scans"] >= 20


def test_no_two_datasets_hold_the_same_scans():
    datasets = [*base.DATASETS.values(), demo.SITE, demo.LOCKED, demo.LOCKED_FULL]
    seeds = [options[list(options).index("--seed") + 1] for options in datasets]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_base_release_is_made_shipped_and_used(tmp_path, monkeypatch, capfd):
    """By `make base` with small networks on small scans."""
    package, workspace = tmp_path / "package", tmp_path / "base"
    package.mkdir()
    for name, value in (("WORKSPACE", workspace), ("SETTINGS", TINY | {"split": base.SETTINGS["split"]})):
        monkeypatch.setattr(base, name, value)
    few = {"simulated": ("--scans", "4", "--cmbs", "10"), "simulated-locked": ("--scans", "2", "--cmbs", "4", "--seed", "2")}
    monkeypatch.setattr(base, "DATASETS", {name: (*options, "--preset", "small") for name, options in few.items()})
    monkeypatch.setattr(base_release, "FOLDER", package)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    base.make()
    bundle = load_base()
    assert set(bundle.lineage["datasets"]) == set(base.DATASETS) and bundle.lineage["initial"] == {"name": "random"}
    assert bundle.lineage["networks"]["unet"]["channels"] == TINY["unet"]["channels"]
    assert {"params_sha256", "git_commit", "dvc_lock_sha256"} <= set(bundle.lineage)
    assert (bundle.path / "evaluation/froc.json").is_file()

    (scan, *_) = find_scans(workspace / "data/raw/simulated-locked")
    with cmb_models.load(threads=1) as detector:
        assert detector.detect(scan.path).origin.endswith("trained on simulated scans only")

    # A workspace with these very scans must not start from it, one with others may.
    params, scans = load_params(workspace / "params.yaml"), read_json(workspace / INDEX)["scans"]
    with refused("leakage", case="base"):
        starting_point("base", scans, params.unet, params.cnn, workspace)
    locked = [s for s in scans if s["dataset"] == "simulated-locked"]
    source, weights = starting_point("base", locked, params.unet, params.cnn, workspace)
    assert source["manifest_sha256"] == bundle.manifest_sha256 and (weights / "unet.npz").is_file()

    capfd.readouterr()
    base.make()
    assert "the base release in the package is that of this training" in capfd.readouterr().out
    assert load_base() == bundle

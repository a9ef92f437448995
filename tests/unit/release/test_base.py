"""The base release: verified by the key next to it, refused if anything is missing or changed; and the checkout's own, if any."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from cmb_models import base_release
from cmb_models.files import read_json
from cmb_models.release.base import base_keys, load_base, open_base
from cmb_models.release.bundle import GOLDEN_ANSWER, GOLDEN_SCAN, WEIGHTS_DIR
from cmb_models.release.keys import new_keys
from scripts.base import DATASETS, MOST_BYTES, SETTINGS
from tests.support.bundles import find_nothing, make_base
from tests.support.imports import ROOT
from tests.support.refused import refused


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "package")


@pytest.fixture
def copied(package, tmp_path):
    return shutil.copytree(package, tmp_path / "package")


def test_it_is_verified_and_described(package):
    bundle = load_base(folder=package)
    assert bundle.path == package / "bundle" and list(base_keys(package)) == ["release.pub"]
    with open_base(1, folder=package) as detector:
        assert detector.bundle == bundle
        assert detector.origin == "base release 0.1.0, trained on simulated scans only"


def test_a_build_without_it(tmp_path):
    assert not base_release.is_shipped(tmp_path)
    for use in (load_base, lambda folder: open_base(folder=folder)):
        with refused("base-release-missing"):
            use(folder=tmp_path)


def append(file):
    with file.open("ab") as stream:
        stream.write(b" ")


DAMAGE = {
    "no key": (lambda f: (f / "release.pub").unlink(), "key-missing", "no such file"),
    "another key": (lambda f: shutil.copy(new_keys(f.parent / "other")[1], f / "release.pub"), "signature-invalid", "another key"),
    "no signature": (lambda f: (f / "bundle/model.sig").unlink(), "signature-missing", "model.sig"),
    "a changed file": (lambda f: append(f / "bundle/cnn.onnx"), "bundle-changed", "cnn.onnx changed"),
    "a changed manifest": (lambda f: append(f / "bundle/manifest.json"), "bundle-changed", "manifest.json changed"),
    "a further file": (lambda f: append(f / "bundle/more.txt"), "bundle-changed", "more.txt"),
    "an empty folder": (lambda f: [shutil.rmtree(f / "bundle"), (f / "bundle").mkdir()], "signature-missing", "model.sig"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_refused(copied, damage):
    change, code, got = DAMAGE[damage]
    change(copied)
    with refused(code, got=got):
        load_base(folder=copied)


def test_a_bundle_changed_and_signed_again_by_another_needs_that_ones_key(package, tmp_path):
    """Who replaces the key, too, is not noticed: the signature shows that both belong together."""
    other = make_base(tmp_path / "other", find_nothing)
    assert load_base(folder=other).manifest_sha256 != load_base(folder=package).manifest_sha256
    with refused("signature-invalid"):
        load_base(base_keys(package), other)
    shutil.copy(package / "release.pub", other / "release.pub")
    with refused("signature-invalid"):
        load_base(folder=other)


def test_git_ignores_none_of_its_files():
    """Else it would be missing in a clone, and in the wheel, since hatchling follows .gitignore."""
    names = [
        "bundle/unet.onnx",
        "bundle/weights/unet.npz",
        "bundle/golden/scan.nii.gz",
        "bundle/evaluation/froc.png",
        "release.pub",
    ]
    files = [f"cmb_models/base_release/{name}" for name in names]
    done = subprocess.run(["git", "check-ignore", "--no-index", *files], cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (1, "")


def test_the_shipped_one_is_whole_small_and_gives_its_known_answer():
    bundle = load_base()
    assert sum(p.stat().st_size for p in base_release.FOLDER.rglob("*") if p.is_file()) <= MOST_BYTES
    assert all((bundle.path / WEIGHTS_DIR / f"{name}.npz").is_file() for name in ("unet", "cnn"))
    answer = read_json(bundle.path / GOLDEN_ANSWER)
    with open_base() as detector:
        result = detector.detect(bundle.path / GOLDEN_SCAN)
    expected = np.array(answer["candidates"]).reshape(-1, 4)
    found = np.array([[*d.position_mm, d.score] for d in result.candidates]).reshape(-1, 4)
    assert result.threshold == answer["threshold"]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_shipped_one_is_of_simulated_scans_and_of_the_committed_settings():
    lineage = load_base().lineage
    assert set(lineage["datasets"]) == set(DATASETS)
    assert {name: record["scans"] for name, record in lineage["datasets"].items()} == {
        name: int(options[options.index("--scans") + 1]) for name, options in DATASETS.items()
    }
    for network in ("unet", "cnn"):
        assert list(lineage["networks"][network]["channels"]) == SETTINGS[network]["channels"]
    assert lineage["initial"] == {"name": "random"}

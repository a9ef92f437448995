"""A bundle that was touched is refused; one that was not answers as when it was made."""

import json
import shutil

import numpy as np
import pytest

from cmb_models.dataset.layout import phase_beside
from cmb_models.errors import InputError
from cmb_models.files import read_json, sha256_of, write_json
from cmb_models.io.nifti import read_volume
from cmb_models.release.bundle import (
    CARD_FILE,
    GOLDEN_ANSWER,
    GOLDEN_PHASE,
    GOLDEN_SCAN,
    MANIFEST_FILE,
    PIPELINE_FILE,
    REQUIRED,
    UNET_FILE,
    BundleDetector,
    config_sha256,
    load_bundle,
    write_manifest,
)
from tests.support.bundles import BLOBS_MM, MORE_MM, head, head_phase, make_bundle, settings, spots_found
from tests.support.refused import refused


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "b")


def test_loads_what_was_written(folder):
    bundle = load_bundle(folder)
    assert bundle.config == settings() and bundle.path == folder
    assert bundle.manifest_sha256 == sha256_of(folder / MANIFEST_FILE)
    assert bundle.lineage == {"data_sha256": "0" * 64} and bundle.metadata["name"] == "cmb-detector"


def test_its_known_answer_comes_out(folder):
    answer = BundleDetector(folder, threads=1).detect(read_volume(folder / GOLDEN_SCAN))
    known = read_json(folder / GOLDEN_ANSWER)
    np.testing.assert_allclose([[*d.position_mm, d.score] for d in answer.candidates], known["candidates"], atol=1e-5)
    assert answer.threshold == known["threshold"] and answer.release == 0
    assert answer.manifest_sha256 == sha256_of(folder / MANIFEST_FILE)


def test_finds_the_spots_of_another_head(folder):
    answer = BundleDetector(folder, threads=1).detect(head(seed=5))
    assert spots_found(answer) == len(answer.detections) == 3


@pytest.mark.parametrize("name", REQUIRED)
def test_one_flipped_bit_is_refused(folder, name):
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with refused("bundle-changed", got=f"{name} was changed"):
        load_bundle(folder)


def test_all_faults_are_told_at_once(folder):
    (folder / UNET_FILE).unlink()
    (folder / "golden" / "notes.txt").write_text("mine")
    (folder / CARD_FILE).write_text("changed")
    with pytest.raises(InputError) as raised:
        load_bundle(folder)
    assert raised.value.got == "unet.onnx is missing; golden/notes.txt is not in the manifest; model_card.md was changed"


def test_a_required_file_that_no_manifest_lists_is_missing(folder):
    (folder / UNET_FILE).unlink()
    write_manifest(folder)
    with refused("bundle-changed"):
        load_bundle(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', "\xff"])
def test_an_unreadable_manifest(folder, content):
    (folder / MANIFEST_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(InputError):
        load_bundle(folder)


def test_no_bundle_at_all(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with refused("bundle-incomplete"):
            load_bundle(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.update(colour="red"), "colour is not a known key"),
        (lambda p: p["candidates"].update(floor=2), "candidates.floor: .* 1 .got 2"),
        (lambda p: p.pop("patch_vox"), "patch_vox is missing"),
    ],
)
def test_impossible_settings_are_named(folder, change, words):
    pipeline = read_json(folder / PIPELINE_FILE)
    change(pipeline)
    write_json(folder / PIPELINE_FILE, pipeline)
    write_manifest(folder)
    with refused("bundle-damaged", got=words):
        load_bundle(folder)


def test_the_manifest_hash_follows_every_file(folder):
    before = load_bundle(folder).manifest_sha256
    assert write_manifest(folder) == before
    (folder / CARD_FILE).write_text("# Another card\n")
    assert write_manifest(folder) != before


def test_settings_hash_ignores_formatting_only():
    assert config_sha256(settings()) == config_sha256(settings().model_validate(json.loads(settings().model_dump_json())))
    assert config_sha256(settings(0.5)) != config_sha256(settings(0.6))


@pytest.fixture(scope="module")
def with_phase(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "p", phase=True)


def test_a_bundle_says_whether_it_uses_phase(original, with_phase):
    assert not BundleDetector(original, threads=1).requires_phase and BundleDetector(with_phase, threads=1).requires_phase
    assert not load_bundle(original).config.preprocess.phase and load_bundle(with_phase).config.preprocess.phase
    assert phase_beside(with_phase / GOLDEN_SCAN) == with_phase / GOLDEN_PHASE


def test_its_known_answer_comes_out_with_phase(with_phase):
    golden = [read_volume(with_phase / name) for name in (GOLDEN_SCAN, GOLDEN_PHASE)]
    answer = BundleDetector(with_phase, threads=1).detect(*golden)
    known = read_json(with_phase / GOLDEN_ANSWER)["candidates"]
    np.testing.assert_allclose([[*d.position_mm, d.score] for d in answer.candidates], known, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_phase_tells_a_calcification_that_the_swi_cannot(original, with_phase, sign):
    scan, phase = head(MORE_MM, seed=5), head_phase(MORE_MM, seed=5, sign=sign, calcified=1)
    alone = BundleDetector(original, threads=1).detect(scan, phase)  # left aside
    both = BundleDetector(with_phase, threads=1).detect(scan, phase)
    assert alone == BundleDetector(original, threads=1).detect(scan)
    assert spots_found(alone, MORE_MM) == 5 and spots_found(both, MORE_MM) == 4 and spots_found(both, BLOBS_MM[:1]) == 0


def test_a_release_with_phase_refuses_a_scan_without(with_phase):
    with refused("phase-missing", case="sub-3"):
        BundleDetector(with_phase, threads=1).detect(head(), case="sub-3")


def test_a_bundle_with_phase_needs_its_golden_phase(with_phase, tmp_path):
    folder = shutil.copytree(with_phase, tmp_path / "b")
    (folder / GOLDEN_PHASE).unlink()
    write_manifest(folder)
    with refused("bundle-incomplete") as refusal:
        load_bundle(folder)
    assert str(GOLDEN_PHASE) in refusal.value.expected

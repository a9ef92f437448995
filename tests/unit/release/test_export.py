"""Networks that use phase to a bundle: the ONNX files answer as torch does, and its papers say what it needs.

The same without phase is part of tests/integration/test_end_to_end.py.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cmb_models.config.params import load_params
from cmb_models.dataset.layout import read_phase
from cmb_models.files import read_json, write_json
from cmb_models.io.nifti import read_volume
from cmb_models.networks.cnn import PatchClassifier
from cmb_models.networks.unet import build_unet
from cmb_models.release import export
from cmb_models.release.bundle import (
    CARD_FILE,
    CNN_FILE,
    CNN_INPUT,
    CNN_OUTPUT,
    GOLDEN_ANSWER,
    GOLDEN_SCAN,
    UNET_FILE,
    BundleDetector,
)
from cmb_models.release.export import batches, largest_difference, volumes, write_bundle
from cmb_models.runtime.cpu import RUNTIMES, open_onnx
from cmb_models.training.validation.jobs import pipeline_config
from tests.support.imports import ROOT
from tests.support.refused import refused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(540)]
PARAMS = load_params(ROOT / "params.yaml")
LINEAGE = {
    "index": {
        "scans": [
            {"key": k, "subject": k, "sha256": f"{k} swi", "phase_sha256": f"{k} phase", "dataset": "s", "n_cmbs": 2} for k in "ab"
        ]
    },
    "split": {"folds": {"a": 0}, "locked": ["b"]},
    "recipe": {"scans": {"a": "a swi"}, "phases": {"a": "a phase"}, "gate": {"min_sensitivity": 0.6}},
    "calibration": {"subjects": ["a"]},
    **{f"tuned_{n}": {"study": n, "trial": 0} for n in ("unet", "cnn")},
}

STATISTICS = {"slice_mm": {"scans": 1, "quantiles": [2.0] * 21, "at_most": [1.0] * 21}}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, dict]:
    """A bundle of small networks as they are before any training, and its parity."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "bundle").mkdir()
    for name, content in LINEAGE.items():
        write_json(folder / f"{name}.json", content)
    params = PARAMS.model_copy(update={"preprocess": PARAMS.preprocess.model_copy(update={"phase": True})})
    config = pipeline_config(params, params.cnn)
    torch.manual_seed(0)
    networks = build_unet((4, 4, 8), (1, 2, 1)), PatchClassifier((4, 8), 0.0, config.patch_channels)
    inputs = {name: folder / f"{name}.json" for name in LINEAGE}
    return folder / "bundle", write_bundle(folder / "bundle", *networks, config, params.export, inputs, STATISTICS)


def test_onnx_answers_as_torch_and_the_golden_scan_has_its_phase(exported):
    folder, parity = exported
    assert max(parity.values()) < 1e-4
    detector = BundleDetector(folder, threads=1)
    answer = detector.detect(read_volume(folder / GOLDEN_SCAN), read_phase(folder / GOLDEN_SCAN))
    assert detector.requires_phase and len(answer.candidates) > 3
    known = read_json(folder / GOLDEN_ANSWER)["candidates"]
    np.testing.assert_allclose([[*d.position_mm, d.score] for d in answer.candidates], known, atol=1e-5)


def test_an_exported_network_that_is_wrong_at_one_size_alone_is_noticed():
    """Three volumes and three numbers of patches, each of another shape."""
    params = PARAMS.preprocess
    for inputs in (
        volumes(np.ones((1, 1, 16, 12, 8), np.float32), params.multiple_vox),
        batches(pipeline_config(PARAMS, PARAMS.cnn), 0),
    ):
        shapes = [array.shape for array in inputs]
        assert len(set(shapes)) == 3
        for wrong in shapes:
            found = largest_difference(lambda x: x, lambda x, wrong=wrong: x + 0.25 * (x.shape == wrong), inputs)
            assert found == pytest.approx(0.25)
    assert [v.shape[2:] for v in volumes(np.ones((1, 1, 16, 12, 8)), (4, 4, 4))] == [(16, 12, 8), (8, 4, 4), (16, 12, 24)]


def test_an_export_that_is_wrong_at_another_size_than_the_golden_scans_is_refused(exported, monkeypatch):
    folder, _ = exported
    golden, right = [], export.open_onnx

    def wrong_elsewhere(file, *names):
        network = right(file, *names)

        def run(array):
            golden[:] = golden or [array.shape]
            return network(array) + (0.01 if array.shape != golden[0] else 0)

        return run if Path(file).name == UNET_FILE else network

    monkeypatch.setattr(export, "open_onnx", wrong_elsewhere)
    config = pipeline_config(PARAMS, PARAMS.cnn)
    torch.manual_seed(0)
    networks = build_unet((4, 4, 8), (1, 2, 1)), PatchClassifier((4, 8), 0.0, config.patch_channels)
    (folder.parent / "wrong").mkdir()
    inputs = {name: folder.parent / f"{name}.json" for name in LINEAGE}
    with refused("export-parity"):
        write_bundle(folder.parent / "wrong", *networks, config, PARAMS.export, inputs)


def test_stage_2_with_phase_answers_the_same_by_every_runtime(exported):
    """The filters are of the first channel alone: nodes for one runtime, NumPy for the other."""
    folder, _ = exported
    patches = np.random.default_rng(1).standard_normal((5, 2, *PARAMS.cnn.patch_vox), dtype=np.float32)
    first, second = (open_onnx(folder / CNN_FILE, CNN_INPUT, CNN_OUTPUT, 1, runtime)(patches) for runtime in RUNTIMES)
    np.testing.assert_allclose(first, second, atol=1e-5)
    changed = open_onnx(folder / CNN_FILE, CNN_INPUT, CNN_OUTPUT)(patches * np.float32([1, -1])[:, None, None, None])
    assert np.abs(changed - first).max() > 1e-4  # phase counts


def test_stage_2_takes_two_channels_and_the_papers_say_so(exported):
    folder, _ = exported
    (patches,) = onnx.load(folder / CNN_FILE).graph.input
    assert [d.dim_value for d in patches.type.tensor_type.shape.dim][1:] == [2, *PARAMS.cnn.patch_vox]
    assert "phase image" in (folder / CARD_FILE).read_text(encoding="utf-8")
    lineage = read_json(folder / "lineage.json")
    assert lineage["training_scans"] == {"a": "a swi"} and lineage["training_phases"] == {"a": "a phase"}
    assert lineage["locked_scans"] == {"b": "b swi"} and lineage["locked_phases"] == {"b": "b phase"}
    assert lineage["gate_sha256"] == hashlib.sha256(b'{"min_sensitivity":0.6}').hexdigest()
    metadata = read_json(folder / "metadata.json")
    tensors = metadata["cnn_data_format"]["inputs"]["patches"], metadata["network_data_format"]["inputs"]["image"]
    assert [t["num_channels"] for t in tensors] == [2, 1] and tensors[0]["spatial_shape"] == list(PARAMS.cnn.patch_vox)
    known = {k: metadata["data"]["training"][k] for k in ("scans", "microbleeds", "with_phase", "datasets")}
    assert metadata["data"]["training"]["statistics"] == STATISTICS and "statistics" not in metadata["data"]["locked"]
    assert known == {"scans": 1, "microbleeds": 2, "with_phase": 1, "datasets": {"s": 1}}


def test_an_exported_network_says_nothing_of_the_machine(exported):
    for name in (UNET_FILE, CNN_FILE):
        content = (exported[0] / name).read_bytes()
        assert str(ROOT).encode() not in content and b"site-packages" not in content and b"stack_trace" not in content

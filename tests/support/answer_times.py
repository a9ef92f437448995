"""Seconds that a scan takes by a hand-made bundle and by networks of the shipped size, and the answers, as JSON.

    python -m tests.support.answer_times FOLDER

FOLDER holds what `write_networks` wrote.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from cmb_models.config.params import load_params
from cmb_models.networks.cnn import PatchClassifier
from cmb_models.networks.unet import build_unet
from cmb_models.release.bundle import CNN_FILE, CNN_INPUT, CNN_OUTPUT, UNET_FILE, UNET_INPUT, UNET_OUTPUT, BundleDetector
from cmb_models.release.export import export_networks
from cmb_models.runtime.cpu import open_onnx
from tests.support.bundles import head, make_bundle, settings
from tests.support.imports import ROOT


def fastest(call, times: int = 3) -> float:
    """Seconds of the fastest call, after a first one that allocates."""
    call()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def write_networks(folder: Path) -> None:
    """A hand-made bundle, and random networks of the shipped size."""
    params = load_params(ROOT / "params.yaml")
    make_bundle(folder / "bundle")
    torch.manual_seed(0)
    unet, cnn = build_unet(params.unet.channels, params.unet.strides), PatchClassifier(params.cnn.channels, 0.0)
    export_networks(unet, cnn, settings(), folder)


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 1, 96, 96, 48), dtype=np.float32)
    patches = rng.standard_normal((40, 1, *load_params(ROOT / "params.yaml").cnn.patch_vox), dtype=np.float32)
    detector, scan = BundleDetector(folder / "bundle", 1), head()
    run_unet = open_onnx(folder / UNET_FILE, UNET_INPUT, UNET_OUTPUT, 1)
    run_cnn = open_onnx(folder / CNN_FILE, CNN_INPUT, CNN_OUTPUT, 1)
    found = {
        "bundle_s": fastest(lambda: detector.detect(scan)),
        "unet_s": fastest(lambda: run_unet(image)),
        "cnn_s": fastest(lambda: run_cnn(patches)),
        "avx512": torch.backends.cpu.get_cpu_capability() == "AVX512",
        "heatmap": run_unet(image)[0, 0, ::4, ::4, ::4].ravel().tolist(),
        "scores": run_cnn(patches).tolist(),
        "detections": [[*d.position_mm, d.score] for d in detector.detect(scan).candidates],
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

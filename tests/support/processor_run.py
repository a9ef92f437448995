"""Some training steps, the heatmap of a scan after them, and a detection, as JSON: python -m tests.support.processor_run

The environment says which instructions oneDNN may use.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from cmb_models.detect.preprocess import prepare
from cmb_models.networks.unet import Heatmap
from cmb_models.release.bundle import BundleDetector
from cmb_models.runtime.torch import as_callable
from cmb_models.training.loop import train_unet
from cmb_models.training.precision import choose_precision
from tests.support.bundles import head, make_bundle, settings
from tests.support.trainings import unet_sampler

CPU = torch.device("cpu")
STEPS = 12  # few: once rounding has decided which of two patches is the harder negative, trainings part


def main() -> None:
    torch.set_num_threads(1)
    model = train_unet(unet_sampler(steps=STEPS, batch=2, hard_negatives_at=()), 3)
    scan = head(seed=4)
    with tempfile.TemporaryDirectory() as folder:
        answer = BundleDetector(make_bundle(Path(folder) / "bundle")).detect(scan)
    image = prepare(scan, settings().preprocess, "scan").image[None, None]
    found = {
        "precision": choose_precision(CPU).precision,
        "weights": torch.cat([p.flatten() for p in model.parameters()]).tolist(),
        "heatmap": as_callable(Heatmap(model), CPU)(image)[0, 0, ::4, ::4, ::2].ravel().tolist(),
        "detections": [[*d.position_mm, d.stage1_score, d.score] for d in answer.candidates],
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()

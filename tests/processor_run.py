"""Some training steps and two detections, as JSON: python -m tests.processor_run. What oneDNN may use, the environment says."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from cmb_models.bundle import BundleDetector
from cmb_models.detect.detector import detect
from cmb_models.networks.inference import as_callable
from cmb_models.networks.unet import Heatmap
from cmb_models.training.loop import train_unet
from cmb_models.training.precision import choose_precision
from tests.bundles import head, make_bundle, settings
from tests.trainings import unet_sampler

CPU = torch.device("cpu")
STEPS = 30


def main() -> None:
    torch.set_num_threads(1)
    model = train_unet(unet_sampler(steps=STEPS, batch=2), 3)
    scan, rows = head(seed=4), {}
    with tempfile.TemporaryDirectory() as folder:
        detector = BundleDetector(make_bundle(Path(folder) / "bundle"))
        _, classifier = detector._networks
        rows["bundle"] = detector(scan, "scan").candidates
        trained = as_callable(Heatmap(model), CPU)
        rows["trained"] = detect(scan, settings(), lambda image: trained(image), classifier, "scan").candidates
    found = {
        "precision": choose_precision(CPU).precision,
        "weights": torch.cat([p.flatten() for p in model.parameters()]).tolist(),
        "detections": {name: [[*d.world_mm, d.stage1_score, d.score] for d in found] for name, found in rows.items()},
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()

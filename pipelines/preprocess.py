"""Stage preprocess: bring the training scans to the working grid by the code that the server runs. Locked scans stay untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmb_models.config import load_params
from cmb_models.detect.preprocess import prepare
from cmb_models.files import read_json
from cmb_models.io.nifti import read_volume
from cmb_models.io.site import find_scans
from cmb_models.training.examples import Example, save_example
from cmb_models.training.progress import progress_bar
from pipelines.stage import INDEX, PARAMS, PREPARED, SPLIT, run


def main() -> None:
    params = load_params(PARAMS)
    folds = read_json(SPLIT)["folds"]
    datasets = sorted({s["dataset"] for s in read_json(INDEX)["scans"] if s["subject"] in folds})
    scans = [s for d in datasets for s in find_scans(Path(params.ingest.raw_dir) / d) if s.subject_key in folds]
    with progress_bar() as bar:
        for scan in bar.track(scans, description="preprocess scans"):
            volume = read_volume(scan.path)
            prepared = prepare(volume, params.preprocess, str(scan.path))
            save_example(PREPARED, Example(scan.key, scan.subject_key, prepared, scan.annotations, np.asarray(volume.affine)))


if __name__ == "__main__":
    run(main)

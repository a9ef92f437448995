"""Stage preprocess: bring the training scans to the working grid by the code that the server runs. Locked scans stay untouched."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from cmb_models.config.params import load_params
from cmb_models.files import atomic_directory, read_json, write_json
from cmb_models.training.data.preparation import prepare_training
from cmb_models.training.progress import progress_bar
from cmb_models.training.validation.pool import scheduler_workers
from cmb_models.workspace.paths import INDEX, INITIAL, PARAMS, PREPARED, SPLIT, STATISTICS
from cmb_models.workspace.stage import run


def main() -> None:
    params = load_params(PARAMS)
    raw, index = Path(params.ingest.raw_dir), read_json(INDEX)["scans"]
    with scheduler_workers() as pool, nullcontext() if pool else progress_bar() as bar:  # workers have a bar of their own
        track = (lambda items, what: bar.track(items, description=what)) if bar else (lambda items, _: items)
        statistics = prepare_training(raw, index, read_json(SPLIT), params.preprocess, params.lesion_bank, PREPARED, track, pool)
    write_json(STATISTICS, statistics)
    with atomic_directory(PREPARED / INITIAL.name) as temporary:  # of an earlier run there may be one
        shutil.copytree(INITIAL, temporary, dirs_exist_ok=True)


if __name__ == "__main__":
    run(main)

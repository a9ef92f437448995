"""Stage split: which subjects are locked for the final test, and which fold each other subject is in. Written as data."""

from __future__ import annotations

import logging

from cmb_models.config.params import load_params
from cmb_models.dataset.split import split_subjects
from cmb_models.files import read_json, write_json
from cmb_models.workspace.paths import INDEX, PARAMS, SPLIT
from cmb_models.workspace.stage import run

log = logging.getLogger(__name__)


def main() -> None:
    params = load_params(PARAMS)
    split = split_subjects(read_json(INDEX)["scans"], params.split, params.ingest.min_scans)
    write_json(SPLIT, split)
    for note in split["notes"]:
        log.warning(note)


if __name__ == "__main__":
    run(main)

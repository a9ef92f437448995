"""Stage ingest: check every scan and annotation below data/raw, list every fault, and write the index of what is there."""

from __future__ import annotations

from pathlib import Path

import typer

from cmb_models.config.params import load_params
from cmb_models.dataset.index import index_datasets, left_out, summary
from cmb_models.files import write_json
from cmb_models.workspace.paths import INDEX, PARAMS
from cmb_models.workspace.stage import run


def main() -> None:
    params = load_params(PARAMS)
    raw_dir = Path(params.ingest.raw_dir)
    index = index_datasets(raw_dir, params.preprocess)
    write_json(INDEX, index)
    typer.echo("\n".join([*summary(index), *left_out(raw_dir)]))


if __name__ == "__main__":
    run(main)

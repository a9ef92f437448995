"""Stage ingest: check every scan and annotation below data/raw, list every fault, and write the index of what is there."""

from __future__ import annotations

from pathlib import Path

import typer

from cmb_models.config.params import load_params
from cmb_models.dataset.index import index_datasets, left_out, replaced, summary
from cmb_models.files import read_json, write_json
from cmb_models.workspace.paths import BUNDLE_LINEAGE, INDEX, PARAMS
from cmb_models.workspace.recorded_data import require_recorded
from cmb_models.workspace.stage import run
from cmb_models.workspace.withdrawals import withdrawn_hashes


def main() -> None:
    params = load_params(PARAMS)
    raw_dir = Path(params.ingest.raw_dir)
    require_recorded(Path("."))
    index = index_datasets(raw_dir, params.preprocess, withdrawn_hashes(Path(".")))
    write_json(INDEX, index)
    notes = replaced(index, read_json(BUNDLE_LINEAGE) if BUNDLE_LINEAGE.is_file() else {})
    typer.echo("\n".join([*summary(index), *left_out(raw_dir), *notes]))


if __name__ == "__main__":
    run(main)

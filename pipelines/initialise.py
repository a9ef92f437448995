"""Stage initialise: the weights that every training starts from, random ones or those of a release."""

from __future__ import annotations

from cmb_models.base_release import FOLDER
from cmb_models.config.params import load_params
from cmb_models.files import atomic_directory, read_json
from cmb_models.registry.provenance.initial import starting_point
from cmb_models.training.initial import write_initial
from cmb_models.workspace.paths import INDEX, INITIAL, PARAMS
from cmb_models.workspace.stage import run


def main() -> None:
    params = load_params(PARAMS)
    searched = params.tune_cnn.search.frozen_levels or (0, 0)
    frozen = max(params.cnn.frozen_levels, *searched) if params.preprocess.phase else 0
    source, weights = starting_point(
        params.train.init_from, read_json(INDEX)["scans"], params.unet, params.cnn, base=FOLDER, frozen_with_phase=frozen
    )
    with atomic_directory(INITIAL) as folder:
        write_initial(folder, source, weights)


if __name__ == "__main__":
    run(main)

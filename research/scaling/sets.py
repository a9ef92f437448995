"""The scans of the scaling study: development phantoms, held-out phantoms and scans of the out-of-distribution simulator."""

from __future__ import annotations

from pathlib import Path

from cmb_models.config.params import LesionBankSettings, Params
from cmb_models.dataset.index import index_datasets
from cmb_models.files import atomic_directory
from cmb_models.phantom.dataset import write_dataset
from cmb_models.training.data.examples import Example, load_examples
from cmb_models.training.data.preparation import prepare_training
from research.ood_simulator.dataset import write_scans

DEVELOPMENT, PHANTOMS, OOD = "development", "phantoms", "ood"
CMBS_PER_SCAN = 4  # on average: more than in patients, since each scan is simulated to be learned from
FREE_SHARE = 0.1  # of the scans, without microbleeds
TEST_SCANS = 20
# Of no other set: by these OOD scans a network is chosen, so figures that are reported come from others.
SEEDS = {DEVELOPMENT: 7101, PHANTOMS: 7102, OOD: 7103}


def write_sets(folder: Path, scans: int, params: Params) -> None:
    """Simulate and prepare all sets in `folder`; what is complete there is kept.

    Args:
        folder: Folder for data/raw and data/prepared, outside the repository or ignored by git.
        scans: Development phantoms.
        params: Preprocessing and lesion bank.

    Raises:
        InputError: If the folder holds development phantoms of another number of scans.
    """
    raw = folder / "raw"
    for name, count in ((DEVELOPMENT, scans), (PHANTOMS, TEST_SCANS)):
        free = round(FREE_SHARE * count)
        write_dataset(
            raw / name,
            count,
            CMBS_PER_SCAN * count,
            SEEDS[name],
            free,
            presets=("random",),
            changes={"generation": 2},
            progress=True,
            faint_as_possible=name == DEVELOPMENT,
        )
    if not (raw / OOD / "annotations.csv").is_file():
        with atomic_directory(raw / OOD) as temporary:
            write_scans(temporary, TEST_SCANS, SEEDS[OOD])
    for name in SEEDS:
        bank = params.lesion_bank if name == DEVELOPMENT else LesionBankSettings(lesions=0, seed=0)
        _prepare(raw, name, folder / "prepared" / name, params, bank)


def examples_of(folder: Path, name: str, scans: int | None = None) -> list[Example]:
    """The prepared scans of a set, the first `scans` of them."""
    return load_examples(folder / "prepared" / name)[:scans]


def _prepare(raw: Path, name: str, into: Path, params: Params, bank: LesionBankSettings) -> None:
    if into.is_dir():
        return
    index = [entry for entry in index_datasets(raw)["scans"] if entry["dataset"] == name]
    folds = {entry["subject"]: 0 for entry in index}
    with atomic_directory(into) as temporary:
        prepare_training(
            raw, index, {"folds": folds, "locked": [], "locked_sha256": [], "notes": []}, params.preprocess, bank, temporary
        )

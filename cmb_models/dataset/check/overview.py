"""The data of a site as a whole: its datasets, what they have in common, whether they can be split, and what they can show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_models.config.params import Params
from cmb_models.dataset.check.dataset import DatasetCheck, check_dataset, faults_across
from cmb_models.dataset.entries import ScanEntry
from cmb_models.dataset.layout import ScanFile, dataset_folders, images_left_out, is_dataset, raw_datasets
from cmb_models.dataset.split import divide, fitting, split_faults
from cmb_models.errors import InputError
from cmb_models.evaluation.statistics.bootstrap import wilson
from cmb_models.volume import Volume

EXPECTED_SENSITIVITY = 0.8  # near what detectors from few scans reach; the interval is widest at .5 and little narrower here


@dataclass(frozen=True)
class Worth:
    """What a sensitivity measured on some microbleeds will be worth. what: of which scans. low, high: 95 % interval around 80 %."""

    what: str
    subjects: int
    cmbs: int
    low: float
    high: float


@dataclass
class DataCheck:
    """What `check_data` found. faults, warnings: of all datasets. advice: settings of the split that would fit, or ""."""

    datasets: list[DatasetCheck]
    faults: list[InputError]
    warnings: list[InputError]
    worth: list[Worth]
    advice: str = ""

    @property
    def left_out(self) -> dict[Path, str]:
        """Images that are not used, with the reason."""
        return {image: reason for check in self.datasets for image, reason in images_left_out(check.folder).items()}


def check_data(
    folder: Path,
    params: Params | None = None,
    on_scan: Callable[[ScanFile, Volume | None], None] = lambda scan, ras: None,
    withdrawn: Collection[str] = (),
) -> DataCheck:
    """Check a dataset, or a folder of datasets with what they have in common.

    Args:
        folder: A dataset, or a folder of datasets.
        params: Of the workspace whose raw data the folder is: then phase is checked if it is used, and whether the data can be
            split. None for a folder outside a workspace.
        on_scan: As in `check_dataset`.
        withdrawn: Hashes of scans that must not come back (workspace/withdrawals.py).

    Raises:
        InputError: If the folder holds no dataset.
    """
    folders = raw_datasets(folder) if params is not None else _named(folder)
    with_phase = params.preprocess if params is not None and params.preprocess.phase else None
    checks = [check_dataset(f, with_phase, on_scan) for f in folders]
    entries = [entry for check in checks for entry in check.entries.values()]
    faults = [*(fault for check in checks for fault in check.faults), *faults_across(entries, withdrawn)]
    warnings = [warning for check in checks for warning in check.warnings]
    usable = [entry for check in checks for entry in check.used]
    advice, worth = "", [_worth("all scans", usable)]
    if params is not None and all(check.is_annotated for check in checks):
        impossible = split_faults(usable, params.split, params.ingest.min_scans)
        faults += impossible
        if impossible and usable:
            advice = fitting(usable, params.split, params.ingest.min_scans)
        elif usable:
            free, locked = divide(usable, params.split)
            worth = [_worth("training, out of fold", _of(usable, free)), _worth("held-out test", _of(usable, sorted(locked)))]
    return DataCheck(checks, faults, warnings, worth, advice)


def _named(folder: Path) -> list[Path]:
    """The datasets that a folder is, or holds."""
    folders = [folder] if is_dataset(folder) else dataset_folders(folder)
    inner = [f for f in folders if any(map(is_dataset, dataset_folders(f)))]
    if inner and not any(map(is_dataset, folders)):
        remedy = f"name {inner[0]}, which holds some"
        raise InputError("dataset-layout", folder, "a dataset, or a folder of datasets", "neither", remedy)
    if not folders:
        remedy = "name the folder of a dataset, or import one with `cmb import`"
        raise InputError("dataset-layout", folder, "a dataset, or a folder of datasets", "none", remedy)
    return folders


def _of(entries: Sequence[ScanEntry], subjects: Sequence[str]) -> list[ScanEntry]:
    return [entry for entry in entries if entry["subject"] in subjects]


def _worth(what: str, entries: Sequence[ScanEntry]) -> Worth:
    cmbs = sum(entry["n_cmbs"] for entry in entries)
    low, high = wilson(EXPECTED_SENSITIVITY * cmbs, cmbs)
    return Worth(what, len({entry["subject"] for entry in entries}), cmbs, low, high)

"""The page of `cmb check`: faults, every scan with its marks, every marked microbleed."""

from __future__ import annotations

from collections.abc import Sequence

from cmb_models.dataset.check.overview import DataCheck
from cmb_models.report.dataset.pictures import ScanPicture
from cmb_models.report.environment import environment

TEMPLATE = "dataset.html.j2"


def render(check: DataCheck, pictures: Sequence[ScanPicture]) -> str:
    """The page as self-contained HTML. pictures: of all scans, in the order of the datasets."""
    rows = [("error", fault) for fault in check.faults] + [("warning", warning) for warning in check.warnings]
    names = [checked.folder.name for checked in check.datasets]
    by_dataset = {name: [p for p in pictures if p.scan.dataset == name] for name in names}
    return environment().get_template(TEMPLATE).render(check=check, rows=rows, pictures=by_dataset)

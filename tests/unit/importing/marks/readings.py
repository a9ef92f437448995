"""What was read, for comparison."""

from __future__ import annotations

from cmb_models.importing.marks.scans import position_mm
from tests.support.bundles import AFFINE


def places(readings, affine=AFFINE):
    """RAS mm of all marks in a scan of this affine, sorted."""
    return sorted(tuple(round(c, 3) for c in position_mm(m, affine)) for r in readings for m in r.marks)


def only(readings):
    (reading,) = readings
    return reading

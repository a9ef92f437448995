"""Marks of one scan in two versions: a table of crafted cases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cmb_models.dataset.versions.marks import SAME_LESION_MM, compare_empty, compare_marks
from cmb_models.io.annotations import Annotation

SCAN = ("site", "sub-1", "")
MARK = Annotation("sub-1", "", 10.0, 20.0, 30.0, 3.0, "cmb", "AB", "lobar")
OTHER = replace(MARK, x_mm=40.0)
CASES = {  # after, the kinds of change of MARK
    "the same": (MARK, []),
    "rounded by a spreadsheet": (replace(MARK, x_mm=10.09, diameter_mm=3.09), []),
    "moved by 0.2 mm": (replace(MARK, x_mm=10.2), [("moved",)]),
    "relabelled": (replace(MARK, label="mimic:vein"), [("relabelled",)]),
    "moved and relabelled": (replace(MARK, z_mm=31.0, label="possible"), [("moved", "relabelled")]),
    "measured again": (replace(MARK, diameter_mm=3.4), [("edited",)]),
    "another rater": (replace(MARK, rater="CD"), [("edited",)]),
    "another region": (replace(MARK, region="deep"), [("edited",)]),
    "too far for one lesion": (replace(MARK, x_mm=10.1 + SAME_LESION_MM), [("removed",), ("added",)]),
}


@pytest.mark.parametrize("case", CASES)
def test_each_change_has_its_kind(case):
    after, kinds = CASES[case]
    assert [c.kinds for c in compare_marks(SCAN, [MARK, OTHER], [OTHER, after])] == kinds


def test_marks_added_and_removed():
    (added,) = compare_marks(SCAN, [MARK], [MARK, OTHER])
    (removed,) = compare_marks(SCAN, [MARK, OTHER], [OTHER])
    assert (added.kinds, added.before, added.after) == (("added",), None, OTHER)
    assert (removed.kinds, removed.before, removed.after) == (("removed",), MARK, None)


def test_neighbours_are_not_taken_for_one_another():
    """A vein 3 mm from a microbleed: the vein stays, the microbleed is removed."""
    vein = replace(MARK, x_mm=13.0, label="mimic:vein")
    (change,) = compare_marks(SCAN, [MARK, vein], [vein])
    assert (change.kinds, change.before) == (("removed",), MARK)


def test_the_distance_is_told():
    (change,) = compare_marks(SCAN, [MARK], [replace(MARK, x_mm=13.0, y_mm=24.0)])
    assert change.moved_mm == pytest.approx(5.0)


def test_empty_readings_differ_by_rater():
    changes = compare_empty(SCAN, ["AB", "CD"], ["CD", "EF"])
    assert [(c.kind, c.rater) for c in changes] == [("removed", "AB"), ("added", "EF")]

"""Strata of lesions and scans, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmb_models.evaluation.matching import ScoredScan, voxel_sides_mm
from cmb_models.evaluation.statistics.bootstrap import wilson
from cmb_models.evaluation.statistics.strata import size_class, slice_class, strata, voxel_class
from cmb_models.io.annotations import Annotation


def marked(x, diameter, region="", label="cmb"):
    return Annotation("sub-1", "", float(x), 0.0, 0.0, diameter, label, "r", region)


def scored(name, lesions, found, voxel_mm=None):
    """found: (x, score) pairs."""
    centres = np.array([(x, 0.0, 0.0) for x, _ in found]).reshape(-1, 3)
    return ScoredScan(name, name, tuple(lesions), centres, np.array([s for _, s in found]), voxel_mm=voxel_mm)


# Site a: a 2.5 mm lesion found in the cortex, a 6 mm one missed in the thalamus, one false positive. Site b: one 2.5 mm lesion
# without a region, found. Site b also has a scan without lesions and with two false positives.
A = scored("a_sub-1", [marked(0, 2.5, "cortex"), marked(30, 6.0, "thalamus")], [(0, 0.9), (60, 0.8), (30, 0.1)], (0.8, 0.8, 3.0))
B = scored("b_sub-1", [marked(0, 2.5)], [(1, 0.9)], (0.5, 0.5, 4.0))
FREE = scored("b_sub-2", [], [(0, 0.9), (20, 0.9)], (0.5, 0.5, 4.0))
DRAWS = np.ones((10, 3), dtype=int)


def shown(key):
    return strata([A, B, FREE], 0.5, 3.0, DRAWS)[key]


def test_by_lesion():
    assert [(r["name"], r["n_scans"], r["n_lesions"], r["hits"], r["sensitivity"]) for r in shown("size")] == [
        ("2 to below 3 mm", 2, 2, 2, 1.0),
        ("5 to below 10 mm", 1, 1, 0, 0.0),
    ]
    assert [(r["name"], r["hits"]) for r in shown("region")] == [("cortex", 1), ("thalamus", 0), ("not given", 1)]
    assert shown("size")[0]["interval_95"] == wilson(2, 2)


def test_by_scan():
    rows = [(r["name"], r["n_scans"], r["n_lesions"], r["hits"], r["false_positives"], r["fp_per_scan"]) for r in shown("dataset")]
    assert rows == [("a", 1, 2, 1, 1, 1.0), ("b", 2, 1, 1, 2, 1.0)]
    assert [r["name"] for r in shown("slice_thickness")] == ["above 2 to 3 mm", "above 3 mm"]
    assert [r["name"] for r in shown("voxel_size")] == ["0.50 × 0.50 × 4.00 mm", "0.80 × 0.80 × 3.00 mm"]


def test_scans_without_lesions_have_no_sensitivity():
    row = strata([FREE], 0.5, 3.0, DRAWS[:, :1])["dataset"][0]
    assert (row["sensitivity"], row["interval_95"], row["fp_per_scan"]) == (None, [0.0, 1.0], 2.0)
    assert all(rows == [] for rows in strata([], 0.5, 3.0, DRAWS[:, :0]).values())


def test_strata_add_up_to_the_whole():
    for rows in strata([A, B, FREE], 0.5, 3.0, DRAWS).values():
        assert (sum(r["n_lesions"] for r in rows), sum(r["hits"] for r in rows)) == (3, 2)


@pytest.mark.parametrize(
    ("diameter", "name"),
    [(1.9, "below 2 mm"), (2.0, "2 to below 3 mm"), (3.0, "3 to below 5 mm"), (9.99, "5 to below 10 mm"), (10.0, "10 mm and more")],
)
def test_size_classes(diameter, name):
    assert size_class(diameter) == name


@pytest.mark.parametrize(
    ("thickness", "name"),
    [(0.8, "up to 1 mm"), (1.0, "up to 1 mm"), (1.75, "above 1 to 2 mm"), (3.0, "above 2 to 3 mm"), (4.0, "above 3 mm")],
)
def test_slice_classes(thickness, name):
    assert slice_class(thickness) == name


def test_what_is_not_known_has_a_class_of_its_own():
    assert slice_class(None) == voxel_class(None) == "not given"
    assert strata([replace(A, subject="sub-1", voxel_mm=None)], 0.5, 3.0, DRAWS[:, :1])["dataset"][0]["name"] == "not given"


def test_slices_are_the_longest_side_however_stored():
    assert voxel_sides_mm((3.0, 0.8, 0.80000001)) == (0.8, 0.8, 3.0)
    assert A.slice_mm == 3.0 and (A.dataset, FREE.dataset) == ("a", "b")

"""The benchmark by depth: what is touching, near or deeper, how hits are shared out, and that halves are judged by each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmb_models.config.params import load_params
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.training.data.examples import save_example
from cmb_models.training.validation.jobs import UnetJob, pipeline_config
from research.depth import DEEPER, NEAR, RATES, ROOT, TOUCHING, depth_class, depths_mm, found, run_half
from tests.support.examples import AFFINE, UNET, example

CENTRES = [(4, 16, 16), (12, 16, 16), (24, 16, 16)]  # mm: part of the outside, near it, and far from it


@pytest.fixture
def scan():
    """Outside below 8 mm along the first axis, with a dark spot of its own in the middle of the brain."""
    made = example(CENTRES)
    image = made.prepared.image
    image[:] = 0
    image[:8] = -3
    image[0, 0, 0] = -4  # air
    image[24, 16, 8] = -3
    return made


def test_depth_is_to_the_outside_and_not_to_the_lesion_itself(scan):
    assert depths_mm(scan) == pytest.approx([0, 5, 17])
    assert [depth_class(d) for d in depths_mm(scan)] == [TOUCHING, NEAR, DEEPER]


def test_without_a_dark_outside_all_are_deep(scan):
    scan.prepared.image[:] = 0
    assert [depth_class(d) for d in depths_mm(scan)] == [DEEPER] * 3


def test_hits_are_shared_out_by_depth(scan):
    """Two found, with a false positive scored between them: at 0.5 a scan the lower one does not count."""
    scored = ScoredScan("a", "s", scan.annotations, np.array([CENTRES[2], (5.0, 5.0, 5.0), CENTRES[0]]), np.array([0.9, 0.5, 0.4]))
    few, *_, many = found([scored], {"a": depths_mm(scan)}, 3.0)
    assert (few["fp_per_scan"], many["fp_per_scan"]) == (RATES[0], RATES[-1])
    assert {n: (c["found"], c["of"]) for n, c in few["by_depth"].items()} == {TOUCHING: (0, 1), NEAR: (0, 1), DEEPER: (1, 1)}
    assert {n: (c["found"], c["of"]) for n, c in many["by_depth"].items()} == {TOUCHING: (1, 1), NEAR: (0, 1), DEEPER: (1, 1)}
    assert (few["sensitivity"], many["sensitivity"]) == pytest.approx((1 / 3, 2 / 3))


def test_each_half_is_looked_through_and_known_for_what_it_is(tmp_path):
    for subject in "ab":
        save_example(tmp_path, replace(example([(10, 10, 10)], key=subject), subject=subject))
    params = load_params(ROOT / "params.yaml")
    config = pipeline_config(params, params.cnn)
    job = UnetJob(tmp_path, frozenset("a"), frozenset("b"), UNET.model_copy(update={"steps": 2}), config, 0)
    known, unknown = run_half(job)
    assert [m.key for m in known] == ["a"] and [m.key for m in unknown] == ["b"]
    assert all(m.trained_on == {"a"} and len(m.index_vox) == len(m.stage1_score) for m in known + unknown)
    assert np.allclose(unknown[0].centre_mm, unknown[0].index_vox @ AFFINE[:3, :3])

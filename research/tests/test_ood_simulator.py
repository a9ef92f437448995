"""A release evaluated on out-of-distribution scans: on two small ones and on detections made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmb_models.config.params import Decision, Fusion, load_params
from cmb_models.dataset.layout import find_scans
from cmb_models.errors import InputError
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.rows import write_rows
from cmb_models.io.annotations import Annotation
from cmb_models.release.bundle import BundleDetector
from research.ood_simulator import __main__ as command
from research.ood_simulator.dataset import draw_count, write_scans
from research.ood_simulator.evaluate import own_locked, score, table, with_intervals, without_mimics
from tests.support.bundles import make_bundle
from tests.support.imports import ROOT

COARSE = (1.4, 1.4, 4.0)  # mm: quick to draw
PARAMS = load_params(ROOT / "params.yaml")
DECISION = Decision(slope=1, intercept=0, threshold=0.5)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two coarse scans in a site's layout, below raw/other."""
    raw = tmp_path_factory.mktemp("written") / "raw"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("research.ood_simulator.dataset.PROTOCOLS", (COARSE,))
        for module in ("anatomy", "scan"):  # heads on a grid of twice the step: an eighth of the time
            patched.setattr(f"research.ood_simulator.{module}.STEP_MM", 2.4)
        write_scans(raw / "other", 2, 5)
    return raw


def test_scans_lie_in_a_sites_layout_and_nothing_is_overwritten(written):
    scans = find_scans(written / "other")
    assert [s.subject for s in scans] == ["sub-001", "sub-002"]
    with pytest.raises(InputError, match="new or empty folder"):
        write_scans(written / "other", 2, 5)


def test_a_release_is_measured_on_them(written, tmp_path):
    detector = BundleDetector(make_bundle(tmp_path / "bundle"))
    scans = score(detector, written, "other")
    figures = with_intervals(scans, DECISION, PARAMS)
    assert figures["n_scans"] == 2 and figures["n_lesions"] == sum(len(s.cmbs) for s in scans)
    assert [row["fp_per_scan"] for row in figures["froc"]] == [0.5, 1.0, 2.0, 4.0]
    assert {row["name"] for row in figures["strata"]["voxel_size"]} == {"1.40 × 1.40 × 4.00 mm"}
    assert sum(figures["false_positives_at"].values()) == figures["false_positives"]
    assert sum(figures["missed_by"].values()) == figures["n_lesions"] - figures["hits"]
    assert "at 0.5 FP" in table({"made": figures})


def found_one() -> ScoredScan:
    marked = (Annotation("sub-1", "", 0.0, 0.0, 0.0, 3.0, "cmb", "r"), Annotation("sub-1", "", 50.0, 0, 0, 3.0, "mimic:iron", "r"))
    centres = np.array([[1.0, 0, 0], [50.0, 0, 1.0], [90.0, 0, 0]])
    scores = np.array([0.9, 0.8, 0.2])
    return ScoredScan("x_sub-1", "x_sub-1", marked, centres, scores, scores, scores, (1.0, 1.0, 3.0))


def test_figures_by_hand():
    figures = with_intervals([found_one()], DECISION, PARAMS)
    assert figures["at_threshold"]["sensitivity"]["value"] == 1 and figures["false_positives_at"] == {"mimic:iron": 1}
    assert [row["sensitivity"] for row in figures["froc"]] == [1, 1, 1, 1]
    assert figures["highest_sensitivity_fp_per_scan"] == 2


def test_mimics_left_aside_are_neither_hits_nor_false():
    (apart,) = without_mimics([found_one()], 3.0)
    assert apart.scores.tolist() == apart.stage1.tolist() == [0.9, 0.2] and apart.annotations == found_one().annotations
    near = Annotation("sub-1", "", 2.0, 0.0, 0.0, 3.0, "mimic:iron", "r")
    both = replace(found_one(), annotations=(*found_one().annotations, near))
    assert without_mimics([both], 3.0)[0].scores.tolist() == [0.9, 0.2]  # what lies at a microbleed stays, whatever is near
    rows = with_intervals([replace(found_one(), scores=np.array([0.8, 0.9, 0.2]))] * 2, DECISION, PARAMS)
    assert [r["sensitivity"] for r in rows["froc"]] == [0, 1, 1, 1]
    assert [r["sensitivity"] for r in rows["froc_without_mimics"]] == [1, 1, 1, 1]
    plain = replace(found_one(), annotations=())
    assert len(without_mimics([plain], 3.0)[0].scores) == 3
    empty = ScoredScan("x_sub-1", "x_sub-1", found_one().annotations, np.zeros((0, 3)), np.zeros(0))
    assert len(without_mimics([empty], 3.0)[0].scores) == 0


def test_only_the_releases_own_rows_stand_beside(tmp_path):
    write_rows(tmp_path, [found_one()], 0.5, 3.0, Fusion())
    assert own_locked(tmp_path, 0.5)[0].scores.tolist() == [0.9, 0.8, 0.2]
    with pytest.raises(InputError, match=r"release's threshold, 0.400000"):
        own_locked(tmp_path, 0.4)


def test_one_release_must_be_named(tmp_path):
    assert command.chosen_bundle(None, tmp_path, False) == tmp_path / "models/bundle"
    assert command.chosen_bundle(None, None, True) is None
    for both in ((tmp_path, tmp_path), (None, None)):
        with pytest.raises(InputError, match="--bundle or --workspace"):
            command.chosen_bundle(*both, False)


def test_counts_are_the_published_ones():
    rng = np.random.default_rng(0)
    counts = np.array([draw_count(rng) for _ in range(4000)])
    assert counts.max() == 14 and np.mean(counts == 0) == pytest.approx(0.2, abs=0.03)
    assert np.mean(counts == 1) == pytest.approx(0.8 * 0.49, abs=0.03)

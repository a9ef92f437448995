"""Whatever was found in whatever scans: the figures come back from the saved rows alone, and keep their laws."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from cmb_models.config.params import Fusion, load_params
from cmb_models.evaluation.froc import froc
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.rows import lesion_rows, write_rows
from cmb_models.evaluation.statistics.counts import icc_2_1, weighted_kappa
from cmb_models.evaluation.summary import cross_validation_metrics, locked_metrics, recomputed
from cmb_models.io.annotations import Annotation
from tests.support.imports import ROOT

_SHIPPED = load_params(ROOT / "params.yaml")
PARAMS = _SHIPPED.model_copy(update={"evaluate": _SHIPPED.evaluate.model_copy(update={"bootstrap": 8})})
TOLERANCE = PARAMS.evaluate.tolerance_mm
places = st.floats(-12, 12)  # mm: close enough together for lesions to compete for candidates
scores = st.sampled_from([0.05, 1 / 3, 0.5, 0.7]) | st.floats(0, 1)


@st.composite
def scored_scans(draw) -> list[ScoredScan]:
    """One to four scans of one or two sites; lesions, possible places and mimics; candidates with both stages' scores."""
    found = []
    for n in range(draw(st.integers(1, 4))):
        label = st.sampled_from(["cmb", "cmb", "possible", "mimic:vein"])
        rows = draw(st.lists(st.tuples(places, places, st.floats(0.5, 12), label), max_size=4))
        subject, site = f"sub-{n}", draw(st.sampled_from(["a", "b_c"]))
        marked = tuple(
            Annotation(subject, "", x, y, 0.0, d, label, "r", draw(st.sampled_from(["", "deep"]))) for x, y, d, label in rows
        )
        candidates = draw(st.lists(st.tuples(places, places, scores, scores), max_size=6))
        centres = np.array([(x, y, 0.0) for x, y, _, _ in candidates]).reshape(-1, 3)
        stage1, stage2 = (np.array([c[k] for c in candidates], dtype=float) for k in (2, 3))
        name = f"{site}_{subject}"
        found.append(ScoredScan(name, name, marked, centres, np.sqrt(stage1 * stage2), stage1, stage2, (0.5, 0.5, 2.0)))
    return found


@given(scored_scans(), scores)
def test_locked_figures_come_back_from_the_rows_alone(scans, threshold):
    reported = locked_metrics(scans, threshold, PARAMS, np.random.default_rng(PARAMS.evaluate.seed))
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), scans, threshold, TOLERANCE, Fusion())
        assert recomputed(Path(folder), PARAMS) == reported


@given(scored_scans())
def test_out_of_fold_figures_come_back_from_the_rows_alone(scans):
    assume(len(scans) > 1)
    folds = {s.subject: n % 2 for n, s in enumerate(scans)}
    reported = cross_validation_metrics(scans, folds, PARAMS, np.random.default_rng(PARAMS.evaluate.seed))
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), scans, reported[0]["threshold"], TOLERANCE, Fusion(), folds)
        assert recomputed(Path(folder), PARAMS) == reported


@given(scored_scans(), scores)
def test_hits_are_the_lesions_without_a_reason(scans, threshold):
    report = [r for r in lesion_rows(scans, threshold, TOLERANCE, Fusion()) if r["label"] == "cmb"]
    metrics, _ = locked_metrics(scans, threshold, PARAMS, np.random.default_rng(0))
    assert sum(r["hit"] for r in report) == metrics["hits"] and len(report) == metrics["n_lesions"]
    assert all(bool(r["rejected"]) != bool(r["hit"]) for r in report)


@given(scored_scans())
def test_lower_thresholds_never_find_fewer(scans):
    curve = froc(scans, TOLERANCE)
    assert (np.diff(curve.hits) >= 0).all()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=2, max_size=8))
def test_agreement_is_at_most_one_and_the_same_either_way_round(pairs):
    table = np.array(pairs)
    for figure in (icc_2_1(table), weighted_kappa(*table.T)):
        assert np.isnan(figure) or figure <= 1 + 1e-9
    np.testing.assert_allclose(icc_2_1(table), icc_2_1(table[:, ::-1]))
    np.testing.assert_allclose(weighted_kappa(*table.T), weighted_kappa(*table.T[::-1]))

"""Comparison of two results by hand-made candidates in hand-made heads: classes, places, fields of view, files, pictures."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import cmb_models
from cmb_models.client.outputs import ScanResult
from cmb_models.detection import Detection, DetectionResult
from cmb_models.errors import InputError
from cmb_models.files import read_json
from cmb_models.followup.compare import EDGE_MM, TABLE, in_view, is_cut, shows
from cmb_models.followup.figure import page_names, write_pages
from cmb_models.followup.outputs import CSV_FILE, JSON_FILE, PAIR_COLUMNS, Pair, write_comparison, write_lesions, write_pairs
from cmb_models.registration.evidence import mapped
from cmb_models.registration.head import find_head
from cmb_models.volume import Volume
from tests.support.visits import BEFORE_MM, NEW_MM, moved, visit

CLOSE_MM = 1.2  # nothing but a weak texture shows how a nearly round head is turned
NOTABLE_MM = (8.0, -12.0, 4.0)  # below the threshold in the baseline


def result(volume: Volume, *found: tuple[tuple[float, float, float], float]) -> DetectionResult:
    """Candidates at places in RAS mm, with scores."""
    candidates = tuple(Detection(place, (0, 0, 0), 4.0, score, score, score) for place, score in found)
    return DetectionResult(candidates, 0.5, manifest_sha256="m", volume=volume)


@pytest.fixture(scope="module")
def pair():
    """A baseline with two lesions and a faint candidate; a follow-up with one of them, two new ones and one at the faint place."""
    followup, pose = moved(visit((*BEFORE_MM, *NEW_MM), seed=1))
    at = [tuple(float(v) for v in mapped(pose, np.array([p]))[0]) for p in (BEFORE_MM[0], *NEW_MM, NOTABLE_MM)]
    baseline = result(visit(BEFORE_MM, seed=0), (BEFORE_MM[0], 0.9), (BEFORE_MM[1], 0.8), (NOTABLE_MM, 0.2))
    return baseline, result(followup, (at[0], 0.95), (at[1], 0.9), (at[2], 0.8), (at[3], 0.6)), pose


@pytest.fixture(scope="module")
def comparison(pair):
    return cmb_models.compare(pair[0], pair[1])


def test_every_lesion_has_its_class_and_place(comparison, pair):
    assert [lesion.change for lesion in comparison.lesions] == ["new", "new", "uncertain-new", "persisting", "not-seen-again"]
    places = [NEW_MM[0], NEW_MM[1], NOTABLE_MM, BEFORE_MM[0], BEFORE_MM[1]]
    for lesion, place in zip(comparison.lesions, places, strict=True):
        assert np.linalg.norm(np.array(lesion.baseline_mm) - place) < CLOSE_MM
        assert np.linalg.norm(np.array(lesion.followup_mm) - mapped(pair[2], np.array([place]))[0]) < CLOSE_MM
    assert comparison.counts["new"] == 2 and comparison.severity == comparison.severity_with_uncertain == "mild"
    assert comparison.lesions[3].distance_mm < CLOSE_MM and np.isnan(comparison.lesions[0].distance_mm)
    # Two new ones, .9 and .8; the third at most .6 * (1 - .2 * 19 / (.2 * 19 + .8)) = .104.
    assert comparison.probabilities["none"] == pytest.approx(0.1 * 0.2 * 0.896, abs=0.02)
    assert 1.7 < comparison.expected_new < 1.95


def test_a_higher_threshold_leaves_fewer_detections(pair):
    high = cmb_models.compare(pair[0], pair[1], threshold=0.85)
    assert high.counts["new"] == 1 and high.counts["persisting"] == 1 and high.counts["not-seen-again"] == 0


def test_lesions_outside_of_the_baseline_are_not_new(pair):
    baseline, followup, _ = pair
    below = replace(baseline, volume=Volume(baseline.volume.data[:, :, :20], baseline.volume.affine))
    below = replace(below, candidates=tuple(c for c in below.candidates if c.position_mm[2] < 0))
    found = cmb_models.compare(below, followup)
    # The upper one of the two new lesions, at z = 8 mm, lies above the last slice at z = 6 mm.
    assert [round(lesion.baseline_mm[2]) for lesion in found.of("new") if lesion.baseline_mm[2] > 6] == []
    assert any(abs(lesion.baseline_mm[2] - 8) < 1 for lesion in found.of("outside-baseline"))
    assert any(abs(lesion.baseline_mm[2] + 8) < 1 for lesion in found.of("new"))


def test_two_heads_are_not_compared(pair):
    other = replace(pair[0], volume=visit(BEFORE_MM, seed=0, head_seed=5))
    with pytest.raises(InputError) as refused:
        cmb_models.compare(other, pair[1])
    assert refused.value.code == "registration-failed"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"volume": None}, "results-incomplete"),
        ({"volume": Volume(np.ones((20, 20, 20)), np.eye(4), in_scanner=False)}, "scan-space"),
        ({"manifest_sha256": "another"}, "results-mixed"),
    ],
)
def test_results_that_do_not_fit_are_refused(pair, change, code):
    with pytest.raises(InputError) as refused:
        cmb_models.compare(replace(pair[0], **change), pair[1])
    assert refused.value.code == code


def test_a_field_of_view_has_an_edge():
    # Voxels of 2 mm from -1 to 19 mm along each axis: whole lesions from 1 to 17 mm.
    affine = np.diag([2.0, 2, 2, 1])
    inside, outside = EDGE_MM - 1 + 0.01, EDGE_MM - 1 - 0.01
    places = np.array([[9.0, 9, 9], [inside, 9, 9], [outside, 9, 9], [9, 9, 18 - inside], [9, 9, 18 - outside]])
    assert in_view(affine, (10, 10, 10), places).tolist() == [True, True, False, True, False]
    assert in_view(affine, (10, 10, 10), np.zeros((0, 3))).shape == (0,)


def test_no_candidates_are_no_lesions(pair):
    found = cmb_models.compare(result(pair[0].volume), result(pair[1].volume))
    assert found.lesions == () and found.severity == "none" and found.probabilities["none"] == 1
    assert list(found.to_dataframe().columns) == list(TABLE) and len(found.to_dataframe()) == 0
    assert page_names(found) == []


def test_files_hold_what_was_found(comparison, tmp_path):
    write_lesions(tmp_path / CSV_FILE, comparison)
    rows = list(csv.DictReader((tmp_path / CSV_FILE).open(newline="")))
    assert [r["change"] for r in rows] == [lesion.change for lesion in comparison.lesions]
    assert rows[0]["baseline_score"] == "" and rows[0]["followup_score"] == "0.900000" and rows[0]["distance_mm"] == ""
    assert float(rows[3]["baseline_x_mm"]) == BEFORE_MM[0][0] and float(rows[3]["distance_mm"]) < CLOSE_MM
    assert (rows[2]["is_baseline_found"], rows[2]["is_followup_found"]) == ("0", "1")
    write_comparison(tmp_path / JSON_FILE, comparison, ScanResult("one", "one.nii"), ScanResult("two", "two.nii"))
    saved = read_json(tmp_path / JSON_FILE)
    assert (
        saved["format"] == 1 and saved["counts"]["new"] == 2 and saved["severity"] == "mild" and saved["baseline"]["scan"] == "one"
    )
    matrix = np.array(saved["registration"]["baseline_to_followup_mm"])
    lesion = saved["lesions"][0]
    assert lesion["baseline"]["score"] is None and lesion["distance_mm"] is None
    assert mapped(matrix, np.array(lesion["baseline"]["world_mm"]))[0] == pytest.approx(lesion["followup"]["world_mm"])


def test_a_table_of_pairs_has_a_row_for_a_failed_one(comparison, tmp_path):
    done = Pair("good", tmp_path / "a.nii", tmp_path / "b.nii", comparison)
    bad = Pair("bad", tmp_path / "a.nii", tmp_path / "c.nii", error="no", code="registration-failed")
    write_pairs(tmp_path / "pairs.csv", [done, bad])
    good, failed = csv.DictReader((tmp_path / "pairs.csv").open(newline=""))
    assert tuple(good) == PAIR_COLUMNS and (good["new"], good["uncertain_new"], good["severity"], good["error"]) == (
        "2",
        "1",
        "mild",
        "",
    )
    assert sum(float(good[f"p_{name}"]) for name in comparison.probabilities) == pytest.approx(1, abs=1e-5)
    assert failed["error"] == "registration-failed" and failed["new"] == failed["severity"] == ""


def test_pages_show_the_lesions_in_the_follow_up_alone(comparison, tmp_path):
    (page,) = write_pages(tmp_path, comparison, "pair")
    image = np.asarray(Image.open(page).convert("L"), dtype=float)
    height, width = image.shape
    # The first lesion is new: its axial views are the first one of each half, in the first row.
    row = slice(int(2.12 * 110), int(2.35 * 110))

    def darkest(left_in: float) -> float:
        """Of the middle of an axial view that begins so many inches from the left."""
        view = image[row, int((left_in + 0.83) * 110) : int((left_in + 1.06) * 110)]
        return float(np.percentile(view, 20))

    assert width == 1320 and height > width / 2
    assert darkest(0.15) > 150 > 100 > darkest(0.15 + (12 - 0.45 - 0.2) / 2 + 0.1 + 0.15)


def test_a_full_list_whose_last_candidate_counts_is_cut():
    full = result(visit((), seed=0), *(((float(n), 0.0, 0.0), 0.3) for n in range(60)))
    assert is_cut(full) and not is_cut(full, 61)
    assert not is_cut(replace(full, candidates=(*full.candidates[:59], replace(full.candidates[0], score=0.01))))
    assert not is_cut(replace(full, candidates=()))


def test_a_place_without_signal_is_not_shown_though_it_lies_in_the_field_of_view():
    """As of a padded scan."""
    volume = visit((), seed=0)
    data = volume.data.copy()
    data[:, :, 20:] = 0
    padded, places = Volume(data, volume.affine), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 14.0]])
    assert in_view(volume.affine, data.shape, places).all()
    assert shows(find_head(volume), volume, places).all()
    assert shows(find_head(padded), padded, places).tolist() == [True, False]

"""The shared path with networks that are plain functions, so that every number can be followed."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from cmb_models.config.params import Decision, Fusion
from cmb_models.detect.detector import decide, detect
from cmb_models.detect.fusion import before_calibration, calibrated, fused_score
from cmb_models.detect.validation import CandidateList
from cmb_models.evaluation.operating_point import stage2_weight
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE, BLOBS_MM, head, in_bounds, settings, spots_found
from tests.support.refused import refused

CONFIG = settings(threshold=0.5)
PATCHES = (20, 20, 10)


def marking(points: dict):
    """A stage 1 that answers these voxels of the working grid with these scores."""

    def unet(image: np.ndarray) -> np.ndarray:
        out = np.zeros_like(image)
        for index, score in points.items():
            out[(0, 0, *index)] = score
        return out

    return unet


def answering(*scores):
    def cnn(patches: np.ndarray) -> np.ndarray:
        assert patches.shape == (len(scores), 1, *PATCHES) and patches.dtype == np.float32
        return np.float32(scores)

    return cnn


def dark_spots(image: np.ndarray) -> np.ndarray:
    """A stage 1 that finds dark spots: how much darker a place is than what lies around it."""
    x = image[0, 0]
    contrast = ndimage.gaussian_filter(x, (4, 4, 2)) - ndimage.gaussian_filter(x, (1.5, 1.5, 0.75))
    return (1 / (1 + np.exp(-4 * contrast)))[None, None].astype(np.float32)


def never(_):
    raise AssertionError("stage 2 was asked without candidates")


def test_scores_and_places_by_hand():
    # head() is RAS on the working grid already: voxel (30, 40, 16) lies at (30 - 40, 40 - 40, 2 * 16 - 32) mm.
    answer = detect(head(), CONFIG, marking({(30, 40, 16): 0.64, (50, 20, 10): 0.36}), answering(0.36, 1.0))
    best, second = answer.candidates
    assert best.position_mm == (10, -20, -12) and best.index == (50, 20, 10)
    assert best.score == pytest.approx(0.6) and best.stage1_score == pytest.approx(0.36) and best.stage2_score == 1
    assert second.position_mm == (-10, 0, 0) and second.index == (30, 40, 16)
    assert second.score == pytest.approx(0.48)  # sqrt(0.64 * 0.36)
    assert answer.detections == (best,) and answer.above(0.4) == (best, second) and answer.threshold == 0.5
    assert answer.release == 0 and answer.manifest_sha256 == ""


def test_a_scan_is_scored_as_its_release_joins_scores():
    log_odds = CONFIG.model_copy(update={"decision": CONFIG.decision.model_copy(update={"joint_mean": "log_odds"})})
    answer = detect(head(), log_odds, marking({(30, 40, 16): 0.64, (50, 20, 10): 0.36}), answering(0.2, 0.8))
    # Odds of 9 / 16 and 4, whose geometric mean is 3 / 2; of 16 / 9 and 1 / 4: 2 / 3.
    assert [c.score for c in answer.candidates] == pytest.approx([0.6, 0.4])


def test_stage_two_sees_the_patch_around_its_candidate():
    seen = []

    def cnn(patches):
        seen.append(patches)
        return np.array([0.5])

    volume = head()
    volume.data[30, 35, 16] = 1e4  # the one voxel that is clipped above
    detect(volume, CONFIG, marking({(30, 35, 16): 0.9}), cnn)
    patch = seen[0][0, 0]
    assert patch.shape == PATCHES and np.argwhere(patch == 4).tolist() == [[10, 10, 5]]


def test_no_candidates_no_second_stage():
    answer = detect(head(), CONFIG, marking({}), never)
    assert answer.candidates == () and answer.detections == () and answer.threshold == 0.5


def test_nothing_is_found_in_the_padding():
    volume = head(shape=(75, 80, 30))
    answer = detect(volume, CONFIG, marking({(78, 40, 16): 0.9, (40, 40, 31): 0.9, (40, 40, 29): 0.8}), answering(0.5))
    assert [c.index for c in answer.candidates] == [(40, 40, 29)]


@pytest.mark.parametrize(
    ("unet", "cnn", "words"),
    [
        (marking({(30, 40, 16): np.nan}), never, "stage 1's heatmap: expected finite values, got 1"),
        (marking({(30, 40, 16): 0.9}), answering(np.nan), "stage 2's scores: expected finite values, got 1"),
    ],
)
def test_a_broken_network_is_no_empty_answer(unet, cnn, words):
    with pytest.raises(FloatingPointError, match=words):
        detect(head(), CONFIG, unet, cnn)


def test_bad_scans_are_refused_by_name():
    with refused("scan-constant"):
        detect(Volume(np.ones((40, 40, 20), dtype=np.float32), AFFINE), CONFIG, never, never, "sub-9")


ORDERS = list(itertools.permutations(range(3)))
FLIPS = {"RAS": (1, 1, 1), "LAS": (-1, 1, 1), "LPS": (-1, -1, 1), "LPI": (-1, -1, -1)}


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("order", ORDERS)
def test_storage_order_does_not_matter(flip, order):
    """The same head stored with other axes gives the same world positions, and indices into the file as stored."""
    first = head()
    reference = detect(first, CONFIG, dark_spots, lambda p: np.full(len(p), 0.9))
    to_first = np.zeros((4, 4))  # index as stored to index in `first`
    for new, old in enumerate(order):
        to_first[old, new] = FLIPS[flip][old]
        if FLIPS[flip][old] < 0:
            to_first[old, 3] = first.data.shape[old] - 1
    to_first[3, 3] = 1
    flipped = first.data[tuple(slice(None, None, s) for s in FLIPS[flip])]
    stored = Volume(np.ascontiguousarray(flipped.transpose(order)), first.affine @ to_first)
    answer = detect(stored, CONFIG, dark_spots, lambda p: np.full(len(p), 0.9))
    assert len(answer.candidates) == len(reference.candidates) >= len(BLOBS_MM)
    for one, other in zip(answer.candidates, reference.candidates, strict=True):
        np.testing.assert_allclose(one.position_mm, other.position_mm, atol=1e-6)
        np.testing.assert_allclose(to_first[:3, :3] @ one.index + to_first[:3, 3], other.index)
        assert one.score == pytest.approx(other.score, abs=1e-9) and one.diameter_mm == pytest.approx(other.diameter_mm)
        assert in_bounds(one, stored)


@pytest.mark.parametrize("spacing_mm", [(0.7, 0.7, 1.3), (1, 1, 2), (1.4, 1.4, 3)])
def test_spots_are_found_where_they_are_at_any_spacing(spacing_mm):
    shape = tuple(round(80 / s) for s in spacing_mm)
    affine = np.diag([-spacing_mm[0], spacing_mm[1], spacing_mm[2], 1.0])
    affine[:3, 3] = [40, -40, -40]
    volume = head(affine=affine, shape=shape)
    answer = detect(volume, CONFIG, dark_spots, lambda p: np.full(len(p), 0.9))
    assert spots_found(answer, within_mm=1.5) == len(BLOBS_MM)
    assert all(in_bounds(c, volume) for c in answer.candidates)


def joined(stage1, stage2, weight, mean):
    return fused_score(np.array(stage1), np.array(stage2), Fusion(stage2_weight=weight, joint_mean=mean))


def test_joint_scores_by_hand():
    np.testing.assert_allclose(joined([1, 0.25, 0], [1, 1, 0.9], 0.5, "geometric"), [1, 0.5, 0])
    np.testing.assert_allclose(joined([0.16, 0.5], [1, 0.0], 0.25, "geometric"), [0.16**0.75, 0])
    # Odds of 9 and 1 / 9, 1 and 81; of 1 and 16 at a quarter, 2.
    np.testing.assert_allclose(joined([0.9, 0.5, 0.5], [0.1, 81 / 82, 81 / 82], 0.5, "log_odds"), [0.5, 0.9, 0.9])
    np.testing.assert_allclose(joined([0.5], [16 / 17], 0.25, "log_odds"), [2 / 3])


@pytest.mark.parametrize("mean", ["geometric", "log_odds"])
def test_a_stage_without_weight_does_not_count(mean):
    one, other = [0.9, 0.2, 0.4], [0.1, 1.0, 0.0]
    np.testing.assert_allclose(joined(one, other, 0.0, mean), one)
    np.testing.assert_allclose(joined(one, other, 1.0, mean), other, atol=2e-6)


def test_near_certainty_log_odds_still_tell_scores_apart():
    """Stage 1 is sure of the first, .99, of the second only .8: to the geometric mean that is little, to log odds much."""
    (a, b), (c, d) = (joined([0.99, 0.8], [0.6, 0.99], 1 / 3, mean) for mean in ("geometric", "log_odds"))
    assert a < b and c > d
    ends = joined([0.0, 1.0, 1.0], [0.0, 1.0, 0.0], 0.5, "log_odds")
    np.testing.assert_allclose(ends, [1e-6, 1 - 1e-6, 0.5])


def test_stage_2_counts_for_what_it_has_learned_from():
    weights = [stage2_weight(n) for n in (0, 3, 20, 40, 10**6)]
    np.testing.assert_allclose(weights, [0, 3 / 46, 0.25, 1 / 3, 0.5], atol=1e-5)


def test_a_decision_joins_with_its_own_weight():
    """Found by both stages alike at .5; where stage 2 doubts it, by how much it counts."""
    found = CandidateList(np.zeros((2, 3), dtype=int), np.array([[0.0, 0, 0], [5, 0, 0]]), np.ones(2), np.array([0.5, 0.8]))
    first, even = (Decision(slope=1, intercept=0, threshold=0, stage2_weight=w) for w in (0.1, 0.5))
    order = {w.stage2_weight: decide(found, np.array([0.5, 0.1]), np.eye(4), w)[0].position_mm[0] for w in (first, even)}
    assert order == {0.1: 5.0, 0.5: 0.0}


def test_releases_from_before_there_was_a_choice_keep_their_even_geometric_mean():
    old = Decision.model_validate({"slope": 1, "intercept": 0, "threshold": 0.5})
    np.testing.assert_allclose(fused_score(np.array([0.25]), np.array([0.09]), old), [0.15])


def test_calibration_by_hand():
    decision = Decision(slope=2, intercept=1, threshold=0.5)
    # logit(0.5) = 0, so sigmoid(1); logit(0.8) = ln 4, so sigmoid(2 ln 4 + 1) = 16 e / (1 + 16 e).
    expected = [np.e / (1 + np.e), 16 * np.e / (1 + 16 * np.e)]
    np.testing.assert_allclose(calibrated(np.array([0.5, 0.8]), decision), expected)


def test_calibration_can_be_undone():
    decision = Decision(slope=2.7, intercept=-3.2, threshold=0.5)
    joint = np.array([0.05, 0.3, 0.5, 0.9])
    assert [before_calibration(s, decision) for s in calibrated(joint, decision)] == pytest.approx(joint.tolist())


def test_calibration_stays_in_range_at_the_ends():
    ends = calibrated(np.array([0.0, 1.0]), Decision(slope=1, intercept=0, threshold=0.5))
    np.testing.assert_allclose(ends, [1e-6, 1 - 1e-6])

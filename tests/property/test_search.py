"""Candidates and patches against slow, plain versions of themselves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from cmb_models.config.params import Candidates
from cmb_models.detect.candidates import find_candidates
from cmb_models.detect.patches import cut_patches

# Few levels, so that equal scores and plateaus are common.
heatmaps = hnp.arrays(np.float32, st.tuples(*[st.integers(1, 9)] * 3), elements=st.integers(0, 8).map(lambda n: n / 8))
# Whole millimetres: distances are then exact, and a tie at the limit is the same tie in both versions.
spacings = st.tuples(*[st.integers(1, 3)] * 3)


def plain(heatmap: np.ndarray, spacing_mm, settings: Candidates) -> list[tuple]:
    """Maxima of 3x3x3 boxes in descending order, each dropped if a chosen one is within the distance."""
    peaks = np.argwhere((heatmap >= settings.floor) & (heatmap == ndimage.maximum_filter(heatmap, 3, mode="nearest")))
    chosen: list[np.ndarray] = []
    for peak in sorted(peaks, key=lambda p: (-heatmap[tuple(p)], *p)):
        far = all((((peak - c) * spacing_mm) ** 2).sum() > settings.min_distance_mm**2 for c in chosen)
        if far and len(chosen) < settings.max_per_scan:
            chosen.append(peak)
    return [tuple(c) for c in chosen]


@given(heatmaps, spacings, st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(1, 8), st.integers(1, 12))
def test_candidates_equal_the_plain_search(heatmap, spacing_mm, floor, distance, most):
    settings = Candidates(floor=floor, min_distance_mm=distance, max_per_scan=most)
    index, score = find_candidates(heatmap, spacing_mm, settings)
    assert [tuple(i) for i in index] == plain(heatmap, spacing_mm, settings)
    np.testing.assert_array_equal(score, heatmap[tuple(index.T)])
    assert (score >= floor).all() and (np.diff(score) <= 0).all()
    gaps = np.linalg.norm((index[:, None] - index[None]) * spacing_mm, axis=-1) + np.where(np.eye(len(index)), np.inf, 0)
    assert (gaps >= distance).all()


images = hnp.arrays(np.float32, st.tuples(*[st.integers(1, 7)] * 3), elements=st.integers(-5, 5))


@given(images, st.tuples(*[st.integers(1, 9)] * 3), st.data())
def test_patches_equal_cutting_from_a_padded_image(image, size, data):
    index = data.draw(st.lists(st.tuples(*[st.integers(0, s - 1) for s in image.shape]), max_size=4))
    patches = cut_patches(image, np.array(index, dtype=int).reshape(-1, 3), size)
    padded = np.pad(image, [(s, s) for s in size], constant_values=image.min())
    assert patches.shape == (len(index), 1, *size) and patches.dtype == np.float32
    for patch, centre in zip(patches[:, 0], index, strict=True):
        start = [c + s - s // 2 for c, s in zip(centre, size, strict=True)]
        np.testing.assert_array_equal(patch, padded[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))])

"""The whole path on a tiny head, end to end, against the answer stored in answer.json (written by make.py)."""

import numpy as np

from cmb_models.files import read_json
from tests.golden.make import STORED, detect, rows, scan
from tests.support.bundles import in_bounds, spots_found


def test_same_answer_as_stored():
    answer, stored = detect(), read_json(STORED)
    now, then = np.array(rows(answer)), np.array(stored["candidates"])
    assert now.shape == then.shape and answer.threshold == stored["threshold"]
    np.testing.assert_allclose(now[:, :7], then[:, :7], atol=1e-3)  # mm and voxels
    np.testing.assert_allclose(now[:, 7:], then[:, 7:], atol=1e-4)  # scores
    assert spots_found(answer) == len(answer.detections) == 3
    assert all(in_bounds(c, scan()) for c in answer.candidates)

"""The picture of a scan: findings ringed, sides right, nothing shared with pyplot."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib import colors

from cmb_models.detection import Detection, DetectionResult
from cmb_models.figures.findings import save_figure, slabs
from cmb_models.figures.views import RING, View
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE, BLOBS_MM, head


def finding(world_mm, score=0.9) -> Detection:
    return Detection(tuple(world_mm), (0, 0, 0), 5.0, score, 0.9, 0.9)


def scan_figure(volume, result, path, title, threshold=None) -> None:
    save_figure(result.plot(volume, threshold=threshold, title=title), path)


def picture(path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)[..., :3]


def ring_pixels(image: np.ndarray) -> np.ndarray:
    return np.argwhere(np.abs(image - colors.to_rgb(RING)).max(axis=-1) < 0.1)


def test_findings_are_ringed_and_enlarged(tmp_path):
    answer = DetectionResult(tuple(finding(b) for b in BLOBS_MM), 0.5, 3)
    scan_figure(head(), answer, tmp_path / "with.png", "sub-01")
    scan_figure(head(), answer, tmp_path / "without.png", "sub-01", threshold=0.95)
    assert len(ring_pixels(picture(tmp_path / "with.png"))) > 1000
    assert len(ring_pixels(picture(tmp_path / "without.png"))) == 0
    assert picture(tmp_path / "with.png").shape[0] > picture(tmp_path / "without.png").shape[0]


def test_the_patients_right_is_on_the_pictures_left(tmp_path):
    scan_figure(head(blobs_mm=()), DetectionResult((finding((25, 0, 0)),), 0.5), tmp_path / "a.png", "a")
    image = picture(tmp_path / "a.png")
    slabs = ring_pixels(image[: image.shape[0] // 2])  # three panels side by side; the finding is in one of them
    panel = image.shape[1] / 3
    assert ((slabs[:, 1] % panel) < panel / 2).all()


def test_storage_order_gives_the_same_picture(tmp_path):
    stored = head()
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = stored.data.shape[0] - 1
    flipped = Volume(stored.data[::-1].copy(), stored.affine @ flip)
    answer = DetectionResult((finding(BLOBS_MM[0]),), 0.5)
    scan_figure(stored, answer, tmp_path / "a.png", "a")
    scan_figure(flipped, answer, tmp_path / "b.png", "a")
    np.testing.assert_array_equal(picture(tmp_path / "a.png"), picture(tmp_path / "b.png"))


def test_slabs_are_where_most_findings_are():
    # Slices of 2 mm, z = 2 k - 32: four of them make 8 mm. Two findings share a slab, a third is alone.
    shown = slabs(View(head()), (finding((0, 0, 0)), finding((9, 0, 2)), finding((0, 0, -18))))
    assert len(shown) == 3 and shown == sorted(shown)
    covered = {k for first in shown for k in range(first, first + 4)}
    assert {16, 17, 7} <= covered


@pytest.mark.parametrize(
    "volume",
    [
        head(shape=(40, 90, 4), affine=np.diag([2.0, 1, 5, 1])),
        Volume(np.random.default_rng(0).random((1, 1, 1), dtype=np.float32), AFFINE),
        Volume(np.zeros((20, 20, 20), dtype=np.float32), AFFINE),
    ],
    ids=["few slices", "one voxel", "black"],
)
def test_odd_volumes_still_make_a_picture(tmp_path, volume):
    far = finding((500, 500, 500))  # outside everything
    scan_figure(volume, DetectionResult((far,), 0.5), tmp_path / "a.png", "a $\\mathbf title")
    assert picture(tmp_path / "a.png").size > 0


def test_no_pyplot():
    """Its global state keeps every figure alive, which a folder of scans would feel."""
    code = (
        "import sys, tempfile, pathlib; from tests.support.bundles import head; from cmb_models.detection import DetectionResult;"
        "from cmb_models.figures.findings import save_figure;"
        "save_figure(DetectionResult((), .5).plot(head()), pathlib.Path(tempfile.mkdtemp()) / 'a.png');"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=__file__.split("/tests/")[0]).returncode == 0

"""Out-of-distribution scans: marked lesions are visible, and no code of the phantom is used."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cmb_models.detect.checks import check_scan
from cmb_models.errors import InputError
from cmb_models.volume import index_from_world
from research.ood_simulator.lesions import MEDIAN_MM, draw_body, draw_diameter, window
from research.ood_simulator.scan import MIN_CNR, simulate, surroundings
from research.ood_simulator.shapes import chain, ellipsoid, enlarge, smooth_noise, soft
from research.ood_simulator.veins import Tubes, share
from tests.support.imports import ROOT, closure, imports_of

COARSE = (1.4, 1.4, 4.0)  # mm: quick to draw
FOLDER = ROOT / "research/ood_simulator"


@pytest.fixture(scope="module", autouse=True)
def coarse_heads():
    """Heads on a grid of twice the step: an eighth of the time."""
    with pytest.MonkeyPatch.context() as patched:
        for module in ("anatomy", "scan"):
            patched.setattr(f"research.ood_simulator.{module}.STEP_MM", 2.4)
        yield


def scan(seed: int = 3, n_cmbs: int = 6):
    return simulate(np.random.SeedSequence(seed), COARSE, n_cmbs, "sub-001")


@pytest.fixture(scope="module")
def made(coarse_heads):
    return scan()


def test_the_same_seed_gives_the_same_bytes(made):
    again = scan()
    assert again.swi.data.tobytes() == made.swi.data.tobytes() and again.annotations == made.annotations
    assert np.array_equal(again.swi.affine, made.swi.affine)


def test_what_is_marked_is_there_and_the_detector_takes_the_scan(made):
    check_scan(made.swi, "made")
    assert sum(a.is_cmb for a in made.annotations) == 6
    assert {a.label for a in made.annotations} > {"cmb"}, "no mimic was drawn with this seed: take another"
    index = index_from_world(np.array([a.centre_mm for a in made.annotations]), made.swi.affine)
    assert np.allclose(index, made.centres_vox, atol=1e-6)
    assert ((index > 0) & (index < np.array(made.swi.data.shape) - 1)).all()


def test_a_microbleed_has_the_least_contrast_to_noise_ratio(made):
    """In the noise-free scan by MIN_CNR deviations of the noise; in the noisy one, on average, too."""
    seen = []
    for about, centre in zip(made.annotations, made.centres_vox, strict=True):
        if about.is_cmb:
            i, j, k = np.rint(centre).astype(int)
            around, _ = surroundings(made.clean[:, :, k], (i, j), about.diameter_mm, COARSE[0])
            assert around - made.clean[i, j, k] >= MIN_CNR * made.noise[i, j, k]
            loud, _ = surroundings(made.swi.data[:, :, k], (i, j), about.diameter_mm, COARSE[0])
            seen.append(made.swi.data[i, j, k] / loud)
    assert len(seen) == 6 and np.mean(seen) < 0.85


def test_a_head_without_room_is_refused(monkeypatch):
    monkeypatch.setattr("research.ood_simulator.scan.TRIES", 0)
    with pytest.raises(InputError, match="room for 2 microbleeds of sufficient contrast, got none for 2"):
        scan(n_cmbs=2)


def test_nothing_of_the_phantom_is_in_the_generator():
    """Neither is it imported, nor by anything that draws or evaluates; only the stages that --train starts plant by its physics."""
    files = sorted(FOLDER.glob("*.py"))
    assert len(files) > 5
    for file in files:
        names = imports_of(file)
        assert not [n for n in names if n.startswith(("cmb_models.phantom", "nilearn")) or "numpy.fft" in n or "scipy.fft" in n], (
            file
        )
        assert "fft" not in file.read_text(encoding="utf-8"), file
        phantom = [f for f in closure(file) if f.is_relative_to(ROOT / "cmb_models/phantom")]
        assert not phantom, f"{file} needs {phantom}"


def test_sizes_are_the_published_ones():
    rng = np.random.default_rng(0)
    sizes = np.array([draw_diameter(rng) for _ in range(4000)])
    assert sizes.min() >= 2 and sizes.max() <= 10
    # 20 % of the lognormal lie below 2 mm (log(2 / 2.7) / .36 = -.83 sd) and are cut: the rest's median is its 60th percentile.
    assert np.median(sizes) == pytest.approx(MEDIAN_MM * np.exp(0.36 * 0.26), rel=0.03)


def test_a_body_has_its_size_and_darkness_in_any_slice_thickness():
    body = draw_body(np.random.default_rng(0), "cmb", "cortex", np.zeros(3), 4.0, (2.0, 2.0))
    body = dataclasses.replace(body, axes=np.ones(3), uneven=np.zeros_like(body.uneven))
    inside, _ = body.parts(np.array([[0.0, 0, 0], [2.0, 0, 0], [0, 0, -2.0], [6.0, 0, 0]]))
    assert inside == pytest.approx([1, 0.5, 0.5, 0], abs=0.01)
    assert window(body, np.eye(4), (5, 5, 5)) is None  # reaches over the border
    for slice_mm in (1.0, 4.0):
        to_index = np.diag([2.0, 2.0, 1 / slice_mm, 1.0])
        to_index[:3, 3] = 20
        slices, left = window(body, to_index, (41, 41, 41))
        taken = -np.log(left) / 2.0
        # The shares of all voxels make a sphere's volume, which a logistic edge of width w widens thus.
        widened = 1 + (np.pi * body.edge_mm / 2.0) ** 2
        assert taken.sum() * 0.25 * slice_mm == pytest.approx(4 / 3 * np.pi * 2.0**3 * widened, rel=0.02)
        row = left[:, 20 - slices[1].start, 20 - slices[2].start]
        assert row.min() < np.exp(-2.0 * 0.75)
        wide = 0.5 * np.sum(1 - row > (1 - row.min()) / 2)
        assert wide == pytest.approx(4.0, abs=0.51)


def test_a_straight_vein_has_its_volume_at_its_place():
    tubes = Tubes(np.array([[5.0, 5.0, 2.0]]), np.array([[5.0, 5.0, 12.0]]), np.array([0.4]))
    part = share(np.random.default_rng(0), tubes, np.eye(4), (11, 11, 16), 1.0)
    assert part.sum() == pytest.approx(np.pi * 0.4**2 * 10, rel=0.01)
    assert part[5, 5, 4:10].mean() > 0.3 and part[8:].sum() == 0


def test_shapes_measure_distances():
    p = np.array([[0.0, 3.0, 6.0], [0.0, 0.0, 0.0], [0.0, 0.0, 4.0]], dtype=np.float32)
    assert ellipsoid(p, (0, 0, 0), (3, 4, 5))[1] == pytest.approx(0, abs=1e-5)
    assert chain(p, np.array([[0.0, 0, 0], [6.0, 0, 0]]), np.array([1.0, 2.0])) == pytest.approx([1.0, 1.5, -2.0], abs=1e-5)
    assert soft(np.array([-1.0, 0, 1.0]), 0.5).tolist() == [0, 0.5, 1]
    assert enlarge(np.arange(8, dtype=np.float32).reshape(2, 2, 2), (3, 3, 3), 2.0)[:, 0, 0].tolist() == [0, 2, 4]
    assert smooth_noise(np.random.default_rng(0), (30, 31, 32), 3.0).std() == pytest.approx(1, abs=0.25)

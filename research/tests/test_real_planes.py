"""The comparison with real planes: its measures on known images, and that the two-sample test tells what differs and no more."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cmb_models.errors import InputError
from research.real_planes.images import SIDE, Planes, Slice, cut_planes, patches, read_real
from research.real_planes.measures import darkness, lesion_figures, texture_figures, width_mm
from research.real_planes.two_sample import real_vs_phantom_auc


def spot(depth=0.7, sigma_mm=(1.0, 1.0), level=100.0):
    """A plane with a Gaussian dark spot in its middle."""
    at = (np.arange(SIDE) - SIDE // 2) * 0.5
    bell = np.exp(-(at[:, None] ** 2) / (2 * sigma_mm[0] ** 2) - at[None] ** 2 / (2 * sigma_mm[1] ** 2))
    return (level * (1 - depth * bell)).astype(np.float32)


@pytest.mark.parametrize("depth", [0.4, 0.7, 0.95])
def test_darkness_is_what_is_left_of_the_surroundings(depth):
    assert darkness(spot(depth)) == pytest.approx(1 - depth, abs=0.01)
    without = spot(depth)
    without[:10] = 0  # outside the brain
    assert darkness(without) == pytest.approx(1 - depth, abs=0.01)


def test_width_is_that_at_half_depth_along_each_axis():
    plane = spot(sigma_mm=(0.8, 1.5))
    assert width_mm(plane, 0) == pytest.approx(2.355 * 0.8, abs=0.1)
    assert width_mm(plane, 1) == pytest.approx(2.355 * 1.5, abs=0.1)


def test_planes_are_cut_along_their_axes():
    x, y, z = np.meshgrid(*(np.arange(n) * s for n, s in ((60, 0.5), (60, 0.5), (30, 1.0))), indexing="ij")
    centre = np.array([30, 30, 15])
    away = [(a - c) for a, c in zip((x, y, z), (15.0, 15.0, 15.0), strict=True)]
    volume = (100 * (1 - 0.8 * np.exp(-sum(d**2 / (2 * s**2) for d, s in zip(away, (0.8, 1.2, 2.0), strict=True))))).astype(
        np.float32
    )
    planes = cut_planes(volume, centre, np.array([0.5, 0.5, 1.0]))
    assert [round(width_mm(planes[n], a) / 2.355, 1) for n, a in ((0, 0), (0, 1), (1, 1), (2, 0), (2, 1))] == [
        0.8,
        1.2,
        2.0,
        1.2,
        2.0,
    ]
    figures = lesion_figures([Planes("s", "cmb", planes)])
    assert figures["lesions"] == 1
    assert figures["width_through_plane_mm"]["median"] > 1.5 * figures["width_in_plane_mm"]["median"]


def noise(seed, blur=0.0, side=200):
    from scipy import ndimage

    image = np.random.default_rng(seed).normal(100, 10, (side, side))
    return Slice(f"s{seed}", ndimage.gaussian_filter(image, blur).astype(np.float32) if blur else image.astype(np.float32))


def test_texture_figures_follow_texture():
    rough, smooth = texture_figures([noise(0)]), texture_figures([noise(0, blur=2.0)])
    assert rough["sd"]["median"] > 3 * smooth["sd"]["median"]
    assert rough["line_strength_1mm"]["median"] > 2 * smooth["line_strength_1mm"]["median"]


def test_the_two_sample_test_tells_other_texture_and_no_more():
    rng = np.random.default_rng(0)
    sets = [list(patches([noise(s, blur) for s in seeds], rng, 12, 48.0))
            for seeds, blur in ((range(6), 0), (range(6, 12), 0), (range(12, 18), 1.5))]  # fmt: skip
    assert len(sets[0]) == 72
    assert sets[0][0][1].shape == (48, 48)
    assert real_vs_phantom_auc(sets[0], sets[2], steps=60)["auc"] > 0.95
    same = real_vs_phantom_auc(sets[0], sets[1], steps=60)
    assert 0.25 < same["auc"] < 0.75
    assert same["low"] <= same["auc"] <= same["high"]


def test_real_planes_are_read_once_each(tmp_path):
    with pytest.raises(InputError) as error:
        read_real(tmp_path)
    assert error.value.code == "file-not-found"
    np.savez(tmp_path / "planes.npz", planes=np.full((2, 3, SIDE, SIDE), 9, np.uint8))
    (tmp_path / "planes.csv").write_text("index,kind,subject,i,j,k\n0,cmb,01,1,2,3\n1,false_positive,01,5,6,3\n")
    (tmp_path / "axial").mkdir()
    for n in range(2):
        Image.fromarray(np.full((30, 20), 7, np.uint8)).save(tmp_path / f"axial/{n:03d}.png")
    slices, planes = read_real(tmp_path)
    assert [(s.subject, s.pixels.shape) for s in slices] == [("01", (30, 20))]  # both sites lie in one slice
    assert [p.kind for p in planes] == ["cmb", "false_positive"]

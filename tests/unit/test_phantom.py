"""The simulator: its physics against theory, its datasets against their contract."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmb_models.errors import InputError
from cmb_models.io.annotations import read_annotations
from cmb_models.io.nifti import read_volume
from cmb_models.io.site import find_scans
from cmb_models.phantom import PhantomConfig, golden_scan, simulate_scan, write_dataset
from cmb_models.phantom.acquisition import complex_signal, cut_kspace, highpass_phase, swi
from cmb_models.phantom.config import phase_per_ppm
from cmb_models.phantom.dataset import cmb_counts
from cmb_models.phantom.field import dipole_field
from cmb_models.phantom.grid import Grid, acquired_grid, fine_grid, resample
from cmb_models.phantom.lesions import Lesion, add_lesion, bloom_factor
from cmb_models.phantom.template import load_template
from cmb_models.phantom.veins import draw_veins, vein_fraction
from cmb_models.phantom.warp import draw_warp
from cmb_models.volume import index_from_world

SMALL = PhantomConfig.small()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Five small scans, one without microbleeds, nine microbleeds in all, made in this process."""
    out = tmp_path_factory.mktemp("phantom") / "set"
    write_dataset(out, scans=5, cmbs=9, seed=11, cmb_free=1, workers=1, config=SMALL)
    return out


def test_field_of_a_sphere_is_the_analytic_dipole():
    n, radius, chi = 96, 8.0, 1.5
    axis = np.arange(n) - n // 2
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    r = np.sqrt(x**2 + y**2 + z**2)
    field = dipole_field((chi * np.clip(radius - r + 0.5, 0, 1)).astype(np.float32), (1.0, 1.0, 1.0))
    shell = (r > 11) & (r < 20)
    expected = chi / 3 * (radius / r[shell]) ** 3 * (3 * (z[shell] / r[shell]) ** 2 - 1)
    np.testing.assert_allclose(field[shell], expected, atol=0.012)  # peak 0.38; the rest is the periodic images
    assert abs(field[r < 4].mean()) < 0.01  # a sphere's own inside has no field, after Lorentz
    assert field[n // 2, n // 2, n // 2 + 12] > 0 > field[n // 2 + 12, n // 2, n // 2]


def test_field_knows_the_voxel_size():
    """A sphere drawn on 1 x 1 x 2 mm voxels makes the field of the sphere on 1 mm voxels."""
    fields = []
    for dz in (1.0, 2.0):
        x, y, z = np.meshgrid(np.arange(-32, 32), np.arange(-32, 32), np.arange(-32, 32, dz), indexing="ij")
        r = np.sqrt(x**2 + y**2 + z**2)
        fields.append(dipole_field(np.clip(8 - r + 0.5, 0, 1), (1.0, 1.0, dz)))
    np.testing.assert_allclose(fields[0][:, :, ::2][20:44, 20:44, 16 + 6], fields[1][20:44, 20:44, 16 + 6], atol=0.01)


def test_bloom_factors_of_facts():
    """Section 3 of the facts: 1.19, 1.50 and 1.90 at 1, 2 and 4 ppm, 3 T, 20 ms."""
    assert [round(bloom_factor(c, 3.0, 20.0), 2) for c in (1, 2, 4)] == [1.19, 1.50, 1.90]
    assert bloom_factor(-2, 3.0, 20.0) == bloom_factor(2, 3.0, 20.0)


def lone_lesion(label: str, chi_ppm: float, te_ms: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and phase (48, 48, 48) of a lesion of 2 mm radius amid a uniform signal of 1."""
    grid = Grid((48, 48, 48), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    signal = np.ones(grid.shape, np.complex64)
    lesion = Lesion(label, "", (24.0, 24.0, 24.0), 4.0, 2.0, chi_ppm)
    add_lesion(np.random.default_rng(0), signal, grid, lesion, phase_per_ppm(3.0, te_ms))
    return np.abs(signal), np.angle(signal)


def test_calcification_is_dark_with_the_opposite_phase():
    bleed, bleed_phase = lone_lesion("cmb", 1.0)
    calcium, calcium_phase = lone_lesion("mimic:calcification", -1.0)
    assert bleed[24, 24, 24] < 0.5 and calcium[24, 24, 24] < 0.5
    pole, equator = (24, 24, 29), (29, 24, 24)
    assert bleed_phase[pole] > 0.1 > -0.1 > calcium_phase[pole]
    assert bleed_phase[equator] < -0.1 < 0.1 < calcium_phase[equator]


def test_lesion_phase_beyond_the_bloom_is_the_dipole_of_its_volume():
    """At 6 mm above a 2 mm sphere of 1 ppm: 2/3 ppm (2/6)^3 = 0.0247 ppm, 0.396 rad; dents change the volume somewhat."""
    _, phase = lone_lesion("cmb", 1.0)
    assert 0.25 < phase[24, 24, 30] < 0.55


def test_seen_volume_doubles_when_the_echo_time_does():
    """FACTS section 3: theory 2.0, in vivo 2.30 +- 1.19."""
    short, long = (np.sum(lone_lesion("cmb", 1.5, te)[0] < 0.5) for te in (20.0, 40.0))
    assert 1.6 < long / short < 2.4


def test_lesion_changes_nothing_far_away():
    magnitude, _ = lone_lesion("cmb", 4.0)
    assert np.array_equal(magnitude[:15], np.ones((15, 48, 48), np.float32))


def test_cutting_kspace_keeps_places_and_values():
    """Band-limited waves: fewer samples of the very same function."""
    at = np.arange(48) / 48
    wave = np.exp(2j * np.pi * 3 * at) + 0.5
    cut = cut_kspace(np.broadcast_to(wave, (2, 2, 48)).astype(np.complex64), (2, 2, 24))
    np.testing.assert_allclose(cut[1, 1], wave[::2], atol=1e-5)


def test_spread_of_phase_costs_signal_as_a_sinc():
    """A ramp of 1.5 rad a voxel keeps sin(0.75) / 0.75 = 0.909 of the signal."""
    ramp = np.broadcast_to(1.5 * np.arange(9, dtype=np.float32), (3, 3, 9)).copy()
    assert np.abs(complex_signal(np.ones_like(ramp), ramp))[1, 1, 4] == pytest.approx(0.909, abs=0.005)


def test_highpass_keeps_a_spot_and_drops_a_slope():
    grid = Grid((128, 128, 1), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))
    slope = np.broadcast_to(2 * np.pi * 2 * np.arange(128)[:, None, None] / 128, grid.shape)  # two wraps over the image
    phase = slope.copy()
    phase[64, 64] += 0.8
    filtered = highpass_phase(np.exp(1j * phase).astype(np.complex64), grid)
    assert filtered[64, 64, 0] == pytest.approx(0.8, abs=0.05)
    assert np.abs(filtered[20:40]).max() < 0.05


def test_swi_darkens_positive_phase_only():
    phase = np.array([-3.0, 0.0, np.pi / 2, np.pi], np.float32).reshape(4, 1, 1)
    np.testing.assert_allclose(swi(np.full((4, 1, 1), 100.0, np.float32), phase).ravel(), [100, 100, 100 / 16, 0], atol=1e-3)


def test_resampling_a_plane_is_exact():
    source = Grid((5, 6, 7), (3.0, 2.0, 4.0), (1.0, 2.0, 3.0))
    target = Grid((9, 4, 11), (1.0, 2.0, 2.0), (2.0, 3.0, 3.0))

    def plane(grid):
        return grid.axis_mm(0)[:, None, None] + 2 * grid.axis_mm(1)[:, None] - 3 * grid.axis_mm(2)

    np.testing.assert_allclose(resample(plane(source), source, target), plane(target), atol=1e-4)


def test_warp_and_its_inverse_meet():
    grid = fine_grid(acquired_grid(PhantomConfig()))
    warp = draw_warp(np.random.default_rng(5), grid)
    coordinates = warp.template_coordinates(grid)
    voxels = np.random.default_rng(1).integers(40, 140, (50, 3))
    head = voxels * np.array(grid.spacing_mm) + grid.origin_mm
    np.testing.assert_allclose(warp.to_head(coordinates[(slice(None), *voxels.T)].T), head, atol=0.1)


def test_veins_hold_their_volume_and_do_not_break():
    """One straight vein: its volume is pi r^2 l, and every slice across it holds pi r^2."""
    from cmb_models.phantom.veins import Walk

    grid = fine_grid(acquired_grid(SMALL))
    warp = draw_warp(np.random.default_rng(0), grid)
    middle = np.array(grid.axis_ends()).mean(0)
    head = middle + np.stack([np.zeros(81), np.zeros(81), np.linspace(-30, 30, 81)], 1)
    straight = replace(warp, matrix=np.eye(3), offset=np.zeros(3), displacement=np.zeros_like(warp.displacement))
    fraction = vein_fraction([Walk(head[:, None], np.full((81, 1), 0.6))], straight, grid)
    volume = fraction.sum() * np.prod(grid.spacing_mm)
    assert volume == pytest.approx(np.pi * 0.36 * 60, rel=0.03)
    k = np.rint(grid.index(head)[:, 2]).astype(int)
    assert fraction.sum((0, 1))[k.min() + 2 : k.max() - 2].min() > 0.7 * np.pi * 0.36


def test_every_vein_walk_is_continuous():
    for walk in draw_veins(np.random.default_rng(0), load_template()):
        assert np.linalg.norm(np.diff(walk.points, axis=0), axis=2).max() < 2.0


def test_every_annotated_cmb_is_darker_than_its_surroundings(dataset):
    contrasts = []
    for scan in find_scans(dataset):
        volume = read_volume(scan.path)
        for a in (a for a in scan.annotations if a.is_cmb):
            i, j, k = np.rint(index_from_world(a.centre_mm, volume.affine)[0]).astype(int)
            around = np.median(volume.data[i - 6 : i + 7, j - 6 : j + 7, k - 1 : k + 2])
            contrasts.append(volume.data[i - 1 : i + 2, j - 1 : j + 2, k].min() / around)
    assert len(contrasts) == 9
    assert max(contrasts) < 0.8


def test_dataset_holds_what_was_asked_for(dataset):
    scans = find_scans(dataset)
    counts = [sum(a.is_cmb for a in s.annotations) for s in scans]
    assert len(scans) == 5 and sum(counts) == 9 and counts.count(0) == 1
    for scan in scans:
        name = scan.path.parent.parent.name
        image = read_volume(scan.path)
        phase = read_volume(scan.path.with_name(f"{name}_part-phase_swi.nii.gz"))
        mask = read_volume(dataset / "derivatives" / "masks" / name / f"{name}_brain.nii.gz")
        assert image.data.shape == phase.data.shape == mask.data.shape == (96, 96, 40)
        assert image.spacing_mm == pytest.approx((1, 1, 2))
        assert image.data.min() >= 0 and image.data.max() <= 4095 and np.abs(phase.data).max() <= np.pi + 0.002
        inside = image.data[mask.data > 0]
        assert 0.3 < mask.data.mean() < 0.98 and np.median(inside) > 3 * np.median(image.data[mask.data == 0])
        centres = np.array([a.centre_mm for a in scan.annotations]).reshape(-1, 3)
        apart = np.linalg.norm(centres[:, None] - centres[None], axis=2) + 100 * np.eye(len(centres))
        assert len(centres) < 2 or apart.min() >= 7.9


def test_same_seed_same_bytes_whatever_the_workers(dataset, tmp_path):
    write_dataset(tmp_path / "set", scans=5, cmbs=9, seed=11, cmb_free=1, workers=2, config=SMALL)
    assert files_of(tmp_path / "set") == files_of(dataset)


def test_a_killed_run_continues_and_leaves_finished_scans_alone(dataset, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(dataset, out)
    before = files_of(out)
    (out / "annotations.csv").unlink()
    (out / "derivatives/truth/sub-002/truth.json").unlink()  # its images were written, the kill came before the end
    (out / "sub-004/swi/sub-004_swi.nii.gz").unlink()
    (out / ".partial-x-annotations.csv").write_text("")
    touched = {p: p.stat().st_mtime_ns for p in out.rglob("sub-00[135]*.nii.gz")}
    assert len(touched) == 9
    write_dataset(out, scans=5, cmbs=9, seed=11, cmb_free=1, workers=1, config=SMALL)
    (out / ".partial-x-annotations.csv").unlink()
    assert files_of(out) == before
    assert touched == {p: p.stat().st_mtime_ns for p in touched}


def test_another_request_or_foreign_files_are_refused_untouched(dataset, tmp_path):
    before = files_of(dataset)
    with pytest.raises(InputError, match="another request"):
        write_dataset(dataset, scans=5, cmbs=9, seed=12, cmb_free=1, config=SMALL)
    assert files_of(dataset) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        write_dataset(tmp_path, scans=1, cmbs=1, seed=0, config=SMALL)
    assert files_of(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(InputError, match="a folder to write to"):
        write_dataset(tmp_path / "notes.txt", scans=1, cmbs=1, seed=0, config=SMALL)


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ({"scans": 0}, "phantom scans"),
        ({"cmbs": 1}, "phantom cmbs"),
        ({"cmbs": 121}, "phantom cmbs"),
        ({"cmb_free": 3}, "phantom cmb_free"),
        ({"cmb_free": -1}, "phantom cmb_free"),
        ({"cmb_free": 2, "cmbs": 1}, "phantom cmbs"),
        ({"seed": -1}, "phantom seed"),
        ({"workers": 0}, "phantom workers"),
    ],
)
def test_numbers_that_cannot_be_met_are_refused(numbers, named, tmp_path):
    with pytest.raises(InputError, match=named):
        write_dataset(tmp_path / "set", **({"scans": 2, "cmbs": 5, "seed": 0} | numbers))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"te_ms": 0.0},
        {"snr": float("nan")},
        {"spacing_mm": (1.0, 1.0, 9.0)},
        {"fov_mm": (96.5, 96.0, 80.0)},
        {"fov_mm": (8.0,) * 3},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(InputError, match=f"phantom .*{next(iter(change))}"):
        replace(SMALL, **change)


def test_missing_nilearn_is_told_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install nilearn"):
        write_dataset(tmp_path / "set", scans=1, cmbs=1, seed=0, config=SMALL)
    assert not (tmp_path / "set").exists()


def test_more_cmbs_than_fit_are_refused():
    with pytest.raises(InputError, match="0 to 60 microbleeds, got 61"):
        simulate_scan(0, 61, SMALL)


def test_counts_are_exact_and_heavy_tailed():
    counts = cmb_counts(np.random.default_rng(0), 400, 1400, 100)
    assert counts.sum() == 1400 and (counts == 0).sum() == 100 and counts.max() >= 10
    positive = counts[counts > 0]
    assert 0.35 < (positive == 1).mean() < 0.6  # FACTS section 3: 49 % have one


def test_golden_scan_is_the_same_each_time_and_names_its_cmbs():
    volume, centres = golden_scan()
    assert volume.data.shape == (96, 96, 40) and centres.shape == (3, 3)
    index = np.rint(index_from_world(centres, volume.affine)).astype(int)
    assert np.all(index > 3) and np.all(index < np.array(volume.data.shape) - 3)
    assert np.array_equal(golden_scan()[0].data, volume.data)


def test_truth_tells_what_was_drawn(dataset):
    rows = read_annotations(dataset / "annotations.csv")
    truth = json.loads((dataset / "derivatives/truth/sub-001/truth.json").read_text())
    assert [lesion["label"] for lesion in truth["lesions"]] == [r.label for r in rows if r.subject == "sub-001"]
    assert 18 <= truth["drawn"]["te_ms"] <= 22 and truth["request"]["seed"] == 11

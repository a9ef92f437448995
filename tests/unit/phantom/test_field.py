"""The field of a susceptibility against theory, in any direction and on any voxels."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.phantom.grid import Grid, average, resample
from cmb_models.phantom.scanner.field import dipole_field, shim


def sphere(n: int, radius: float, step_z: float = 1.0) -> tuple[np.ndarray, ...]:
    """x, y, z and the share (n, n, n / step_z) of each voxel inside a sphere around 0, in mm."""
    x, y, z = np.meshgrid(np.arange(-n // 2, n // 2), np.arange(-n // 2, n // 2), np.arange(-n // 2, n // 2, step_z), indexing="ij")
    return x, y, z, np.clip(radius - np.sqrt(x**2 + y**2 + z**2) + 0.5, 0, 1).astype(np.float32)


@pytest.mark.parametrize("b0", [(0, 0, 1), (1, 0, 0), (0.48, -0.6, 0.64)])
def test_field_of_a_sphere_is_the_analytic_dipole(b0):
    chi, radius = 1.5, 8.0
    x, y, z, share = sphere(96, radius)
    field = dipole_field(chi * share, (1.0, 1.0, 1.0), b0)
    r = np.sqrt(x**2 + y**2 + z**2)
    shell = (r > 11) & (r < 20)
    cosine = (b0[0] * x + b0[1] * y + b0[2] * z)[shell] / r[shell]
    expected = chi / 3 * (radius / r[shell]) ** 3 * (3 * cosine**2 - 1)
    np.testing.assert_allclose(field[shell], expected, atol=0.022)  # peak 0.38; the rest is its voxels and periodic images
    assert abs(field[r < 4].mean()) < 0.01  # a sphere's own inside has no field, after Lorentz


def test_field_knows_the_voxel_size():
    """A sphere drawn on 1 x 1 x 2 mm voxels makes the field of the sphere on 1 mm voxels."""
    fine, coarse = (dipole_field(sphere(64, 8.0, dz)[3], (1.0, 1.0, dz)) for dz in (1.0, 2.0))
    np.testing.assert_allclose(fine[:, :, ::2][20:44, 20:44, 16 + 6], coarse[20:44, 20:44, 16 + 6], atol=0.01)


def test_shim_takes_a_quadratic_away_and_leaves_a_spot():
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 44, 36)), indexing="ij")
    field = (0.3 + 0.5 * x - 0.2 * y**2 + 0.1 * z).astype(np.float32)
    field[20, 22, 18] += 1
    shimmed = shim(field, np.ones(field.shape, bool))
    assert shimmed[20, 22, 18] == pytest.approx(1, abs=0.02)
    assert np.abs(np.delete(shimmed.ravel(), np.ravel_multi_index((20, 22, 18), field.shape))).max() < 0.02


def test_resampling_a_plane_is_exact():
    source = Grid((5, 6, 7), (3.0, 2.0, 4.0), (1.0, 2.0, 3.0))
    target = Grid((9, 4, 11), (1.0, 2.0, 2.0), (2.0, 3.0, 3.0))

    def plane(grid):
        return grid.axis_mm(0)[:, None, None] + 2 * grid.axis_mm(1)[:, None] - 3 * grid.axis_mm(2)

    np.testing.assert_allclose(resample(plane(source), source, target), plane(target), atol=1e-4)


def test_averaging_over_thick_voxels_keeps_the_amount():
    """A block of 3 x 2 x 5 fine voxels of 1 x 1 x 0.8 mm: 24 mm3, also in voxels of 2 x 1.5 x 4 mm."""
    source = Grid((24, 24, 40), (1.0, 1.0, 0.8), (0.0, 0.0, 0.0))
    target = Grid((10, 14, 7), (2.0, 1.5, 4.0), (1.0, 1.0, 2.0))
    values = np.zeros(source.shape, np.float32)
    values[7:10, 8:10, 12:17] = 1
    averaged = average(values, source, target)
    assert averaged.sum() * 2 * 1.5 * 4 == pytest.approx(24, rel=1e-5)
    assert averaged.max() <= 1

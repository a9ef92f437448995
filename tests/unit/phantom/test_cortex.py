"""A subject's own cortex: sulci, ribbon and folia, and that it leaves the rest of the head as it is."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from cmb_models.phantom.grid import lookup
from cmb_models.phantom.head.cortex import fold
from cmb_models.phantom.head.template import NUCLEI, ellipsoid, load_template, tentorium_mm
from cmb_models.phantom.head.traits import draw_traits
from cmb_models.phantom.veins.forest import SULCAL
from cmb_models.phantom.veins.growth import draw_veins


@pytest.fixture(scope="module")
def traits():
    return replace(draw_traits(np.random.default_rng(0)), sulcal_widening=0.4)


@pytest.fixture(scope="module")
def folded(traits):
    return fold(np.random.SeedSequence(1), traits)


def fluid_share(template):
    return 1 - (template.grey.astype(np.float32) + template.white) / 255


def cortical_zone(template, shallowest_mm=3.0, deepest_mm=12.0):
    """Voxels of the cerebrum between two depths, off the nuclei and ventricles."""
    depth = -lookup(template.brain_mm, template.half, np.argwhere(np.ones(template.full.shape, bool)) + template.full.origin_mm)
    depth = depth.reshape(template.full.shape)
    z = template.full.axis_mm(2)
    return (depth > shallowest_mm) & (depth < deepest_mm) & (ellipsoid(template.full, (15, -8, 4), (28, 40, 26)) > 1) & (z > 5)


def test_the_same_seed_gives_the_same_cortex_and_another_seed_another(traits, folded):
    again, other = fold(np.random.SeedSequence(1), traits), fold(np.random.SeedSequence(2), traits)
    assert np.array_equal(again.grey, folded.grey)
    zone = cortical_zone(folded)
    first, second = (fluid_share(t)[zone] > 0.5 for t in (folded, other))
    overlap = 2 * np.sum(first & second) / (first.sum() + second.sum())
    assert 0.2 < overlap < 0.75  # the great sulci are shared, the others are not


def test_tissue_shares_add_up_and_the_base_template_is_unchanged(folded):
    assert (folded.grey.astype(int) + folded.white).max() <= 256
    assert folded.own_sulci
    assert not load_template().own_sulci
    assert load_template().grey is not folded.grey


def test_sulci_are_sharper_than_in_the_average(folded):
    zone = cortical_zone(folded)
    mixed = {name: np.mean(np.abs(fluid_share(t)[zone] - 0.5) < 0.3) / np.mean(fluid_share(t)[zone] > 0.2)
             for name, t in (("own", folded), ("average", load_template()))}  # fmt: skip
    assert mixed["own"] < 0.7 * mixed["average"]
    assert 0.06 < np.mean(fluid_share(folded)[zone] > 0.5) < 0.25


def test_sulci_widen_with_the_trait(traits, folded):
    wide = fold(np.random.SeedSequence(1), replace(traits, sulcal_widening=1.4))
    zone = cortical_zone(folded)
    assert fluid_share(wide)[zone].mean() > 1.1 * fluid_share(folded)[zone].mean()


def test_nuclei_ventricles_and_brainstem_stay(folded):
    base = load_template()
    same = (folded.grey == base.grey) & (folded.white == base.white)
    deep = ellipsoid(base.full, (15, -8, 4), (22, 30, 18)) < 1
    stem = ellipsoid(base.full, (0, -27, -33), (12, 10, 10)) < 1
    near = np.abs(folded.grey.astype(int) - base.grey) <= 2
    assert np.mean((same | near)[deep]) > 0.99
    assert np.mean((same | near)[stem]) > 0.95
    assert len(NUCLEI) == len(np.unique(folded.nucleus)) - 1


def test_white_matter_hangs_together(folded):
    parts, count = ndimage.label(folded.white > 128)
    sizes = np.bincount(parts.ravel())[1:]
    assert count
    assert sizes.max() > 0.97 * sizes.sum()


def test_cortical_microbleeds_are_placed_in_tissue(folded):
    for region in ("cortex_junction", "cortex_edge"):
        at = np.rint(folded.full.index(folded.places[region])).astype(int)
        assert len(at) > 20_000
        assert np.mean(fluid_share(folded)[tuple(at.T)] < 0.15) > 0.95


def test_sulcal_veins_run_in_the_subjects_own_fluid(folded):
    zone = cortical_zone(folded)
    own = fluid_share(folded)
    new = zone & (own > 0.6) & (fluid_share(load_template()) < 0.2)  # sulci that the average brain lacks
    veins = draw_veins(np.random.default_rng(0), folded)
    at = tuple(np.rint(folded.full.index(veins.points_mm[veins.kind == SULCAL])).astype(int).T)
    assert own[at].mean() > 2.5 * own[zone].mean()
    assert new[at].sum() / zone[at].sum() > 1.5 * new.sum() / zone.sum()


def test_the_cerebellum_has_folia(folded):
    x, y, z = (folded.full.axis_mm(a) for a in range(3))
    below = (z < tentorium_mm(x[:, None], y)[:, :, None] - 3) & (y < -48)[None, :, None]
    depth = -np.repeat(np.repeat(np.repeat(folded.brain_mm, 2, 0), 2, 1), 2, 2)[tuple(slice(n) for n in folded.full.shape)]
    zone = below & (depth > 4) & (depth < 9)
    own, average = (np.mean(fluid_share(t)[zone] > 0.4) for t in (folded, load_template()))
    assert 0.03 < own < 0.3
    assert own > 2 * average

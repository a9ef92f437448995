"""Inserted lesions: by the phantom's physics, where they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.config.params import load_params
from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.lesions.cmbs import BODY
from cmb_models.training.synthesis import insertion
from cmb_models.training.synthesis.insertion import LesionBank, insert_lesion, read_lesion_bank, wrapped
from cmb_models.training.synthesis.lesion_bank import SHARE, _lesion, lesion_bank_name, write_lesion_bank
from tests.support.imports import ROOT

SPACING = (1.0, 1.0, 2.0)
AIR = -1.0
PARAMS = load_params(ROOT / "params.yaml")
NATIVE = (0.9, 0.9, 3.0)


@pytest.fixture(scope="module")
def lesion_bank(tmp_path_factory) -> LesionBank:
    folder = tmp_path_factory.mktemp("plants")
    write_lesion_bank(
        folder, [NATIVE, (0.91, 0.89, 3.01)], PARAMS.preprocess, PARAMS.lesion_bank.model_copy(update={"lesions": 27})
    )
    (file,) = folder.iterdir()  # sizes that differ by a hundredth of a millimetre share theirs
    assert file.name == lesion_bank_name(NATIVE) == "lesions_0.90x0.90x3.00.npz"
    return read_lesion_bank(file)


def test_simulated_plants_are_dark_where_they_say_and_leave_the_rest(lesion_bank):
    assert 20 <= len(lesion_bank.share) <= 27 and set(lesion_bank.label) <= set(SHARE)
    assert len(lesion_bank.of(cmbs=True)) + len(lesion_bank.of(cmbs=False)) == len(lesion_bank.label)
    assert lesion_bank.share.dtype == np.float32 and all(n % 2 for n in lesion_bank.share.shape[1:])
    assert np.abs(lesion_bank.off_vox).max() <= 0.5
    index = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in lesion_bank.share.shape[1:]), indexing="ij"), -1)
    for share, off in zip(lesion_bank.share, lesion_bank.off_vox, strict=True):
        gone = np.clip(1 - share, 0.2, None) - 0.2
        centre = (index * gone[..., None]).sum((0, 1, 2)) / gone.sum()
        assert np.linalg.norm((centre - off) * SPACING) < 1.0  # dents and ringing move the centre of mass by less
        assert (share[0] == 1).all() and (share[:, -1] == 1).all() and (share[:, :, 0] == 1).all()
        assert 0 <= share.min() < 0.85 and share.max() < 1.3  # thick slices leave faint ones; edges ring


def test_larger_ones_take_more_away(lesion_bank):
    cmbs = lesion_bank.of(cmbs=True)
    taken = (1 - lesion_bank.share[cmbs]).sum((1, 2, 3))
    assert np.corrcoef(taken, lesion_bank.diameter_mm[cmbs] ** 3)[0, 1] > 0.8


def test_microbleeds_have_the_bodies_of_both_generations():
    """Solid black ones, and weakly magnetic ones whose inner signal is partly kept."""
    config = PhantomConfig.small()
    lesions = [_lesion(np.random.default_rng(seed), "cmb", (0.0, 0.0, 0.0), config) for seed in range(60)]
    black = BODY[1][1][0]
    first, second = ([x for x in lesions if (x.inner_signal == black) is solid] for solid in (True, False))
    assert 15 <= len(first) <= 45
    for bodies, generation in ((first, 1), (second, 2)):
        (low, high), _, _ = BODY[generation]
        assert all(low <= x.chi_ppm <= high for x in bodies)
    assert all(BODY[2][1][0] <= x.inner_signal <= BODY[2][1][1] for x in second)
    mimics = [_lesion(np.random.default_rng(seed), "mimic:calcification", (0.0, 0.0, 0.0), config) for seed in range(9)]
    assert all(x.chi_ppm < 0 and x.inner_signal is None for x in mimics)


def test_the_same_settings_give_the_same_plants(lesion_bank, tmp_path):
    write_lesion_bank(tmp_path, [NATIVE], PARAMS.preprocess, PARAMS.lesion_bank.model_copy(update={"lesions": 27}))
    again = read_lesion_bank(tmp_path / lesion_bank_name(NATIVE))
    assert np.array_equal(again.share, lesion_bank.share) and np.array_equal(again.label, lesion_bank.label)


def test_nothing_is_written_for_no_plants(tmp_path):
    write_lesion_bank(tmp_path, [NATIVE], PARAMS.preprocess, PARAMS.lesion_bank.model_copy(update={"lesions": 0}))
    write_lesion_bank(tmp_path, [], PARAMS.preprocess, PARAMS.lesion_bank)
    assert not list(tmp_path.iterdir())


def test_a_plant_lies_where_it_is_said_to(lesion_bank, monkeypatch):
    """The darkest voxel in the voxel that holds the centre, whatever flips and swaps were drawn; the original is left alone."""
    monkeypatch.setattr(insertion, "SOFTEST_MM", 0.0)
    one = np.ones((1, 9, 9, 5), np.float32)
    one[0, 5, 4, 2] = 0  # darkest one voxel beside the middle along i
    single = LesionBank(one, np.array([[0.9, 0.2, 0.0]]), np.array(["cmb"]), np.array([2.0]))
    tissue = np.zeros((24, 24, 12), dtype=np.float32)
    seen = set()
    for seed in range(30):
        inserted, centre, _ = insert_lesion(
            tissue, SPACING, np.array([11.6, 12.3, 6.2]), single, True, AIR, np.random.default_rng(seed)
        )
        darkest = np.unravel_index(inserted.argmin(), inserted.shape)
        assert np.array_equal(darkest, np.rint(centre))
        assert AIR <= inserted.min() <= insertion.FAINTEST * AIR and np.count_nonzero(inserted) == 1
        seen.add(tuple(map(int, darkest)))
    assert len(seen) == 4  # either side along i, and along j once the axes are swapped
    assert not tissue.any()


def test_plants_are_faint_and_soft_as_drawn():
    """One dark voxel: blurred it keeps its darkness in all, which lies between the faintest share and the whole."""
    one = np.ones((1, 17, 17, 9), np.float32)
    one[0, 8, 8, 4] = 0
    single = LesionBank(one, np.zeros((1, 3)), np.array(["cmb"]), np.array([2.0]))
    drawn = [
        insert_lesion(
            np.zeros((24, 24, 12), np.float32), SPACING, np.array([12, 12, 6]), single, True, AIR, np.random.default_rng(n)
        )[0]
        for n in range(60)
    ]
    whole, peak = np.array([d.sum() / AIR for d in drawn]), np.array([d.min() / AIR for d in drawn])
    assert insertion.FAINTEST - 1e-3 <= whole.min() < 0.5 and 0.9 < whole.max() <= 1 + 1e-3
    assert np.all(peak <= whole + 1e-6) and peak.min() < 0.3 * whole[peak.argmin()] and (peak > 0.95 * whole).any()


def test_a_plant_at_the_border_is_cut(lesion_bank):
    air = np.zeros((24, 24, 12), np.float32)
    inserted, centre, _ = insert_lesion(air, SPACING, np.array([0, 0, 0]), lesion_bank, True, AIR, np.random.default_rng(0))
    assert inserted.shape == (24, 24, 12) and np.abs(centre).max() <= 0.5
    far, _, _ = insert_lesion(air, SPACING, np.array([60, 0, 0]), lesion_bank, True, AIR, np.random.default_rng(0))
    assert not far.any()


def phases_of(lesion_bank: LesionBank, label: str) -> np.ndarray:
    """Mean phase (n,) of each plant of a kind above and below its centre, along the field, from half its radius to 3 mm off it."""
    index = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in lesion_bank.share.shape[1:]), indexing="ij"), -1)
    means = []
    for n in np.flatnonzero(lesion_bank.label == label):
        away = (index - lesion_bank.off_vox[n]) * SPACING
        distance = np.linalg.norm(away, axis=-1)
        steep = np.abs(away[..., 2]) > 0.85 * distance  # within 32 degrees: a dipole's field has one sign up to 54.7
        means.append(
            lesion_bank.phase[n][
                steep & (distance > lesion_bank.diameter_mm[n] / 4) & (distance < lesion_bank.diameter_mm[n] / 2 + 3)
            ].mean()
        )
    return np.array(means)


def test_microbleeds_and_calcifications_have_opposite_phase(lesion_bank, tmp_path):
    """By the dipole's field, above 0 along the main field beside what is paramagnetic, every one; the rest is as without."""
    settings = PARAMS.lesion_bank.model_copy(update={"lesions": 27})
    write_lesion_bank(tmp_path, [NATIVE], PARAMS.preprocess.model_copy(update={"phase": True}), settings)
    both = read_lesion_bank(tmp_path / lesion_bank_name(NATIVE))
    assert lesion_bank.phase is None
    assert all(
        np.array_equal(getattr(both, name), getattr(lesion_bank, name)) for name in ("share", "off_vox", "label", "diameter_mm")
    )
    assert both.phase.shape == both.share.shape and both.phase.dtype == np.float32 and np.abs(both.phase).max() <= np.float32(np.pi)
    border = [both.phase[:, 0], both.phase[:, :, -1], both.phase[..., 0]]
    assert not any(face.any() for face in border)
    signs = {label: np.sign(phases_of(both, label)) for label in SHARE}
    assert (signs["cmb"] == 1).all() and (signs["mimic:iron"] == 1).all() and (signs["mimic:calcification"] == -1).all()
    assert min(len(s) for s in signs.values()) >= 3


def test_a_plant_changes_phase_where_it_darkens_and_by_as_much(monkeypatch):
    """One voxel that keeps nothing and turns by 2 radians: both by the same strength, on one voxel, and beyond pi it wraps."""
    monkeypatch.setattr(insertion, "SOFTEST_MM", 0.0)
    share, phase = np.ones((1, 9, 9, 5), np.float32), np.zeros((1, 9, 9, 5), np.float32)
    share[0, 5, 4, 2], phase[0, 5, 4, 2] = 0, 2.0
    single = LesionBank(share, np.zeros((1, 3)), np.array(["cmb"]), np.array([2.0]), phase)
    for seed in range(20):
        for before in (0.0, 3.0):
            patch = np.stack([np.zeros((24, 24, 12)), np.full((24, 24, 12), before)]).astype(np.float32)
            inserted, *_ = insert_lesion(patch, SPACING, np.array([11, 12, 6]), single, True, AIR, np.random.default_rng(seed))
            (darkest,) = np.argwhere(inserted[0])
            strength = inserted[0][tuple(darkest)] / AIR
            assert insertion.FAINTEST <= strength <= 1
            assert inserted[1][tuple(darkest)] == pytest.approx(before + 2 * strength - (2 * np.pi if before else 0), abs=1e-5)
            assert np.count_nonzero(inserted[1] != np.float32(before)) == 1
            assert np.array_equal(
                inserted[0],
                insert_lesion(patch[0], SPACING, np.array([11, 12, 6]), single, True, AIR, np.random.default_rng(seed))[0],
            )


def test_wrapping_by_hand():
    np.testing.assert_allclose(
        wrapped(np.float32([0, 3, 4, -4, 10])), [0, 3, 4 - 2 * np.pi, 2 * np.pi - 4, 10 - 4 * np.pi], atol=1e-5
    )

"""Phase as scanners store it, brought to radians above 0 as in veins: units, offsets, signs, blanked backgrounds, refusals."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from cmb_models.config.params import load_params
from cmb_models.detect.detector import detect
from cmb_models.detect.patches import cut_channels
from cmb_models.detect.phase import LEAST_MARGIN, sign_margin, unit_phasors
from cmb_models.detect.preprocess import Prepared, prepare, resample_vectors
from cmb_models.errors import InputError
from cmb_models.phantom.config import VENDORS, PhantomConfig
from cmb_models.phantom.scan import SimulatedScan, simulate_scan
from cmb_models.volume import Volume
from tests.support.bundles import head, settings
from tests.support.imports import ROOT
from tests.support.refused import refused

OFF = load_params(ROOT / "params.yaml").preprocess
ON = OFF.model_copy(update={"phase": True})


def wrap(radians: np.ndarray) -> np.ndarray:
    return np.angle(np.exp(1j * radians))


@pytest.fixture(scope="module")
def scan() -> SimulatedScan:
    return simulate_scan(3, 2, PhantomConfig.small())


@pytest.fixture(scope="module")
def radians(scan) -> np.ndarray:
    """The scan's phase as simulated: above 0 where the field is higher. The small scan lies on the working grid already."""
    about = scan.truth["phase"]
    return scan.phase.data * np.float32(about["sign"] * about["radians_per_unit"])


@pytest.fixture(scope="module")
def normalised(scan) -> np.ndarray:
    return prepare(scan.swi, ON, "scan", scan.phase).phase


def test_what_comes_out_is_the_simulated_phase(scan, radians, normalised):
    prepared = prepare(scan.swi, ON, "scan", scan.phase)
    assert prepared.phase.shape == prepared.image.shape and prepared.phase.dtype == np.float32
    assert np.abs(prepared.phase).max() <= np.float32(np.pi)
    # Tissue has a mean phase of a few hundredths; noise shows the range to a thousandth.
    assert np.abs(wrap(normalised - radians)).max() < 0.1


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_vendor_gives_the_same_phase(vendor):
    """One head on three scanners: signs 1, -1, 1 and three units; where the SWI is darkened the field is higher."""
    scan = simulate_scan(4, 3, replace(PhantomConfig.small(), vendor=vendor))
    about = scan.truth["phase"]
    assert (about["sign"], about["radians_per_unit"]) == (VENDORS[vendor].phase_sign, VENDORS[vendor].phase_unit)
    found = prepare(scan.swi, ON, "scan", scan.phase)
    truth = scan.phase.data * np.float32(about["sign"] * about["radians_per_unit"])
    assert np.abs(wrap(found.phase - truth)).max() < 0.1
    assert sign_margin(found.phase, found.image, found.spacing_mm) > 3 * LEAST_MARGIN


STORED = {
    "signed, 4096 to pi": lambda r: np.rint(r / np.pi * 4096),
    "signed, thousandths": lambda r: np.rint(r * 1000),
    "other sign": lambda r: np.rint(-r * 1000),
    "radians": lambda r: r,
    "unsigned, 2048 is none": lambda r: np.rint(r / np.pi * 2047) + 2048,
    "unsigned, other sign": lambda r: 2048 - np.rint(r / np.pi * 2047),
    "unsigned from 0, none is at both ends": lambda r: np.rint((r % (2 * np.pi)) / np.pi * 2048),
    "degrees from 0": lambda r: np.degrees(r % (2 * np.pi)),
}


@pytest.mark.parametrize("stored", STORED)
def test_unit_offset_and_sign_do_not_matter(scan, radians, normalised, stored):
    phase = Volume(STORED[stored](radians).astype(np.float32), scan.swi.affine)
    assert np.abs(wrap(prepare(scan.swi, ON, "scan", phase).phase - normalised)).max() < 0.02


@pytest.mark.parametrize("fill", [0.0, -4096.0])
def test_a_blanked_background_has_no_phase_and_changes_no_scale(scan, radians, normalised, fill):
    brain = scan.brain_mask.data > 0
    phase = Volume(np.where(brain, radians / np.pi * 4096, fill).astype(np.float32), scan.swi.affine)
    found = prepare(scan.swi, ON, "scan", phase).phase
    assert not found[~brain].any()
    # The brain's own range falls short of a turn by some hundredths.
    assert np.abs(wrap(found - normalised)[brain & (np.abs(normalised) < 2)]).max() < 0.25


def test_phase_is_interpolated_across_its_wraps():
    """Columns of +3 and -3 radians in turn: what lies between is pi (or -pi), never 0."""
    data = np.where(np.arange(40) % 2, 3.0, -3.0)[None, None].repeat(8, 0).repeat(8, 1)
    vectors = np.exp(1j * data).astype(np.complex64)
    finer = resample_vectors(*(Volume(part, np.eye(4)) for part in (vectors.real, vectors.imag)), (1.0, 1.0, 0.7))
    assert finer.dtype == np.complex64 and finer.shape == (8, 8, 57)
    assert np.abs(np.angle(finer)).min() > 2.99


def test_turns_by_hand():
    # 9999 numbers from 0 to 9998: the middle, 4999, is direction 0, and the ends are half a turn off.
    vectors = unit_phasors(np.arange(9999, dtype=np.float32).reshape(99, 101, 1), "scan").ravel()
    assert np.angle(vectors[4999]) == pytest.approx(0, abs=1e-3)
    assert np.abs(np.angle(vectors[[0, -1]])) == pytest.approx(np.pi, abs=3e-3)
    assert np.angle(vectors[7499]) == pytest.approx(np.pi / 2, rel=1e-3)


def test_margin_by_hand():
    image, phase = np.zeros((20, 20, 6), np.float32), np.full((20, 20, 6), 0.3, np.float32)
    image[10, :, 3] = -1  # a vein, 20 of 2400 voxels
    phase[10, :15, 3], phase[10, 15:, 3] = 0.5, -0.5
    assert sign_margin(phase, image, (1.0, 1.0, 2.0)) == pytest.approx(0.5)  # 15 less 5 of 20
    assert sign_margin(-phase, image, (1.0, 1.0, 2.0)) == pytest.approx(-0.5)
    assert np.isnan(sign_margin(phase, np.zeros_like(image), (1.0, 1.0, 2.0)))


def moved(volume: Volume, mm: float) -> Volume:
    affine = volume.affine.copy()
    affine[0, 3] += mm
    return Volume(volume.data, affine)


def with_nan(volume: Volume) -> Volume:
    data = volume.data.copy()
    data[1, 2, 3] = np.nan
    return Volume(data, volume.affine)


def noise(volume: Volume) -> Volume:
    return Volume(np.random.default_rng(0).uniform(-4096, 4096, volume.data.shape).astype(np.float32), volume.affine)


def quiet_noise(volume: Volume) -> Volume:
    return Volume(np.random.default_rng(0).normal(0, 300, volume.data.shape).astype(np.float32), volume.affine)


REFUSED = {
    "other shape": (
        lambda v: Volume(v.data[:-1], v.affine),
        "on the grid of its SWI, got one of shape (95, 96, 40) for (96, 96, 40)",
    ),
    "other place": (lambda v: moved(v, 2.5), "on the grid of its SWI, got one that lies up to 2.5 mm off it"),
    "NaN": (with_nan, "a finite phase image, got 1 NaN or infinite voxels"),
    "constant": (lambda v: Volume(np.full_like(v.data, 7), v.affine), "a constant one (every voxel is 7)"),
    "a mask": (lambda v: Volume((v.data == v.data.max()).astype(np.float32), v.affine), "one that hardly varies"),
    "no filtered phase": (noise, "a high-pass filtered phase image, got one that points all ways"),
    "of another scan": (quiet_noise, "phase that shows the veins of its SWI, got one that does not follow them"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_the_scans_phase_is_refused(scan, kind):
    change, words = REFUSED[kind]
    with pytest.raises(InputError) as raised:
        prepare(scan.swi, ON, "sub-7", change(scan.phase))
    assert raised.value.case == "sub-7" and words in str(raised.value)


def test_unfiltered_phase_is_refused(scan, radians):
    """The same phase on a background that turns four times from front to back, wrapped."""
    background = np.linspace(0, 8 * np.pi, radians.shape[1])[None, :, None]
    with refused("phase-unusable"):
        prepare(scan.swi, ON, "sub-7", Volume(wrap(radians + background).astype(np.float32), scan.swi.affine))


def test_the_swi_given_twice_is_refused(scan):
    with refused("phase-unusable"):
        prepare(scan.swi, ON, "sub-7", scan.swi)


def test_rounded_headers_are_the_same_grid(scan, normalised):
    assert np.array_equal(prepare(scan.swi, ON, "sub-7", moved(scan.phase, 0.01)).phase, normalised)


def test_missing_phase_is_refused_and_phase_that_is_not_used_is_left_aside(scan, caplog):
    with refused("phase-missing"):
        prepare(scan.swi, ON, "sub-7")
    with caplog.at_level(logging.INFO):
        given = prepare(scan.swi, OFF, "sub-7", scan.phase)
    assert given.phase is None and "sub-7: its phase image is left aside" in caplog.text
    assert np.array_equal(given.image, prepare(scan.swi, OFF, "sub-7").image)


def test_the_swi_channel_is_the_same_with_phase(scan):
    with_phase, without = prepare(scan.swi, ON, "s", scan.phase), prepare(scan.swi, OFF, "s")
    assert np.array_equal(with_phase.image, without.image) and with_phase.shape == without.shape


def test_however_the_axes_are_stored(scan, normalised):
    """The same scan left to right and slices first: the same phase on the working grid."""

    def stored(volume: Volume) -> Volume:
        to_old = np.array([[0, -1.0, 0, volume.data.shape[0] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
        return Volume(np.ascontiguousarray(volume.data[::-1].transpose(2, 0, 1)), volume.affine @ to_old)

    assert np.array_equal(prepare(stored(scan.swi), ON, "s", stored(scan.phase)).phase, normalised)


def test_padding_has_no_phase(scan):
    cut = [Volume(v.data[:, :, :38], v.affine) for v in (scan.swi, scan.phase)]
    prepared = prepare(cut[0], ON, "s", cut[1])
    assert prepared.image.shape == (96, 96, 40) == prepared.phase.shape and not prepared.phase[:, :, 38:].any()


def test_arguments_are_left_as_they_were(scan):
    before = scan.phase.data.copy()
    prepare(scan.swi, ON, "s", scan.phase).phase[:] = 9
    assert np.array_equal(scan.phase.data, before)


def test_channels_by_hand():
    image = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6) + 1
    index = np.array([[1, 2, 3], [0, 0, 0]])
    alone = cut_channels(Prepared(image, np.eye(4), image.shape), index, (2, 2, 2))
    both = cut_channels(Prepared(image, np.eye(4), image.shape, -image), index, (2, 2, 2))
    assert alone.shape == (2, 1, 2, 2, 2) and both.shape == (2, 2, 2, 2, 2) and both.dtype == np.float32
    assert np.array_equal(both[:, :1], alone) and np.array_equal(both[0, 1], -image[:2, 1:3, 2:4])
    # Beyond the edge: the image's lowest value, and no phase.
    assert (both[1, 0, 0] == 1).all() and (both[1, 1, 0] == 0).all() and both[1, 1, 1, 1, 1] == -1
    assert cut_channels(Prepared(image, np.eye(4), image.shape, -image), index[:0], (2, 3, 4)).shape == (0, 2, 2, 3, 4)


def test_stage_2_alone_sees_the_phase(scan, normalised):
    config = settings().model_copy(update={"preprocess": ON, "patch_vox": (20, 20, 10)})
    seen = []

    def unet(image):
        assert image.shape == (1, 1, 96, 96, 40)
        heatmap = np.zeros_like(image)
        heatmap[0, 0, 40, 50, 20] = 0.9
        return heatmap

    def cnn(patches):
        seen.append(patches)
        return np.full(len(patches), 0.5, np.float32)

    answer = detect(scan.swi, config, unet, cnn, "s", scan.phase)
    assert len(answer.candidates) == 1 and config.patch_channels == seen[0].shape[1] == 2
    assert np.array_equal(seen[0][0, 1], normalised[30:50, 40:60, 15:25])
    with refused("phase-missing"):
        detect(head(), config, unet, cnn, "sub-9")

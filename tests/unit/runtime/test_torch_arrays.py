"""The array work of `detect` by torch gives what NumPy gives: each function, and whole scans. CUDA devices run the same code."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from cmb_models.arrays import NUMPY
from cmb_models.detect.candidates import find_candidates
from cmb_models.detect.detector import detect, propose
from cmb_models.detect.phase import sign_margin
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.phantom import golden_scan
from cmb_models.release.base import base_bundle
from cmb_models.release.bundle import BundleDetector, load_bundle, open_networks
from cmb_models.runtime.accelerator import DeviceFailed, DoesNotFit, device_error
from cmb_models.runtime.cuda_torch import TorchNetwork
from cmb_models.runtime.device import DeviceArrays, open_arrays
from cmb_models.runtime.torch_arrays import TorchArrays
from cmb_models.serving.check.scans import head
from cmb_models.volume import Volume
from tests.support.bundles import settings
from tests.support.refused import refused

EXAMPLE = base_bundle()  # trained networks
TORCH = TorchArrays("cpu")
RNG = np.random.default_rng(5)
IMAGE = RNG.standard_normal((21, 18, 13), dtype=np.float32)
WITH_PHASE = settings().preprocess.model_copy(update={"phase": True})


def host(array):
    return TORCH.host(array)


@pytest.mark.parametrize("axes", ["RAS", "LPI", "PSR", "SAL", "IRP"])
def test_reorientation(axes):
    orientation = nib.orientations.axcodes2ornt(axes)
    expected = NUMPY.oriented(IMAGE, orientation)
    assert np.array_equal(host(TORCH.oriented(TORCH.array(IMAGE), orientation)), expected)


@pytest.mark.parametrize("factor", [(2.2, 1.0, 0.7), (1.0, 1.0, 4.0), (0.4, 0.9, 1.3)], ids=str)
def test_resampling(factor):
    shape = tuple(max(1, round(s / f)) for s, f in zip(IMAGE.shape, factor, strict=True))
    expected = NUMPY.resampled(IMAGE, np.array(factor), shape)
    np.testing.assert_allclose(host(TORCH.resampled(TORCH.array(IMAGE), np.array(factor), shape)), expected, atol=2e-6)


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_percentiles(count):
    values = RNG.standard_normal(count).astype(np.float32)
    q = [0, 0.01, 5, 50, 99, 99.99, 100]
    np.testing.assert_allclose(TORCH.percentiles(TORCH.array(values), q), NUMPY.percentiles(values, q), rtol=1e-6, atol=1e-7)


def test_percentiles_of_nothing():
    for arrays in (NUMPY, TORCH):
        assert np.isnan(arrays.percentiles(arrays.array(np.zeros(0, np.float32)), [5, 50])).all()


@pytest.mark.parametrize("size", [(3, 3, 1), (4, 5, 1), (6, 4, 2), (1, 2, 3)], ids=str)
def test_closing(size):
    assert np.array_equal(host(TORCH.closed(TORCH.array(IMAGE), size)), NUMPY.closed(IMAGE, size))


def test_elementwise_functions():
    vectors = NUMPY.phasors(IMAGE)
    np.testing.assert_allclose(host(TORCH.phasors(TORCH.array(IMAGE))), vectors, atol=1e-6)
    np.testing.assert_allclose(host(TORCH.angle(TORCH.array(vectors))), NUMPY.angle(vectors), atol=1e-6)
    np.testing.assert_allclose(host(TORCH.sine(TORCH.array(IMAGE))), NUMPY.sine(IMAGE), atol=1e-6)
    assert np.array_equal(host(TORCH.padded(TORCH.array(IMAGE), (1, 0, 3), -2.0)), NUMPY.padded(IMAGE, (1, 0, 3), -2.0))


@pytest.mark.parametrize("floor", [0.0, 0.9, 2.0])
def test_candidates(floor):
    """On noise, and on plateaus of equal scores, more of them than FIRST_LOOK."""
    chosen = settings().candidates.model_copy(update={"floor": floor, "min_distance_mm": 3.0})
    for heatmap in (RNG.random((40, 40, 30), dtype=np.float32), RNG.integers(0, 3, (40, 40, 30)).astype(np.float32) / 2):
        expected = find_candidates(heatmap, (1.0, 1.0, 2.0), chosen)
        found = find_candidates(TORCH.array(heatmap), (1.0, 1.0, 2.0), chosen, TORCH)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def stored(axes: str) -> tuple[Volume, Volume]:
    """A simulated scan with its phase, stored with other axes and another voxel size."""
    swi, phase, _ = golden_scan(3)
    orientation = nib.orientations.axcodes2ornt(axes)
    images = [nib.as_closest_canonical(v.to_nibabel()).as_reoriented(orientation) for v in (swi, phase)]
    first, second = (Volume.from_nibabel(image) for image in images)
    return first, second


@pytest.mark.parametrize("axes", ["RAS", "PLS"])
def test_preparation_of_a_scan_with_phase(axes):
    swi, phase = stored(axes)
    coarser = WITH_PHASE.model_copy(update={"spacing_mm": (1.3, 1.2, 2.5)})
    for chosen in (WITH_PHASE, coarser):
        expected, found = (prepare(swi, chosen, "scan", phase, arrays) for arrays in (NUMPY, TORCH))
        assert found.shape == expected.shape and np.array_equal(found.affine, expected.affine)
        np.testing.assert_allclose(host(found.image), expected.image, atol=1e-4)
        apart = np.angle(np.exp(1j * (host(found.phase).astype(float) - expected.phase)))
        assert np.abs(apart).max() < 1e-2 and np.sqrt((apart**2).mean()) < 1e-4  # short vectors have no exact angle
        margins = [sign_margin(p.phase, p.image, p.spacing_mm, a) for p, a in ((expected, NUMPY), (found, TORCH))]
        assert margins[0] == pytest.approx(margins[1], abs=1e-3)


def test_patches_and_diameters():
    chosen = settings()
    chosen = chosen.model_copy(update={"candidates": chosen.candidates.model_copy(update={"max_per_scan": 30})})
    swi, _ = stored("RAS")
    prepared = [prepare(swi, chosen.preprocess, "scan", None, arrays) for arrays in (NUMPY, TORCH)]
    heatmap = RNG.random(prepared[0].image.shape, dtype=np.float32)
    (one, patches), (other, others) = (
        propose(arrays.array(heatmap), p, chosen, arrays) for p, arrays in zip(prepared, (NUMPY, TORCH), strict=True)
    )
    assert len(one.index_vox) == 30 and np.array_equal(one.index_vox, other.index_vox)
    np.testing.assert_allclose(other.diameter_mm, one.diameter_mm)
    np.testing.assert_allclose(host(others), patches, atol=1e-4)


@pytest.mark.parametrize("kind", ["nan", "constant", "negative", "inverted", "noise"])
def test_faulty_scans_are_rejected_alike(kind):
    scan = head((64, 64, 32), (2.0, 2.0, 3.0)).volume
    data = {
        "nan": lambda d: np.where(d == d.max(), np.nan, d),
        "constant": np.ones_like,
        "negative": lambda d: d - d.mean(),
        "inverted": lambda d: d.max() - d,
        "noise": lambda d: RNG.random(d.shape),
    }[kind](scan.data)
    faults = []
    for arrays in (NUMPY, TORCH):
        with pytest.raises(InputError) as caught:
            prepare(Volume(data.astype(np.float32), scan.affine), settings().preprocess, "scan", None, arrays)
        faults.append((caught.value.code, str(caught.value)))
    assert faults[0] == faults[1]


def test_a_scan_through_a_trained_release():
    """Preparation, both networks and candidates by torch against NumPy and the CPU's runtime: the same detections."""
    bundle = load_bundle(EXAMPLE)
    networks = [TorchNetwork(EXAMPLE / f"{name}.onnx", "cpu") for name in ("unet", "cnn")]
    swi, _, _ = golden_scan(4)
    expected = detect(swi, bundle.config, *open_networks(bundle))
    found = detect(swi, bundle.config, *networks, arrays=TORCH)
    assert len(expected.candidates) > 5
    assert [c.index for c in found.detections] == [c.index for c in expected.detections]
    scores = ({c.index: c.score for c in answer.candidates} for answer in (found, expected))
    one, other = scores
    assert one.keys() == other.keys() and max(abs(one[i] - other[i]) for i in one) < 1e-3


def test_a_scan_without_candidates():
    chosen = settings()
    found = detect(golden_scan(4)[0], chosen, torch.zeros_like, pytest.fail, arrays=TORCH)
    assert found.candidates == ()


class Broken(TorchArrays):
    """A device that fails when a scan is copied to it."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("cpu")
        self.failure = failure
        self.broken = False

    def oriented(self, array, orientation):
        raise self.failure


LOST, FULL = DeviceFailed("CUDA error: device lost"), torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("failure", "code", "kept"), [(LOST, "device-failed", False), (FULL, "device-memory", True)])
def test_a_device_that_fails_during_preparation(failure, code, kept, caplog):
    scan, chosen = head((64, 64, 32), (2.0, 2.0, 3.0)).volume, settings().preprocess
    expected = prepare(scan, chosen, "scan")

    def work(arrays):
        return prepare(scan, chosen, "scan", None, arrays)

    where = DeviceArrays(requested="auto", accelerated=Broken(failure))
    found = where.run(work, "sub-1")
    assert np.array_equal(found.image, expected.image) and "sub-1: torch on the cpu failed" in caplog.text
    assert (where.accelerated is not None) == kept and bool(where.reason) != kept
    with refused(code, case="sub-1"):
        DeviceArrays(requested="cuda", accelerated=Broken(failure)).run(work, "sub-1")


def test_memory_errors_keep_their_kind():
    with pytest.raises(DoesNotFit), TORCH.working():
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_arrays_that_differ_from_the_cpu_are_not_used():
    class Wrong(TorchArrays):
        def resampled(self, array, factor, shape):
            return super().resampled(array, factor, shape) + 0.1

    where = open_arrays("auto", opener=lambda card: Wrong("cpu"))
    assert where.accelerated is None and "differs from the CPU" in where.reason
    assert open_arrays("auto", opener=lambda card: TorchArrays("cpu")).reason == ""
    assert open_arrays("cpu").run(lambda arrays: arrays) is NUMPY


def test_a_detector_prepares_on_its_device():
    scan = golden_scan(4)[0]
    with BundleDetector(EXAMPLE) as detector:
        expected = detector.detect(scan)
        detector._arrays = where = DeviceArrays(requested="cuda", accelerated=Counting("cpu"))
        found = detector.detect(scan)
    assert where.accelerated.scans == 1
    assert [d.index for d in found.detections] == [d.index for d in expected.detections]


class Counting(TorchArrays):
    scans = 0

    def oriented(self, array, orientation):
        self.scans += 1
        return super().oriented(array, orientation)


def test_weights_of_a_long_axis_are_those_of_a_short_one():
    """Computed in blocks of unit vectors."""
    image, factor = RNG.standard_normal((1300, 3, 2), dtype=np.float32), np.array([3.3, 1.0, 1.0])
    expected = NUMPY.resampled(image, factor, (394, 3, 2))
    np.testing.assert_allclose(host(TORCH.resampled(TORCH.array(image), factor, (394, 3, 2))), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA error: out of memory", DoesNotFit),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", DoesNotFit),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED\nhints", DeviceFailed),
        ("nvrtc: error: failed to open libnvrtc-builtins.so.12.6", DeviceFailed),
    ],
)
def test_what_an_error_of_the_device_is(text, kind):
    error = device_error(RuntimeError(text))
    assert type(error) is kind and str(error) == text.split("\n")[0]

"""Reading NIfTI: what is right comes back as it was, what is wrong is told in one sentence with the file's name."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from cmb_models.errors import InputError
from cmb_models.io.nifti import read_volume, scan_name, write_volume
from cmb_models.volume import Volume
from tests.support.refused import refused

AFFINE = np.array([[-0.8, 0.6, 0, 5], [0.6, 0.8, 0, -7], [0, 0, 2, 11], [0, 0, 0, 1.0]])
DATA = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


def save(path, data, affine=AFFINE):
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def patched(path, offset: int, form: str, *values):
    """A valid .nii with some header bytes overwritten."""
    save(path, DATA)
    raw = bytearray(path.read_bytes())
    raw[offset : offset + struct.calcsize(form)] = struct.pack(form, *values)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_round_trip(tmp_path, name):
    write_volume(tmp_path / name, Volume(DATA, AFFINE))
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.data, DATA)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
    assert volume.data.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, ">i2", ">f4"])
def test_every_real_type_reads_as_float32(tmp_path, dtype):
    volume = read_volume(save(tmp_path / "a.nii.gz", DATA.astype(dtype)))
    np.testing.assert_array_equal(volume.data, DATA)
    assert volume.data.dtype == np.float32 and volume.data.dtype.isnative


def test_scaling_is_applied(tmp_path):
    image = nib.Nifti1Image(DATA.astype(np.int16), AFFINE)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").data, DATA * 0.5 + 10)


def test_a_fourth_axis_of_one_is_dropped(tmp_path):
    np.testing.assert_array_equal(read_volume(save(tmp_path / "a.nii", DATA[..., None, None])).data, DATA)


def test_the_file_may_change_after_reading(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii", DATA))
    save(tmp_path / "a.nii", DATA + 1)
    np.testing.assert_array_equal(volume.data, DATA)


def write(path, content: bytes):
    path.write_bytes(content)
    return path


def short(path, share: float):
    raw = save(path, np.random.default_rng(0).normal(size=(20, 20, 20))).read_bytes()
    return write(path, raw[: int(len(raw) * share)])


def folder(path):
    path.mkdir()
    return path


RGB = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
FAULTS = {
    "missing": (lambda d: d / "a.nii.gz", "no such file"),
    "folder": (lambda d: folder(d / "a.nii.gz"), "a folder"),
    "empty": (lambda d: write(d / "a.nii.gz", b""), "an empty file"),
    "png": (lambda d: write(d / "a.png", b"\x89PNG"), "a .png file"),
    "no suffix": (lambda d: write(d / "a", b"x"), "a nameless file"),
    "png named nifti": (lambda d: write(d / "a.nii.gz", b"\x89PNG" * 200), "cannot be read"),
    "garbage": (lambda d: write(d / "a.nii", np.random.default_rng(0).bytes(5000)), "cannot be read"),
    "gzip of garbage": (lambda d: write(d / "a.nii.gz", gzip.compress(bytes(range(256)) * 9)), "cannot be read"),
    "cut .nii.gz": (lambda d: short(d / "a.nii.gz", 0.5), "cannot be read"),
    "cut .nii": (lambda d: short(d / "a.nii", 0.5), "cannot be read"),
    "cut in the header": (lambda d: short(d / "a.nii", 0.001), "cannot be read"),
    "unknown type": (lambda d: patched(d / "a.nii", 70, "<h", 9999), "cannot be read"),
    "99 axes": (lambda d: patched(d / "a.nii", 40, "<h", 99), "cannot be read"),
    "negative size": (lambda d: patched(d / "a.nii", 42, "<h", -5), "cannot be read"),
    "absurd size": (lambda d: patched(d / "a.nii", 42, "<3h", 32000, 32000, 32000), "32000"),
    "NaN offset": (lambda d: patched(d / "a.nii", 108, "<f", float("nan")), "cannot be read"),
    "NaN affine": (lambda d: patched(d / "a.nii", 280, "<f", float("nan")), "a usable affine"),
    "singular affine": (lambda d: patched(d / "a.nii", 280, "<12f", *[0.0] * 12), "a usable affine"),
    "4D": (lambda d: save(d / "a.nii.gz", np.stack([DATA] * 2, axis=-1)), "(3, 4, 5, 2)"),
    "2D": (lambda d: save(d / "a.nii.gz", DATA[0]), "(4, 5)"),
    "complex": (lambda d: save(d / "a.nii.gz", DATA.astype(np.complex64)), "complex voxels"),
    "colour": (lambda d: save(d / "a.nii.gz", RGB), "colour voxels"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_the_file_in_one_line(tmp_path, fault):
    make, words = FAULTS[fault]
    path = make(tmp_path)
    with pytest.raises(InputError) as raised:
        read_volume(path)
    assert words in str(raised.value) and str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert raised.value.case == str(path)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "a.nii", DATA)
    monkeypatch.setattr(nib, "load", denied)
    with refused("file-not-readable"):
        read_volume(path)


def test_integers_are_written_unscaled(tmp_path):
    write_volume(tmp_path / "mask.nii.gz", Volume(DATA, AFFINE), dtype=np.uint8)
    image = nib.load(tmp_path / "mask.nii.gz")
    assert image.get_data_dtype() == np.uint8 and image.dataobj.slope == 1 and image.dataobj.inter == 0
    assert image.header.get_xyzt_units()[0] == "mm"


def test_scan_names():
    names = {"x/sub-01_swi.nii.gz": "sub-01_swi", "b.NII": "b", "c.nii.gz.nii": "c.nii.gz", "d.png": "d.png"}
    assert {path: scan_name(path) for path in names} == names

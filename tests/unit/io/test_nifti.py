"""Reading NIfTI: valid files come back as they were, faults are reported in one sentence with the file's name."""

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cmb_models.errors import InputError
from cmb_models.io.nifti import read_volume, scan_name, write_volume
from cmb_models.io.scan_id import content_sha256
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
    "cut .nii.gz": (lambda d: short(d / "a.nii.gz", 0.5), "a damaged gzip file"),
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
    monkeypatch.setattr(Path, "open", denied)
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


def test_a_gzip_file_that_was_damaged_in_copying(tmp_path):
    """One flipped bit anywhere in the compressed voxels or the checksum; 40 places."""
    rng = np.random.default_rng(6)
    whole = save(tmp_path / "whole.nii.gz", rng.integers(0, 900, (40, 40, 20)).astype(np.int16)).read_bytes()
    read_volume(tmp_path / "whole.nii.gz")
    for place in [*rng.integers(20, len(whole) - 8, 38), len(whole) - 8, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        with refused("scan-file", got="damaged gzip|cannot be read"):
            read_volume(write(tmp_path / "damaged.nii.gz", bytes(damaged)))


def test_bytes_after_the_end(tmp_path):
    whole = save(tmp_path / "a.nii.gz", DATA).read_bytes()
    with refused("scan-file", got="damaged gzip"):
        read_volume(write(tmp_path / "b.nii.gz", whole + b"another file"))
    with refused("scan-file", got="after its voxels"):
        read_volume(write(tmp_path / "c.nii.gz", gzip.compress(gzip.decompress(whole) + bytes(10_000))))
    read_volume(write(tmp_path / "d.nii.gz", gzip.compress(gzip.decompress(whole) + bytes(300))))  # padded to a block


def test_a_compressed_file_named_nii_and_the_reverse(tmp_path):
    whole = save(tmp_path / "a.nii.gz", DATA).read_bytes()
    np.testing.assert_array_equal(read_volume(write(tmp_path / "b.nii", whole)).data, DATA)
    np.testing.assert_array_equal(read_volume(write(tmp_path / "c.nii.gz", gzip.decompress(whole))).data, DATA)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_both_versions_and_byte_orders(tmp_path, kind, order):
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(np.int16).newbyteorder(order))
    nib.save(kind(DATA.astype(np.int16), AFFINE, header), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.data, DATA)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)


SCANNER, ALIGNED, MNI = 1, 2, 4
MIRRORED = np.diag([-1.0, 1, 1, 1]) @ AFFINE
MOVED = AFFINE + np.outer([0, 0, 1.5, 0], [0, 0, 0, 1])
SPACES = {
    "both alike": ((AFFINE, SCANNER), (AFFINE, ALIGNED), ""),
    "qform alone": ((AFFINE, SCANNER), (None, 0), ""),
    "scanner's and its copy in a template's name": ((AFFINE, SCANNER), (AFFINE, MNI), ""),
    "neither": ((None, 0), (None, 0), "neither qform nor sform"),
    "mirrored": ((AFFINE, SCANNER), (MIRRORED, SCANNER), "mirrored against each other"),
    "apart": ((AFFINE, SCANNER), (MOVED, ALIGNED), "up to 2 mm apart"),
    "a template's sform": ((np.diag([1.0, 1, 2, 1]), SCANNER), (np.eye(4), MNI), "RAS 1 x 1 x 2 mm .* RAS 1 x 1 x 1 mm"),
    "a template alone": ((None, 0), (AFFINE, MNI), "MNI space"),
}


@pytest.mark.parametrize("name", SPACES)
def test_where_an_image_lies(tmp_path, name):
    (qform, qcode), (sform, scode), words = SPACES[name]
    image = nib.Nifti1Image(DATA, None)
    image.header["pixdim"][1:4] = (1, 1, 2)
    if qform is not None:
        image.set_qform(qform, qcode)
    if sform is not None:
        image.set_sform(sform, scode)
    nib.save(image, tmp_path / "a.nii.gz")
    if not words:
        np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").affine, AFFINE, atol=1e-5)
        return
    with refused("scan-space", case="a.nii.gz", got=words):
        read_volume(tmp_path / "a.nii.gz")


def test_voxel_sizes_that_contradict_the_affine(tmp_path):
    path = patched(tmp_path / "a.nii", 80, "<3f", 2.0, 2.0, 2.0)
    with refused("scan-space", got="2 x 2 x 2 mm in its header and 1 x 1 x 2 mm by its affine"):
        read_volume(path)


def test_an_axis_that_points_nowhere_is_described(tmp_path):
    """The second number of the sform's last column: two axes that are nearly one."""
    write_volume(tmp_path / "a.nii", Volume(DATA, AFFINE))
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[304:308] = struct.pack("<f", 1e30)
    (tmp_path / "a.nii").write_bytes(content)
    with refused("scan-space", got=r"sform L\?A 1 x 1 x 1e\+30 mm"):
        read_volume(tmp_path / "a.nii")


def test_voxels_that_begin_within_the_header(tmp_path):
    """Read shifted by as much, they would still look like a scan."""
    with refused("scan-file", got="begin at byte 0, within the header"):
        read_volume(patched(tmp_path / "a.nii", 108, "<f", 0.0))


def test_the_content_of_a_scan_that_was_saved_again(tmp_path):
    data = np.where(DATA == 3, -0.0, DATA).astype(np.float32)
    image = nib.Nifti1Image(data, None)
    image.set_qform(AFFINE, 1)
    nib.save(image, tmp_path / "a.nii.gz")
    first = read_volume(tmp_path / "a.nii.gz")
    write_volume(tmp_path / "b.nii", Volume(np.abs(first.data), first.affine))
    assert content_sha256(read_volume(tmp_path / "b.nii")) == content_sha256(first)
    assert content_sha256(Volume(DATA + 1, AFFINE)) != content_sha256(first) != content_sha256(Volume(DATA.T, AFFINE))

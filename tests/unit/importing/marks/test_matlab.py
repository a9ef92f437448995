"""MATLAB matrices, compared with what SciPy wrote."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from cmb_models.importing.marks.forms.matlab import HEADER, read_matrix

CENTRES = np.array([[1, 2, 3], [250, 251, 30]])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_matrices(tmp_path, dtype, is_compressed):
    content = {"a long name": "text", "other": np.ones((4, 4)), "cen": CENTRES.astype(dtype), "s": {"cen": 3}}
    savemat(tmp_path / "a.mat", content, do_compression=is_compressed, long_field_names=True)
    found = read_matrix(tmp_path / "a.mat", "cen")
    np.testing.assert_array_equal(found, CENTRES)
    assert found.dtype == np.float64


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (0, 3), (0, 0)])
def test_shapes(tmp_path, shape):
    savemat(tmp_path / "a.mat", {"cen": np.ones(shape)})
    np.testing.assert_array_equal(read_matrix(tmp_path / "a.mat", "cen"), np.ones(shape))


def test_big_endian(tmp_path):
    """The same bytes in the other order: header, a matrix of one double, 2.5."""
    parts = [(6, np.array([6, 0], ">u4")), (5, np.array([1, 1], ">i4")), (1, b"cen\0\0\0\0\0"), (9, np.array([2.5], ">f8"))]
    matrix = b"".join(np.array([kind, 3 if kind == 1 else 8], ">u4").tobytes() + bytes(data) for kind, data in parts)
    start = b"MATLAB 5.0".ljust(HEADER - 4) + b"\x01\x00MI"
    (tmp_path / "a.mat").write_bytes(start + np.array([14, len(matrix)], ">u4").tobytes() + matrix)
    assert read_matrix(tmp_path / "a.mat", "cen").tolist() == [[2.5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": CENTRES}, "no matrix cen"),
        ({"cen": "text"}, "no matrix of real numbers"),
        ({"cen": CENTRES * 1j}, "no matrix of real numbers"),
        ({"cen": np.ones((2, 3, 4))}, "of shape"),
    ],
)
def test_what_is_no_matrix(tmp_path, content, message):
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(ValueError, match=message):
        read_matrix(tmp_path / "a.mat", "cen")


@pytest.mark.parametrize("is_compressed", [False, True])
def test_damaged(tmp_path, is_compressed):
    """Every length, and 1,000 changes: a ValueError or a matrix, in a process that lives on."""
    savemat(tmp_path / "a.mat", {"cen": CENTRES}, do_compression=is_compressed)
    whole = (tmp_path / "a.mat").read_bytes()
    rng = np.random.default_rng(0)
    ruined = [whole[:n] for n in range(len(whole))]
    for _ in range(1000):
        changed = bytearray(whole)
        for place in rng.integers(HEADER, len(whole), rng.integers(1, 5)):
            changed[place] = rng.integers(256)
        ruined.append(bytes(changed))
    refused = 0
    for content in ruined:
        (tmp_path / "b.mat").write_bytes(content)
        try:
            assert read_matrix(tmp_path / "b.mat", "cen").ndim == 2
        except ValueError:
            refused += 1
    assert refused >= len(whole)

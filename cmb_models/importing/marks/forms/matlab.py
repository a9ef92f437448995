"""A matrix of a MATLAB file of level 5 (versions 5 to 7), as MathWorks' "MAT-File Format" describes it.

Not by `scipy.io.loadmat`, which ends the process at some damaged files (SciPy 1.16, segmentation fault).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HEADER = 128  # bytes of text, version and byte order
MATRIX, COMPRESSED = 14, 15  # types of elements
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC = range(6, 16)  # classes of arrays, from double to uint64
IS_COMPLEX = 0x0800
MOST_BYTES = 2**26  # of a compressed element: far more than places of lesions


def read_matrix(file: Path, name: str) -> np.ndarray:
    """A numeric matrix (M, N) of a file, float64.

    Raises:
        ValueError: If the file is damaged, of another level, or has no real matrix of that name.
    """
    data = file.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(data[HEADER - 2 : HEADER])
    if order is None or not data.startswith(b"MATLAB 5"):
        raise ValueError("no MATLAB file of version 5 to 7")
    for kind, content in _elements(data[HEADER:], order):
        if kind == COMPRESSED:
            kind, content = next(_elements(_decompressed(content), order))
        if kind == MATRIX and (found := _matrix(content, order, name)) is not None:
            return found
    raise ValueError(f"no matrix {name}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Types and contents of the elements in some bytes."""
    start = 0
    while start < len(data):
        if start + 8 > len(data):
            raise ValueError("it ends within an element")
        kind, size = struct.unpack_from(f"{order}II", data, start)
        if kind >> 16:  # type, size and up to four bytes in one
            kind, size, begin, after = kind & 0xFFFF, kind >> 16, start + 4, start + 8
        else:
            begin = start + 8
            after = begin + size if kind == COMPRESSED else begin + (size + 7) // 8 * 8
        if begin + size > len(data) or (begin == start + 4 and size > 4):
            raise ValueError("it ends within an element")
        yield kind, data[begin : begin + size]
        start = after
    if not data:
        raise ValueError("an element without content")


def _decompressed(content: bytes) -> bytes:
    try:
        stream = zlib.decompressobj()
        found = stream.decompress(content, MOST_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not stream.eof:
        raise ValueError("a compressed element that is cut short or too large")
    return found


def _matrix(content: bytes, order: str, name: str) -> np.ndarray | None:
    """The matrix in an element; None if it has another name or no numbers."""
    parts = list(_elements(content, order))
    if len(parts) < 4 or len(parts[0][1]) != 8 or parts[2][1] != name.encode():
        return None
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    kind, numbers = parts[3]
    if flags & 0xFF not in NUMERIC or flags & IS_COMPLEX or kind not in NUMBERS:
        raise ValueError(f"{name}, which is no matrix of real numbers")
    shape = np.frombuffer(parts[1][1], f"{order}i4")
    values = np.frombuffer(numbers, order + NUMBERS[kind]).astype(np.float64)
    if len(shape) != 2 or (shape < 0).any():
        raise ValueError(f"{name} of shape {shape.tolist()}")
    return values.reshape([int(n) for n in shape], order="F")

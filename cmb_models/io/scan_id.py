"""The identity of a scan: its content, not its file. Datasets, guards and lineage compare it, servers log it."""

from __future__ import annotations

import hashlib

import numpy as np

from cmb_models.volume import Volume


def content_sha256(volume: Volume) -> str:
    """SHA-256, in hexadecimal, over shape and voxels in RAS+ order, as `scan_sha256`.

    It stays when a file is compressed, saved again, or stored with its axes in another order. Without the affine, of which a header
    keeps the last digits or not, by the form it is written in.
    """
    data = volume.to_ras().data
    digest = hashlib.sha256(np.asarray(data.shape, dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(data + np.float32(0), dtype="<f4").data)  # -0 is 0
    return digest.hexdigest()


def scan_sha256(volume: Volume) -> str:
    """SHA-256, in hexadecimal, over shape (three int64), affine (float64) and voxels (float32), little-endian, last index fastest.

    Independent of the file's name and compression. Takes 66 ms for 73 MB on processors with SHA instructions (BLAKE2b: 161 ms).
    """
    digest = hashlib.sha256(np.asarray(volume.data.shape, dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(volume.affine, dtype="<f8").data)
    digest.update(np.ascontiguousarray(volume.data, dtype="<f4").data)
    return digest.hexdigest()

"""A name for a scan's content that tells nothing of whose it is: what the server logs, and what a site finds a scan again by."""

from __future__ import annotations

import hashlib

import numpy as np

from cmb_models.volume import Volume


def scan_sha256(volume: Volume) -> str:
    """SHA-256, in hexadecimal, over shape (three int64), affine (float64) and voxels (float32), little-endian, last index fastest.

    Over what is detected in, whatever file it came from: compressed or not, renamed or not, it stays the same. Reads every voxel
    (66 ms for 73 MB where the processor has instructions for it; BLAKE2b, which has none, 161 ms).
    """
    whole = hashlib.sha256(np.asarray(volume.data.shape, dtype="<i8").tobytes())
    whole.update(np.ascontiguousarray(volume.affine, dtype="<f8").data)
    whole.update(np.ascontiguousarray(volume.data, dtype="<f4").data)
    return whole.hexdigest()

"""NIfTI files to Volumes and back."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from cmb_models.errors import InputError
from cmb_models.files import replacing
from cmb_models.volume import Volume

SUFFIXES = (".nii.gz", ".nii")


def scan_name(path: Path) -> str:
    """The file's name without .nii.gz or .nii: what results call the scan."""
    name = Path(path).name
    return next((name[: -len(s)] for s in SUFFIXES if name.lower().endswith(s)), name)


def read_volume(path: Path) -> Volume:
    """Read one 3D NIfTI as float32 (I, J, K) with its scaling applied.

    A fourth axis of length 1 is dropped. Missing, truncated, foreign and 4D files raise InputError naming the file;
    voxel values are not judged here (`detect.checks` does that for every path into the detector).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "a NIfTI file", "no such file", "check the path")
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(
            path, "a NIfTI file (.nii or .nii.gz)", f"a {path.suffix or 'nameless'} file", "convert the scan to NIfTI first"
        )
    try:
        image = nib.load(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
    except (ImageFileError, OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(
            path, "a whole NIfTI file", f"one that cannot be read ({_one_line(error)})", "copy or export it again"
        ) from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise InputError(
            path, "one 3D volume", f"an array of shape {data.shape}", "pass one echo or time point at a time, as a file of its own"
        )
    try:
        return Volume(data, image.affine)
    except ValueError as error:
        raise InputError(path, "a usable affine", _one_line(error), "export the scan again with its orientation") from error


def write_volume(path: Path, volume: Volume, dtype: type = np.float32) -> None:
    """Write a Volume as NIfTI (millimetres, scanner space) atomically; integers are stored as they are, unscaled."""
    image = nib.Nifti1Image(np.asarray(volume.data, dtype=dtype), volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner")
    with replacing(Path(path)) as temporary:
        nib.save(image, temporary)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

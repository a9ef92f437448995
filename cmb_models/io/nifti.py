"""NIfTI files to Volumes and back."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, SpatialImage
from nibabel.wrapstruct import WrapStructError

from cmb_models.errors import InputError
from cmb_models.files import atomic_write
from cmb_models.volume import Volume

SUFFIXES = (".nii.gz", ".nii")
MOST_VOXELS = 2**30  # 4 GiB as float32, some 20 times the finest SWI: more is a damaged header
# What nibabel and the layers below it raise for files that are cut short, damaged or of another format.
BAD_HEADER = (ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError)
UNREADABLE = (*BAD_HEADER, OSError, EOFError, zlib.error, ValueError, OverflowError)


def scan_name(path: Path) -> str:
    """The name of a scan in results: its file's name without .nii.gz or .nii."""
    name = Path(path).name
    return next((name[: -len(s)] for s in SUFFIXES if name.lower().endswith(s)), name)


def read_volume(path: Path) -> Volume:
    """Read a NIfTI file.

    Args:
        path: A .nii or .nii.gz file with one 3D volume; trailing axes of length 1 are dropped.

    Returns:
        The voxels (I, J, K), float32, in the file's orientation, with its scaling applied. Values are not checked: they may be NaN
        or infinite (detect.checks rejects these).

    Raises:
        InputError: If the file is missing, not readable, truncated or not NIfTI, has several volumes, complex or colour voxels,
            or an affine that is not invertible.
    """
    path = Path(path)
    try:
        _check_file(path)
        image = nib.load(path, mmap=False)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(
            "file-not-readable", path, "a file that may be read", "permission denied", "check its permissions"
        ) from error
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if not isinstance(image, SpatialImage):
        raise _unreadable(path, TypeError(f"{type(image).__name__} is not an image in space"))
    return volume_of(image, path)


def volume_of(image: SpatialImage, case: object) -> Volume:
    """Convert a nibabel image to a Volume, as `read_volume` does for its file.

    Args:
        image: One 3D image; trailing axes of length 1 are dropped.
        case: Name in error messages.

    Raises:
        InputError: As `read_volume`.
    """
    try:
        _check_voxels(case, image)
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which detect.checks rejects
            data = np.asarray(image.dataobj, dtype=np.float32)
    except InputError:
        raise
    except UNREADABLE as error:
        raise _unreadable(case, error) from error
    try:
        return Volume(data.reshape(data.shape[:3]), image.affine)
    except ValueError as error:
        raise InputError(
            "scan-geometry", case, "a usable affine", str(image.affine.tolist()), "export the scan again with its orientation"
        ) from error


def _unreadable(case: object, error: BaseException) -> InputError:
    got = f"one that cannot be read ({_one_line(error)})"
    return InputError("scan-file", case, "a whole NIfTI file", got, "copy or export it again")


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError("scan-file", path, "a NIfTI file", "a folder", "name the files in it")
    if not path.is_file():
        raise InputError("file-not-found", path, "a NIfTI file", "no such file", "check the path")
    if not path.name.lower().endswith(SUFFIXES):
        got = f"a {path.suffix or 'nameless'} file"
        raise InputError("scan-file", path, "a NIfTI file (.nii or .nii.gz)", got, "convert the scan to NIfTI first")
    if not path.stat().st_size:
        raise InputError("scan-file", path, "a whole NIfTI file", "an empty file", "copy or export it again")


def _check_voxels(case: object, image: SpatialImage) -> None:
    """Check the header, before the voxels of a long 4D series are read."""
    shape, kind = image.shape, image.get_data_dtype().kind
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        remedy = "pass one echo or time point at a time, as a file of its own"
        raise InputError("scan-geometry", case, "one 3D volume", f"an array of shape {shape}", remedy)
    if math.prod(shape) > MOST_VOXELS:
        raise InputError(
            "scan-too-large", case, "the size of a head scan", f"shape {shape} in its header", "copy or export it again"
        )
    if kind not in "iuf":
        got = "complex voxels" if kind == "c" else "colour voxels (RGB)"
        raise InputError("scan-file", case, "one real number per voxel", got, "export the SWI magnitude as a grey-scale image")


def write_volume(path: Path, volume: Volume, dtype: type = np.float32) -> None:
    """Write a Volume as NIfTI in mm and scanner space, atomically.

    Args:
        path: A .nii or .nii.gz file; replaced if it exists.
        volume: The volume.
        dtype: Type of the stored voxels; values are converted, not scaled.
    """
    with atomic_write(Path(path)) as temporary:
        nib.save(volume.to_nibabel(dtype), temporary)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

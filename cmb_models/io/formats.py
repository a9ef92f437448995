"""MetaImage (`.mha`, `.mhd`) and NRRD files to Volumes, by SimpleITK of the extra `formats`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.errors import InputError
from cmb_models.volume import MAX_VOXELS, Volume

NRRD = (".nrrd", ".nhdr")
SUFFIXES = (".mha", ".mhd", *NRRD)
HEADER_BYTES = 2**14
# Lines without which a file does not say where its image lies.
META_PLACE = (b"transformmatrix", b"rotation", b"orientation")
NRRD_PLACE = re.compile(rb"space: *((left|right)-(posterior|anterior)-superior|[lr][pa]s)$")
TO_RAS = np.diag([-1.0, -1, 1, 1])


def grid_of(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine (4, 4) of a file, by its header.

    Raises:
        InputError: If SimpleITK is not installed, or the header is damaged, of no 3D image of real numbers, or without the place of
            the image.
    """
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    shape = tuple(reader.GetSize())
    if len(shape) != 3:
        remedy = "pass one echo or time point at a time, as a file of its own"
        raise InputError("scan-geometry", path, "one 3D volume", f"an array of shape {shape}", remedy)
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(
            "scan-too-large", path, "the size of a head scan", f"shape {shape} in its header", "copy or export it again"
        )
    if reader.GetNumberOfComponents() != 1:
        raise InputError(
            "scan-file", path, "one real number per voxel", "several", "export the SWI magnitude as a grey-scale image"
        )
    _require_place(path)
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) * np.array(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()
    return shape, TO_RAS @ affine


def read_image(path: Path) -> Volume:
    """Read a file as `io.nifti.read_volume` does for NIfTI. Raises InputError as `grid_of`, and if the voxels cannot be read."""
    import SimpleITK

    shape, affine = grid_of(path)
    try:
        data = SimpleITK.GetArrayFromImage(_reader(path).Execute())
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    if data.dtype.kind not in "iuf":
        got = "complex voxels"
        raise InputError("scan-file", path, "one real number per voxel", got, "export the SWI magnitude as a grey-scale image")
    try:
        return Volume(data.T.reshape(shape), affine)
    except ValueError as error:
        raise InputError(
            "scan-geometry", path, "a usable affine", str(affine.tolist()), "export the scan again with its orientation"
        ) from error


def require_package() -> None:
    """Raise InputError unless SimpleITK is installed."""
    try:
        import SimpleITK  # noqa: F401
    except ModuleNotFoundError as error:
        remedy = "run pip install 'cmb-models[formats]'"
        raise InputError("package-missing", "MetaImage and NRRD files", "the package SimpleITK", "none", remedy) from error


def _reader(path: Path) -> Any:
    require_package()
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # its warnings go to the terminal, past Python
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    return reader


def _require_place(path: Path) -> None:
    """Refuse a header that does not say how the image lies in the scanner: ITK would take it as lying straight at the centre."""
    with path.open("rb") as stream:
        lines = stream.read(HEADER_BYTES).lower().splitlines()
    is_nrrd = path.suffix.lower() in NRRD
    if not any(NRRD_PLACE.match(line) if is_nrrd else line.startswith(META_PLACE) for line in lines):
        remedy = "convert it from DICOM again, or set the orientation that the scanner gave it"
        raise InputError("scan-space", path, "an image with its place in the scanner", "no orientation in its header", remedy)


def _unreadable(path: Path, error: RuntimeError) -> InputError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return InputError(
        "scan-file", path, "a whole image file", f"one that cannot be read ({lines[-1][:200]})", "copy or export it again"
    )

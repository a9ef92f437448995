"""NIfTI files to Volumes and back."""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, SpatialImage
from nibabel.wrapstruct import WrapStructError

from cmb_models.errors import InputError
from cmb_models.files import atomic_write
from cmb_models.volume import MAX_VOXELS, UNPLACED, Volume, corners_apart_mm, spacing_of

log = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii")
GZIP = b"\x1f\x8b"
NIFTI2_HEADER = 540  # bytes, which its first number says; NIfTI-1 has 348
MOST_TRAILING = 2**12  # bytes after the voxels: a writer's padding
TEMPLATES = {3: "Talairach space", 4: "MNI space", 5: "a template's space"}  # codes of an affine that are not the scanner's
SAME_PLACE_MM = 1.0  # corners of an image by qform and by sform: more than rounding
SAME_SIZE = 0.02  # share by which voxel sizes may differ from the affine's: rounded headers, slightly sheared affines
MOST_EXTENSIONS = 2**24  # bytes between header and voxels, which are read too: a DICOM header kept there has some thousands
# What nibabel and the layers below it raise for files that are cut short, damaged or of another format.
BAD_HEADER = (ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError)
# Of damaged headers come infinite values and NaN, which are refused here or by detect.checks.
UNWARNED: Mapping[str, Any] = {"over": "ignore", "invalid": "ignore"}
UNREADABLE = (*BAD_HEADER, OSError, EOFError, zlib.error, ValueError, OverflowError)


def scan_name(path: Path) -> str:
    """The name of a scan in results: its file's name without .nii.gz or .nii."""
    name = Path(path).name
    return next((name[: -len(s)] for s in SUFFIXES if name.lower().endswith(s)), name)


def read_volume(path: Path, needs_place: bool = True, number: int | None = None) -> Volume:
    """Read a NIfTI file.

    Args:
        path: A .nii or .nii.gz file with one 3D volume; trailing axes of length 1 are dropped.
        needs_place: Whether a file with neither qform nor sform is refused. If not, it is logged, and the volume is not
            `in_scanner`.
        number: Which of several volumes along one further axis, from 1; a file with one is read whatever it is.

    Returns:
        The voxels (I, J, K), float32, in the file's orientation, with its scaling applied. Values are not checked: they may be NaN
        or infinite (detect.checks rejects these).

    Raises:
        InputError: If the file is missing, not readable, damaged, truncated or not NIfTI, has several volumes, complex or colour
            voxels, an affine that is not invertible, or none in scanner space (`require_scanner_space`).
    """
    path = Path(path)
    with _reading(path) as stream:
        image = _image_of(stream)
        volume = volume_of(image, path, needs_place, number)
        _require_end(stream, path, image, number)
    return volume


def read_header(path: Path, number: int | None = None) -> tuple[tuple[int, ...], np.ndarray, str]:
    """Shape, affine (4, 4) and description of a NIfTI file, without reading its voxels. Arguments and errors as of `read_volume`.

    The shape is (I, J, K), and further axes of a file of several volumes.
    """
    path = Path(path)
    with _reading(path) as stream:
        image = _image_of(stream)
        _check_voxels(path, image, number)
        require_scanner_space(image, path)
        described = bytes(cast(Any, image.header)["descrip"].tobytes()).split(b"\0")[0].decode("latin-1")
        return image.shape[:3] + tuple(n for n in image.shape[3:] if n > 1), np.array(image.affine), described


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[io.IOBase]:
    """The file's bytes, decompressed. What goes wrong while they are read becomes an InputError."""
    try:
        _check_file(path)
        with _opened(path) as stream, np.errstate(**UNWARNED):
            yield stream
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(
            "file-not-readable", path, "a file that may be read", "permission denied", "check its permissions"
        ) from error
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _opened(path: Path) -> io.IOBase:
    """The file's bytes, decompressed; the gzip format is recognised by its first two bytes, since suffixes are lost in copying."""
    with path.open("rb") as stream:
        compressed = stream.read(2) == GZIP
    return gzip.open(path) if compressed else path.open("rb")


def _image_of(stream: io.IOBase) -> SpatialImage:
    """The image in a stream, of which only the header is read. Raises one of BAD_HEADER for another format."""
    size = stream.read(4)
    stream.seek(0)
    if len(size) < 4:
        raise ImageFileError("shorter than a header")
    nifti2 = NIFTI2_HEADER in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
    kind = nib.Nifti2Image if nifti2 else nib.Nifti1Image
    header = kind.header_class(stream.read(kind.header_class.sizeof_hdr), check=False)
    stream.seek(0)
    # Before the image is opened: to come to a far place, a gzip file is decompressed up to it.
    if not header["vox_offset"] <= MOST_EXTENSIONS:
        raise ImageFileError(f"its voxels begin at byte {header['vox_offset']:.0f}")
    image: SpatialImage = kind.from_file_map({"image": nib.FileHolder(fileobj=stream)}, mmap=False)
    offset = int(cast(Any, image.dataobj).offset)  # of an ArrayProxy
    if offset < kind.header_class.single_vox_offset:
        raise ImageFileError(f"its voxels begin at byte {offset}, within the header")
    return image


def _require_end(stream: io.IOBase, path: Path, image: SpatialImage, number: int | None) -> None:
    """Read what follows the volume: at its end the checksum of a gzip file is compared, and it may hold little but further ones."""
    size, volumes = math.prod(image.shape[:3]) * image.get_data_dtype().itemsize, math.prod(image.shape[3:])
    taken = min(number or 1, volumes)
    stream.seek(int(cast(Any, image.dataobj).offset) + taken * size)
    rest = -(volumes - taken) * size
    while chunk := stream.read(2**20):
        rest += len(chunk)
        if rest > MOST_TRAILING:
            got = f"more than {MOST_TRAILING} bytes after its voxels"
            raise InputError(
                "scan-file", path, "a whole NIfTI file", got, "compare it with the original, and copy or export it again"
            )
    if rest < 0:
        raise ValueError(f"{-rest} bytes are missing")


def volume_of(image: SpatialImage, case: object, needs_place: bool = True, number: int | None = None) -> Volume:
    """Convert a nibabel image to a Volume, as `read_volume` does for its file.

    Args:
        image: One 3D image; trailing axes of length 1 are dropped.
        case: Name in error messages.
        needs_place: As in `read_volume`.
        number: As in `read_volume`.

    Raises:
        InputError: As `read_volume`.
    """
    with np.errstate(**UNWARNED):
        return _volume_of(image, case, needs_place, number)


def _volume_of(image: SpatialImage, case: object, needs_place: bool, number: int | None) -> Volume:
    try:
        _check_voxels(case, image, number)
        further = tuple(number - 1 if number and size > 1 else 0 for size in image.shape[3:])
        data = np.asarray(image.dataobj[(..., *further)] if further else image.dataobj, dtype=np.float32)
    except InputError:
        raise
    except UNREADABLE as error:
        raise _unreadable(case, error) from error
    affine, in_scanner = image.affine, needs_place or _has_form(image)
    if not in_scanner:
        log.warning("%s: %s", case, UNPLACED)
        affine = np.diag([*map(float, image.header.get_zooms()[:3]), 1.0])
    try:
        volume = Volume(data.reshape(data.shape[:3]), affine, in_scanner)
    except ValueError as error:
        raise InputError(
            "scan-geometry", case, "a usable affine", str(affine.tolist()), "export the scan again with its orientation"
        ) from error
    try:
        if in_scanner:
            require_scanner_space(image, case)
    except BAD_HEADER as error:
        raise _unreadable(case, error) from error
    return volume


def _has_form(image: SpatialImage) -> bool:
    header = image.header
    return not isinstance(header, nib.Nifti1Header) or bool(header["qform_code"] or header["sform_code"])


def require_scanner_space(image: SpatialImage, case: object) -> None:
    """Raise InputError unless a NIfTI header says without contradiction where its image lies in the scanner.

    Refused: no qform and no sform, of which nibabel makes a guess that is mirrored; both, but of different places or handedness; a
    template's space (TEMPLATES) alone; voxel sizes that are not those of the affine. Other formats pass.
    """
    header = image.header
    if not isinstance(header, nib.Nifti1Header):
        return
    forms = {"qform": header.get_qform(coded=True), "sform": header.get_sform(coded=True)}
    there = {name: (affine, int(code)) for name, (affine, code) in forms.items() if affine is not None and code}
    if not there:
        remedy = "convert it from DICOM again, or set the affine that the scanner gave it"
        raise InputError("scan-space", case, "an image with its place in the scanner", "neither qform nor sform", remedy)
    if len(there) == 2:
        _require_same_place(there, image.shape[:3], case)
    if all(code in TEMPLATES for _, code in there.values()):
        got = f"an affine of {', '.join(TEMPLATES[code] for _, code in there.values())}"
        raise InputError(
            "scan-space", case, "an image in scanner space", got, "pass the scan before its registration to a template"
        )
    spacing, zooms = spacing_of(image.affine), np.array(header.get_zooms()[:3], dtype=float)
    if not np.allclose(spacing, zooms, rtol=SAME_SIZE, atol=0):
        sizes = [" x ".join(f"{s:.3g}" for s in size) for size in (zooms, spacing)]
        got = f"voxels of {sizes[0]} mm in its header and {sizes[1]} mm by its affine"
        raise InputError("scan-space", case, "one voxel size", got, "convert it from DICOM again, or correct its header")


def _require_same_place(forms: Mapping[str, tuple[np.ndarray, int]], shape: tuple[int, ...], case: object) -> None:
    (one, _), (other, _) = forms.values()
    apart = corners_apart_mm(one, other, shape)
    mirrored = np.linalg.det(one[:3, :3]) * np.linalg.det(other[:3, :3]) < 0
    if mirrored or not apart <= SAME_PLACE_MM:
        described = (f"{name} {_described(affine)}" for name, (affine, _) in forms.items())
        got = f"{' and '.join(described)}, {'mirrored against each other' if mirrored else f'up to {apart:.0f} mm apart'}"
        raise InputError(
            "scan-space", case, "qform and sform of one place", got, "remove the wrong one, or convert it from DICOM again"
        )


def _described(affine: np.ndarray) -> str:
    if not np.isfinite(affine).all():
        return "not finite"
    spacing = " x ".join(f"{s:.3g}" for s in spacing_of(affine))
    origin = ", ".join(f"{o:.0f}" for o in affine[:3, 3])
    return f"{''.join(code or '?' for code in nib.aff2axcodes(affine))} {spacing} mm from ({origin})"


def _unreadable(case: object, error: BaseException) -> InputError:
    got, remedy = f"one that cannot be read ({_one_line(error)})", "copy or export it again"
    if isinstance(error, gzip.BadGzipFile | zlib.error | EOFError):
        got, remedy = f"a damaged gzip file ({_one_line(error)})", "compare it with the original, and copy it again"
    return InputError("scan-file", case, "a whole NIfTI file", got, remedy)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError("scan-file", path, "a NIfTI file", "a folder", "name the files in it")
    if not path.is_file():
        got = "a link to a file that is missing" if path.is_symlink() else "no such file"
        raise InputError("file-not-found", path, "a NIfTI file", got, "check the path")
    if not path.name.lower().endswith(SUFFIXES):
        got = f"a {path.suffix or 'nameless'} file"
        raise InputError("scan-file", path, "a NIfTI file (.nii or .nii.gz)", got, "convert the scan to NIfTI first")
    if not path.stat().st_size:
        raise InputError("scan-file", path, "a whole NIfTI file", "an empty file", "copy or export it again")


def _check_voxels(case: object, image: SpatialImage, number: int | None = None) -> None:
    """Check the header, before the voxels of a long 4D series are read."""
    shape, kind = image.shape, image.get_data_dtype().kind
    several = [size for size in shape[3:] if size != 1]
    is_one = not several or (number is not None and len(several) == 1 and 1 <= number <= several[0])
    if len(shape) < 3 or 0 in shape or not is_one:
        expected = "one 3D volume" if number is None else f"a volume {number} along one further axis"
        remedy = "pass one echo or time point at a time, as a file of its own, or its number with `cmb import --volume`"
        raise InputError("scan-geometry", case, expected, f"an array of shape {shape}", remedy)
    if math.prod(shape[:3]) > MAX_VOXELS:
        expected, got = f"at most {MAX_VOXELS / 1e6:.0f} million voxels", f"shape {shape} in its header"
        raise InputError("scan-too-large", case, expected, got, "crop it to the head, or export it again")
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

"""DICOM series to volumes, by dcm2niix, which knows the vendors' ways to store them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydicom
from pydicom.encaps import generate_frames
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGTransferSyntaxes

from cmb_models.errors import InputError
from cmb_models.files import no_temporary_room
from cmb_models.io.nifti import read_volume
from cmb_models.io.sidecar import read_sidecar
from cmb_models.volume import Volume

CONVERSION_S = 300.0
EXPANSION = 8  # of JPEG, generously
END_OF_IMAGE = b"\xff\xd9"


def convert(name: str, files: Iterable[Path], slices: int) -> tuple[Volume, dict[str, Any]]:
    """Files of one series as a volume, with the values of the sidecar that dcm2niix makes of their headers.

    Args:
        name: Of the series, in error messages.
        files: Its files, which may lie in several folders.
        slices: How many slices it has.

    Raises:
        InputError: If dcm2niix makes no image of it, or one with another number of slices, or takes longer than CONVERSION_S.
    """
    import dcm2niix

    with tempfile.TemporaryDirectory(prefix="cmb-import-") as folder:
        source, out = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        out.mkdir()
        for n, file in enumerate(files):
            _offer(file, source / f"{n:05}.dcm", name)
        options = ["-b", "y", "-ba", "y", "-z", "n", "-m", "y", "-w", "1", "-f", "image"]
        environment = {**os.environ, "HOME": folder}  # it reads and writes defaults there
        try:
            command = [dcm2niix.bin, *options, "-o", str(out), str(source)]
            subprocess.run(command, capture_output=True, timeout=CONVERSION_S, check=False, env=environment)
        except subprocess.TimeoutExpired as error:
            remedy = "try again when the machine is less busy, then export the series again"
            raise InputError("import-timeout", name, "a volume", f"none within {CONVERSION_S:g} s", remedy) from error
        images = sorted(out.glob("*.nii"))
        if not images:
            _require_room(source)
        if len(images) != 1:
            got = f"{len(images)} volumes" if images else "none"
            raise InputError("import-conversion", name, "one volume", got, "export it uncompressed, or one series at a time")
        try:
            volume, values = read_volume(images[0]), read_sidecar(images[0])
        except InputError:
            _require_room(source)  # dcm2niix does not say that it could not write all of it
            raise
    if volume.data.shape[2] != slices:
        got = f"one of {volume.data.shape[2]}"
        raise InputError("import-conversion", name, f"a volume of {slices} slices", got, "export the whole series again")
    return volume, values


def _require_room(source: Path) -> None:
    """Raise InputError if a conversion that failed had no room for its image; compressed series grow by EXPANSION at most."""
    needed = EXPANSION * sum(file.stat().st_size for file in source.iterdir())
    if (free := shutil.disk_usage(source).free) < needed:
        raise no_temporary_room(f"{needed / 1e6:.0f} MB to convert a DICOM series", f"{free / 1e6:.0f} MB")


def _offer(file: Path, link: Path, name: str) -> None:
    """Give dcm2niix a file under another name, in a form that it reads without guessing."""
    syntax = read_file_meta_info(file).get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        image = pydicom.dcmread(file)
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.save_as(link)
        return
    if syntax in JPEGTransferSyntaxes:  # dcm2niix fills the rest of a cut one with anything
        image = pydicom.dcmread(file)
        frames = generate_frames(image.PixelData, number_of_frames=int(image.get("NumberOfFrames") or 1))
        if not all(frame.rstrip(b"\0").endswith(END_OF_IMAGE) for frame in frames):
            raise InputError("import-conversion", name, "whole images", "a cut JPEG image", "copy or export it again")
    link.symlink_to(file.resolve())

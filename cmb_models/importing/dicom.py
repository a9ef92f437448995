"""DICOM series to volumes, by dcm2niix, which knows the vendors' ways to store them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.io.nifti import read_volume
from cmb_models.io.sidecar import read_sidecar
from cmb_models.volume import Volume

CONVERSION_S = 300.0


def convert(name: str, files: Iterable[Path], slices: int) -> tuple[Volume, dict[str, Any]]:
    """Files of one series as a volume, with the values of the sidecar that dcm2niix makes of their headers.

    Args:
        name: Of the series, in error messages.
        files: Its files, which may lie in several folders.
        slices: How many slices it has.

    Raises:
        InputError: If dcm2niix makes no image of it, or one with another number of slices.
    """
    import dcm2niix

    with tempfile.TemporaryDirectory(prefix="cmb-import-") as folder:
        source, out = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        out.mkdir()
        for n, file in enumerate(files):
            (source / f"{n:05}.dcm").symlink_to(file.resolve())
        options = ["-b", "y", "-ba", "y", "-z", "n", "-m", "y", "-w", "1", "-f", "image"]
        environment = {**os.environ, "HOME": folder}  # it reads and writes defaults there
        try:
            command = [dcm2niix.bin, *options, "-o", str(out), str(source)]
            subprocess.run(command, capture_output=True, timeout=CONVERSION_S, check=False, env=environment)
        except subprocess.TimeoutExpired as error:
            raise InputError("import-conversion", name, "a volume", f"none within {CONVERSION_S:g} s", "export it again") from error
        images = sorted(out.glob("*.nii"))
        if len(images) != 1:
            got = f"{len(images)} volumes" if images else "none"
            raise InputError("import-conversion", name, "one volume", got, "export it uncompressed, or one series at a time")
        volume, values = read_volume(images[0]), read_sidecar(images[0])
    if volume.data.shape[2] != slices:
        got = f"one of {volume.data.shape[2]}"
        raise InputError("import-conversion", name, f"a volume of {slices} slices", got, "export the whole series again")
    return volume, values

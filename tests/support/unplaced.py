"""Files whose header does not say where the image lies in the scanner."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib

from cmb_models.volume import Volume


def unplaced(path: Path, volume: Volume) -> Path:
    """Write a volume with neither qform nor sform."""
    image = nib.Nifti1Image(volume.data, volume.affine)
    image.set_qform(None, code=0)
    image.set_sform(None, code=0)
    nib.save(image, path)
    header = nib.load(path).header
    assert not header["qform_code"] and not header["sform_code"]
    return path

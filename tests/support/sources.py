"""Sources of imports: volumes of which no two slices are alike, and files that name patients wherever a format can."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cmb_models.volume import Volume
from tests.support.dicom_export import SECRET

SHAPE, SPACING_MM = (40, 48, 16), (0.9, 0.9, 2.0)
TECHNICAL = {"EchoTime": 0.02, "RepetitionTime": 0.028, "FlipAngle": 15, "MagneticFieldStrength": 3, "ScanningSequence": "GR"}


def scan(seed: int, tilt: float = 0.0) -> Volume:
    """Numbers of which no two slices are alike, in an axial grid that is tilted about x; L, P and S increase with the index."""
    rng = np.random.default_rng(seed)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2]])
    affine[:3, 3] = rng.uniform(-30, 30, 3)
    return Volume(rng.integers(0, 1000, SHAPE), affine)


def same_place(one: Volume, other: Volume) -> bool:
    """Whether two volumes hold the same numbers at the same places, however their axes are stored."""
    one, other = one.to_ras(), other.to_ras()
    return np.allclose(one.affine, other.affine, atol=2e-3) and np.array_equal(one.data, other.data)


def digest(folder: Path) -> str:
    return hashlib.sha256(b"".join(str(f).encode() + f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file())).hexdigest()


def write_nifti(path: Path, volume: Volume, sidecar: dict[str, Any] | None = None) -> Path:
    """Write a volume as sites do, with somebody's name in every field of its header and of its sidecar, if it gets one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = volume.to_nibabel(np.float32 if np.isnan(volume.data).any() else np.int16)
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[field] = SECRET
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", f"{SECRET} 19520304".encode()))
    nib.save(image, path)
    if sidecar is not None:
        texts = dict.fromkeys(
            ("SeriesDescription", "ProtocolName", "PatientName", "InstitutionName", "ImageComments"), f"{SECRET} SWI"
        )
        texts |= {"Manufacturer": f"SIEMENS {SECRET}", "AcquisitionDateTime": "20240117", "DeviceSerialNumber": "0815"}
        sidecar = TECHNICAL | texts | {"ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI", SECRET.upper()]} | sidecar
        path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(sidecar))
    return path

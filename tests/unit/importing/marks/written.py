"""Files of marks as the programs write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openpyxl
import SimpleITK as sitk  # noqa: N813
from scipy.io import savemat

from cmb_models.io.nifti import write_volume
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE, BLOBS_MM

Place = Sequence[float]
SPOT_VOX = ((30, 35, 16), (52, 48, 13), (40, 55, 20))  # BLOBS_MM as indices of AFFINE's array: (mm + 40, mm + 40, (mm + 32) / 2)


def in_frame(places: Sequence[Place], frame: str) -> list[Place]:
    """RAS mm as they are written in RAS or LPS."""
    return [(-x, -y, z) if frame == "LPS" else (x, y, z) for x, y, z in places]


def markups(file: Path, places=BLOBS_MM, frame: str = "LPS", description: str = "4 mm", **more) -> Path:
    points = [
        {"id": f"{n}", "label": f"F-{n}", "description": description, "position": list(p), "positionStatus": "defined"}
        for n, p in enumerate(in_frame(places, frame), 1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": frame, "coordinateUnits": "mm", "controlPoints": points} | more
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"@schema": "markups-schema-v1.0.3.json#", "markups": [markup]}))
    return file


def fcsv(file: Path, places=BLOBS_MM, system: str = "LPS", description: str = "4 mm") -> Path:
    lines = ["# Markups fiducial file version = 4.13", f"# CoordinateSystem = {system}"]
    lines.append("# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID")
    frame = {"1": "LPS", "0": "RAS"}.get(system, system)
    for n, (x, y, z) in enumerate(in_frame(places, frame)):
        lines.append(f"vtkMRMLMarkupsFiducialNode_{n},{x},{y},{z},0,0,0,1,1,1,0,F-{n},{description},vtkMRMLScalarVolumeNode1")
    file.write_text("\n".join(lines) + "\n")
    return file


def labels(places_vox=SPOT_VOX, values=(1, 1, 1), shape=(80, 80, 32)) -> np.ndarray:
    """A mask with a cuboid of 3 x 3 x 1 voxels at each place: with AFFINE 18 mm3, as a sphere of 3.25 mm."""
    data = np.zeros(shape, np.int16)
    for (i, j, k), value in zip(places_vox, values, strict=True):
        data[i - 1 : i + 2, j - 1 : j + 2, k] = value
    return data


def mask(file: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """A mask as ITK-SNAP writes NIfTI and 3D Slicer the formats of ITK."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.name.endswith((".nii", ".nii.gz")):
        write_volume(file, Volume(data, affine), np.int16)
        return file
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(file))
    return file


def workbook(file: Path, *sheets: Sequence[Sequence[object]]) -> Path:
    book = openpyxl.Workbook()
    for n, rows in enumerate(sheets):
        sheet = book.active if n == 0 else book.create_sheet()
        for row in rows:
            sheet.append(list(row))
    book.save(file)
    return file


def dou(file: Path, places_vox: Sequence[Place]) -> Path:
    savemat(file, {"cen": np.array(places_vox, dtype=np.uint16).reshape(-1, 3)})
    return file


def text(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file

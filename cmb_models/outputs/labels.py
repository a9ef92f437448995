"""Detections as an instance-label image, with a table of the labels, named as BIDS derivatives (dseg)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cmb_models import __version__
from cmb_models.client.outputs import CANDIDATES_FILE, CSV_FILE, JSON_FILE, ScanResult, shown_mm
from cmb_models.detection import RESEARCH_USE
from cmb_models.files import atomic_write, write_json
from cmb_models.io.nifti import write_volume
from cmb_models.outputs.extent import instance_labels, volumes_mm3
from cmb_models.volume import Volume

DESCRIPTION, IGNORED = "dataset_description.json", ".bidsignore"
BIDS_VERSION = "1.9.0"
COLUMNS = ("index", "name", "x_mm", "y_mm", "z_mm", "volume_mm3", "score")


def label_name(scan: str) -> str:
    """Name of both files, without ending, of a scan's name in the results."""
    return f"{scan.removesuffix('_swi')}_desc-cmb_dseg"


def write_labels(folder: Path, result: ScanResult, volume: Volume) -> Path:
    """Write NAME_desc-cmb_dseg.nii.gz, on the scan's own grid, and NAME_desc-cmb_dseg.tsv, a row per detection.

    Args:
        folder: Folder to write to; NAME is the scan's name without `_swi`.
        result: Of a processed scan.
        volume: The scan as stored, (I, J, K), in scanner space.

    Returns:
        The image: n in the extent (outputs.extent) of the n-th detection, best first, else 0; 0 everywhere without detections.

    Raises:
        InputError: If the disk is full or the folder cannot be written to.
    """
    labels = instance_labels(volume, result.detections)
    sizes = volumes_mm3(labels, len(result.detections), volume)
    name = label_name(result.scan)
    image, table = folder / f"{name}.nii.gz", folder / f"{name}.tsv"
    with atomic_write(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        for n, (d, size) in enumerate(zip(result.detections, sizes, strict=True), start=1):
            writer.writerow([n, "microbleed", *shown_mm(d), f"{size:.2f}", f"{d.score:.6f}"])
    write_volume(image, Volume(labels, volume.affine), np.uint16)
    return image


def describe_dataset(folder: Path) -> None:
    """Write what makes the results of a BIDS dataset a BIDS derivative: its description, and the names that BIDS does not know.

    Raises InputError if the disk is full or the folder cannot be written to.
    """
    write_json(
        folder / DESCRIPTION,
        {
            "Name": "Cerebral microbleed detections",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "cmb-models", "Version": __version__, "Description": RESEARCH_USE}],
        },
    )
    with atomic_write(folder / IGNORED) as temporary:
        temporary.write_text(
            "".join(f"{name}\n" for name in (CSV_FILE, JSON_FILE, CANDIDATES_FILE, "*.png", "*.html", "*.dcm")), encoding="utf-8"
        )

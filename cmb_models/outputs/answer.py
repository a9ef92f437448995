"""One scan from its file or folder to its result, with the files that are made of it."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cmb_models.client.outputs import ScanResult
from cmb_models.detection import Detector
from cmb_models.errors import InputError
from cmb_models.io.scan_id import scan_sha256
from cmb_models.outputs.dicom.names import SEG_SUFFIX, SR_SUFFIX
from cmb_models.outputs.images import Images, read_images
from cmb_models.report.scan.write import write_report_of
from cmb_models.volume import UNPLACED, Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """Files to write of each scan.

    Attributes:
        folder: Where they are written to.
        figures: A picture, NAME.png.
        labels: A label image and its table (labels.py).
        dicom: A DICOM SEG and SR (dicom/objects.py), of scans that are folders of DICOM files.
        report: A page, NAME.html (report/scan).
    """

    folder: Path
    figures: bool = False
    labels: bool = False
    dicom: bool = False
    report: bool = False


def detect_scan(
    name: str, path: Path, detector: Detector, threshold: float | None, phase: Path | None = None
) -> tuple[ScanResult, Images]:
    """Detect in one scan.

    Args:
        name: Of the scan in the results.
        path: As in `images.read_images`.
        detector: Detects in this process or on a server.
        threshold: On the score; None for the release's.
        phase: As in `images.read_images`. It is opened only if the release uses phase.

    Returns:
        The result, without its volume, since many scans may not fit into memory; the images.

    Raises:
        InputError: With the path as its case.
    """
    requires_phase = detector.requires_phase
    if phase and not requires_phase:
        log.warning("%s: the release does not use phase, %s is ignored", path, phase)
    images = read_images(path, phase, requires_phase)
    answer = replace(detector.detect(images.swi, images.phase, case=str(path)), volume=None)
    warning = "" if images.swi.in_scanner else UNPLACED
    return ScanResult(name, str(path), answer, "", "", threshold, scan_sha256(images.swi), warning), images


def answer_scan(
    name: str, path: Path, detector: Detector, threshold: float | None, outputs: Outputs, phase: Path | None = None, place: str = ""
) -> ScanResult:
    """Detect in one scan, as `detect_scan`, and write its files; of a scan that is not in scanner space there are none.

    Args:
        name: As in `detect_scan`.
        path: As in `detect_scan`.
        detector: As in `detect_scan`.
        threshold: As in `detect_scan`.
        outputs: What is written.
        phase: As in `detect_scan`.
        place: Subfolder of the results for the label image.

    Raises:
        InputError: With the path as its case, or the file that could not be written.
    """
    _remove_earlier(name, outputs.folder, place)
    result, images = detect_scan(name, path, detector, threshold, phase)
    if images.swi.in_scanner:
        _write(result, images, outputs, place)
        if outputs.report:
            write_report_of(outputs.folder, result, images.swi, detector, *_regions(result, images.swi))
    return result


def _remove_earlier(name: str, folder: Path, place: str) -> None:
    """Remove the files of an earlier call: the scan may be rejected now, and options may be others."""
    from cmb_models.outputs.labels import label_name

    for suffix in (".png", ".html", SEG_SUFFIX, SR_SUFFIX):
        (folder / f"{name}{suffix}").unlink(missing_ok=True)
    for suffix in (".nii.gz", ".tsv"):
        (folder / place / f"{label_name(name)}{suffix}").unlink(missing_ok=True)


def _regions(result: ScanResult, volume: Volume) -> tuple[Sequence[str] | None, str]:
    """The regions of the findings, and why there are none."""
    if not result.detections:
        return [], ""
    if importlib.util.find_spec("SimpleITK") is None:
        return None, "not determined: SimpleITK is not installed (extra compare)"
    from cmb_models.regions import regions_of

    regions = regions_of(volume, np.array([d.position_mm for d in result.detections]), case=result.file)
    return regions, "" if regions is not None else "not determined: the atlas could not be registered to this scan"


def _write(result: ScanResult, images: Images, outputs: Outputs, place: str) -> None:
    assert result.answer is not None
    if outputs.figures:
        from cmb_models.figures.findings import save_figure

        figure = result.answer.plot(images.swi, threshold=result.threshold, title=result.scan)
        save_figure(figure, outputs.folder / f"{result.scan}.png")
    if outputs.labels:
        from cmb_models.outputs.labels import write_labels

        (outputs.folder / place).mkdir(parents=True, exist_ok=True)
        write_labels(outputs.folder / place, result, images.swi)
    if outputs.dicom and images.files:
        from cmb_models.outputs.dicom.objects import write_dicom
        from cmb_models.outputs.dicom.source import read_source

        write_dicom(outputs.folder, result, images.swi, read_source(images.files, Path(result.file)))


def require_dicom(paths: Sequence[Path], wants_dicom: bool) -> None:
    """Raise InputError, before any scan is read, if packages that DICOM needs are missing, or DICOM results have no DICOM scan."""
    from cmb_models.importing.dicom.folder import require_readers

    folders = [path for path in paths if path.is_dir()]
    if folders:
        require_readers(folders[0])
    if wants_dicom and not folders:
        remedy = "pass folders of DICOM files, or leave out --dicom"
        raise InputError("options-conflict", "--dicom", "scans that are folders of DICOM files", "NIfTI files alone", remedy)
    if wants_dicom and importlib.util.find_spec("highdicom") is None:
        raise InputError("package-missing", "--dicom", "highdicom", "none", "run pip install 'cmb-models[dicom]'")

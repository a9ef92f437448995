"""DICOM SEG and TID 1500 SR of one scan's detections, by highdicom."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import Code, codes
from pydicom.uid import generate_uid

from cmb_models import __version__
from cmb_models.client.outputs import ScanResult
from cmb_models.detection import RESEARCH_USE, Detection
from cmb_models.files import atomic_write
from cmb_models.outputs.dicom.names import SEG_SUFFIX, SR_SUFFIX
from cmb_models.outputs.dicom.source import (
    Source,
    algorithm_parameters,
    algorithm_version,
    frames_of,
    header_errors,
    positions_lps,
    result_uid,
)
from cmb_models.outputs.extent import instance_labels, volumes_mm3
from cmb_models.volume import Volume

NAME = "cmb-models"
SEG_SERIES, SR_SERIES = 9801, 9802  # numbers above those of scanners and their workstations
# SNOMED CT has no microbleed in the subset that DICOM carries; the tracking identifier says what kind of haemorrhage it is.
FINDING, CATEGORY, SITE = codes.SCT.Hemorrhage, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Brain
MILLIMETRE, CUBIC_MILLIMETRE, PERCENT = codes.UCUM.Millimeter, codes.UCUM.CubicMillimeter, codes.UCUM.Percent
NO_UNIT = codes.UCUM.NoUnits
Group = hd.sr.MeasurementsAndQualitativeEvaluations | hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations


def write_dicom(folder: Path, result: ScanResult, volume: Volume, source: Source) -> list[Path]:
    """Write NAME_cmb_sr.dcm and, if there are detections, NAME_cmb_seg.dcm; without any, one of an earlier call is removed.

    Both belong to the study and the frame of reference of the images, name the release that made them, and are unverified. The
    same findings of the same release in the same images have the same UIDs.

    Args:
        folder: Folder to write to.
        result: Of a processed scan.
        volume: The scan (I, J, K), as read from the images.
        source: The images.

    Returns:
        The files.

    Raises:
        InputError: If no result can be made of the images' headers, the disk is full or the folder cannot be written to.
    """
    labels = instance_labels(volume, result.detections)
    sizes = volumes_mm3(labels, len(result.detections), volume)
    with header_errors(source.case), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values in the headers of the images, such as names
        segmentation = _segmentation(result, frames_of(labels, volume.affine, source), source) if result.detections else None
        report = _report(result, sizes, source, segmentation)
    objects = {SR_SUFFIX: report} | ({SEG_SUFFIX: segmentation} if segmentation is not None else {})
    for suffix, content in objects.items():
        with atomic_write(folder / f"{result.scan}{suffix}") as temporary:
            content.save_as(temporary, enforce_file_format=True)
    if segmentation is None:
        (folder / f"{result.scan}{SEG_SUFFIX}").unlink(missing_ok=True)
    return [folder / f"{result.scan}{suffix}" for suffix in objects]


def _segmentation(result: ScanResult, frames: np.ndarray, source: Source) -> hd.seg.Segmentation:
    """frames: (F, rows, columns), n in the extent of the n-th detection."""
    algorithm = hd.AlgorithmIdentificationSequence(
        name=NAME, family=codes.DCM.ArtificialIntelligence, version=algorithm_version(result), parameters=_parameters(result)
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=n,
            segment_label=_label(n),
            segmented_property_category=CATEGORY,
            segmented_property_type=FINDING,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=result_uid(f"finding {n}", result, source),
            tracking_id=_label(n),
            anatomic_regions=[SITE],
        )
        for n in range(1, len(result.detections) + 1)
    ]
    return hd.seg.Segmentation(
        source_images=source.images,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=result_uid("seg series", result, source),
        series_number=SEG_SERIES,
        sop_instance_uid=result_uid("seg", result, source),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=__version__,
        device_serial_number=_device(result),
        content_description="Cerebral microbleeds",
        content_label="CMB",
        series_description=f"Cerebral microbleeds ({RESEARCH_USE})"[:64],
    )


def _report(
    result: ScanResult, volumes: np.ndarray, source: Source, segmentation: pydicom.Dataset | None
) -> hd.sr.Comprehensive3DSR:
    """volumes: of each detection, mm³."""
    uids = [result_uid(f"finding {n}", result, source) for n in range(len(result.detections) + 1)]
    groups: list[Group] = [count_group(result, "Number of microbleeds", uids[0], len(result.detections))]
    for n, (detection, place) in enumerate(zip(result.detections, positions_lps(result), strict=True), start=1):
        # All voxels of one that overlaps another belong to that one.
        volume = [measurement(codes.SCT.Volume, float(volumes[n - 1]), CUBIC_MILLIMETRE)] if volumes[n - 1] > 0 else []
        groups.append(finding_group(result, source, _label(n), uids[n], place, [*measurements_of(detection), *volume]))
    series = (result_uid("sr series", result, source), SR_SERIES, "Cerebral microbleeds")
    evidence = [*source.images, *([] if segmentation is None else [segmentation])]
    return report_of(groups, result, evidence, series, result_uid("sr", result, source))


def report_of(
    groups: Sequence[Group],
    result: ScanResult,
    evidence: Sequence[pydicom.Dataset],
    series: tuple[str, int, str],
    uid: str,
    prior: Sequence[pydicom.Dataset] = (),
) -> hd.sr.Comprehensive3DSR:
    """A measurement report, unverified and preliminary.

    Args:
        groups: Its measurement groups.
        result: Of the scan; names the release.
        evidence: Images and results that it is about, the scan's images first: patient and study are theirs.
        series: UID, number and description of the series that it makes.
        uid: Its own.
        prior: Images of an earlier examination that it refers to.
    """
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[NAME, _device(result)]),
        name=NAME,
        manufacturer_name=NAME,
        model_name=algorithm_version(result),
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.BrainMRI,
        imaging_measurements=list(groups),
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=list(prior) or None,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[*evidence, *prior],
        content=content,
        series_instance_uid=series[0],
        series_number=series[1],
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer=NAME,
        is_complete=True,
        is_verified=False,
        is_final=False,
        series_description=f"{series[2]} ({RESEARCH_USE})"[:64],
    )


def count_group(
    result: ScanResult,
    label: str,
    uid: str,
    count: int,
    more: Sequence[hd.sr.Measurement] = (),
    evaluations: Sequence[hd.sr.QualitativeEvaluation] = (),
    name: Code | CodedConcept = codes.SCT.Quantity,
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """A number of findings, which a report without any has too. uid: for tracking."""
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=uid, identifier=label),
        finding_category=CATEGORY,
        finding_type=FINDING,
        finding_sites=[hd.sr.FindingSite(SITE)],
        algorithm_id=_algorithm(result),
        measurements=[measurement(name, count, NO_UNIT), *more],
        qualitative_evaluations=list(evaluations) or None,
    )


def finding_group(
    result: ScanResult,
    source: Source,
    label: str,
    uid: str,
    place: np.ndarray,
    measurements: Sequence[hd.sr.Measurement],
    evaluations: Sequence[hd.sr.QualitativeEvaluation] = (),
) -> hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """A finding by its centre in the frame of reference, which IHE's profile for results of algorithms calls a point location.

    place: (3,), LPS mm. uid: for tracking; a segment of the same finding has it too.
    """
    region = hd.sr.ImageRegion3D(
        graphic_type=hd.sr.GraphicTypeValues3D.POINT,
        graphic_data=place.reshape(1, 3),
        frame_of_reference_uid=source.frame_of_reference,
    )
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=uid, identifier=label),
        referenced_region=region,
        finding_category=CATEGORY,
        finding_type=FINDING,
        finding_sites=[hd.sr.FindingSite(SITE)],
        algorithm_id=_algorithm(result),
        measurements=list(measurements) or None,
        qualitative_evaluations=list(evaluations) or None,
        geometric_purpose=codes.DCM.Center,
    )


def measurements_of(detection: Detection) -> list[hd.sr.Measurement]:
    """Score and diameter."""
    return [
        measurement(codes.DCM.CertaintyOfFinding, 100 * detection.score, PERCENT),
        measurement(codes.SCT.Diameter, detection.diameter_mm, MILLIMETRE),
    ]


def measurement(name: Code | CodedConcept, value: float, unit: Code) -> hd.sr.Measurement:
    """A number, with the digits that its attribute can hold."""
    return hd.sr.Measurement(name=name, value=round(value, 4), unit=unit)


def _algorithm(result: ScanResult) -> hd.sr.AlgorithmIdentification:
    parameters = [f"{name}: {value}" for name, value in _parameters(result).items()]
    return hd.sr.AlgorithmIdentification(name=NAME, version=algorithm_version(result), parameters=parameters)


def _parameters(result: ScanResult) -> dict[str, str]:
    return algorithm_parameters(result) | {"intended use": RESEARCH_USE}


def _device(result: ScanResult) -> str:
    """What stands for a serial number: the release's manifest."""
    return (result.answer.manifest_sha256 if result.answer else "") or "unknown"


def _label(number: int) -> str:
    return f"Cerebral microbleed {number}"

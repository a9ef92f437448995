"""A comparison as a DICOM SR of the follow-up, which refers to the images of the baseline."""

from __future__ import annotations

import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept

from cmb_models.client.outputs import ScanResult
from cmb_models.errors import InputError
from cmb_models.files import atomic_write
from cmb_models.followup.compare import Comparison, Lesion
from cmb_models.outputs.dicom.names import CHANGE_SUFFIX
from cmb_models.outputs.dicom.objects import (
    NO_UNIT,
    PERCENT,
    Group,
    count_group,
    finding_group,
    measurement,
    measurements_of,
    report_of,
)
from cmb_models.outputs.dicom.source import LPS, Source, header_errors, result_uid

SCHEME = "99CMBMODELS"  # no public scheme has these concepts
CHANGE = CodedConcept("change", SCHEME, "Change since the prior examination")
SEVERITY = CodedConcept("aria-h", SCHEME, "ARIA-H class by the number of new microbleeds")
NUMBER_OF_NEW = CodedConcept("new-count", SCHEME, "Number of new microbleeds")
UNCERTAIN = CodedConcept("uncertain-count", SCHEME, "Number of microbleeds that may be new")
SERIES = 9803  # its number, next to those of SEG and SR of a scan


def require_order(prior: Source, source: Source) -> None:
    """Raise InputError if the images have different patient IDs, or the baseline's study is later; it names the folders alone."""
    case, remedy = f"{prior.case} and {source.case}", "pass the earlier scan of the patient first, or leave out --dicom"
    before, after = (one.images[0] for one in (prior, source))
    if len({str(image.PatientID or "").strip() for image in (before, after)} - {""}) > 1:
        raise InputError("dicom-patients", case, "images of one patient", "two patient IDs", remedy)
    if before.StudyDate and after.StudyDate and str(before.StudyDate) > str(after.StudyDate):
        raise InputError("dicom-order", case, "a baseline that is not later than the follow-up", "a later one", remedy)


def write_change_report(
    folder: Path, comparison: Comparison, baseline: ScanResult, followup: ScanResult, prior: Source, source: Source
) -> Path:
    """Write NAME_cmb_change_sr.dcm, with the lesions at their places in the follow-up, as far as that shows them.

    Args:
        folder: Folder to write to; NAME is the follow-up's name in the results.
        comparison: Of the two scans.
        baseline: The baseline's result.
        followup: The follow-up's result.
        prior: The baseline's images.
        source: The follow-up's images, to whose study the report belongs.

    Raises:
        InputError: If no result can be made of the images' headers, the disk is full or the folder cannot be written to.
    """
    changes = [f"{lesion.change} {np.round(lesion.followup_mm, 1).tolist()}" for lesion in comparison.lesions]
    depends_on = ("change", baseline.input_sha256, *changes)
    with header_errors(source.case), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values in the headers of the images, such as names
        groups: list[Group] = [
            count_group(
                followup,
                "Number of new microbleeds",
                result_uid("new", followup, source, *depends_on),
                len(comparison.of("new")),
                [
                    measurement(UNCERTAIN, len(comparison.of("uncertain-new")), NO_UNIT),
                    *(_probability(name, value) for name, value in comparison.probabilities.items()),
                ],
                [hd.sr.QualitativeEvaluation(name=SEVERITY, value=_concept(comparison.severity))],
                NUMBER_OF_NEW,
            ),
            *(
                finding_group(
                    followup,
                    source,
                    f"Cerebral microbleed {n}",
                    result_uid(f"lesion {n}", followup, source, *depends_on),
                    np.array(lesion.followup_mm) @ LPS,
                    _measurements(lesion),
                    [hd.sr.QualitativeEvaluation(name=CHANGE, value=_concept(lesion.change))],
                )
                for n, lesion in enumerate(comparison.lesions, start=1)
                if lesion.change != "outside-followup"
            ),
        ]
        series_uid, uid = (result_uid(kind, followup, source, *depends_on) for kind in ("series", "report"))
        series = (series_uid, SERIES, "Change of cerebral microbleeds")
        report = report_of(groups, followup, source.images, series, uid, prior.images)
    path = folder / f"{followup.scan}{CHANGE_SUFFIX}"
    with atomic_write(path) as temporary:
        report.save_as(temporary, enforce_file_format=True)
    return path


def _measurements(lesion: Lesion) -> list[hd.sr.Measurement]:
    """Of the follow-up's candidate; none where it has none."""
    return [] if lesion.followup is None else measurements_of(lesion.followup)


def _probability(name: str, value: float) -> hd.sr.Measurement:
    concept = CodedConcept(f"p-{name}", SCHEME, f"Probability of the class {name}")
    return measurement(concept, 100 * value, PERCENT)


def _concept(name: str) -> CodedConcept:
    return CodedConcept(name, SCHEME, name.replace("-", " "))

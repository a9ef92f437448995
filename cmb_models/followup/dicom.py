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
from cmb_models.outputs.dicom.objects import PERCENT, Group, count_group, finding_group, measurement, measurements_of, report_of
from cmb_models.outputs.dicom.source import LPS, Source, header_errors, result_uid

SUFFIX = "_cmb_change_sr.dcm"
SCHEME = "99CMBMODELS"  # no public scheme has these concepts
CHANGE = CodedConcept("change", SCHEME, "Change since the prior examination")
SEVERITY = CodedConcept("aria-h", SCHEME, "ARIA-H class by the number of new microbleeds")
LARGEST_VALUE = 16  # characters of a code


def require_one_patient(prior: Source, source: Source) -> None:
    """Raise InputError if the images name patients with different IDs; the message names the folders alone."""
    ids = {str(one.images[0].PatientID or "").strip() for one in (prior, source)} - {""}
    if len(ids) > 1:
        remedy = "pass two scans of one patient, or leave out --dicom"
        raise InputError("dicom-patients", f"{prior.case} and {source.case}", "images of one patient", "two patient IDs", remedy)


def write_change_report(
    folder: Path, comparison: Comparison, baseline: ScanResult, followup: ScanResult, prior: Source, source: Source
) -> Path:
    """Write NAME_cmb_change_sr.dcm, with the lesions of all classes at their places in the follow-up.

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
                [_probability(name, value) for name, value in comparison.probabilities.items()],
                [hd.sr.QualitativeEvaluation(name=SEVERITY, value=_concept(comparison.severity))],
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
            ),
        ]
        series_uid, uid = (result_uid(kind, followup, source, *depends_on) for kind in ("series", "report"))
        report = report_of(groups, followup, source.images, series_uid, uid, prior=prior.images)
    path = folder / f"{followup.scan}{SUFFIX}"
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
    return CodedConcept(name[:LARGEST_VALUE], SCHEME, name.replace("-", " "))

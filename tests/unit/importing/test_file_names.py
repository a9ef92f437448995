"""What the path of an image file says."""

from __future__ import annotations

import pytest

from cmb_models.importing.file_names import LABELS, PROJECTION, read_name
from cmb_models.io.series_role import GRE, MAGNITUDE, PHASE, SKIPPED, SWI

# path without suffix: subject, session, role
PATHS = {
    "sub-01/swi/sub-01_swi": ("01", "", SWI),
    "sub-01/anat/sub-01_acq-hr_run-2_SWI": ("01", "", SWI),
    "sub-01/ses-b/anat/sub-01_ses-b_part-phase_swi": ("01", "ses-b", PHASE),
    "sub-01/ses-b/anat/sub-01_part-mag_GRE": ("01", "ses-b", MAGNITUDE),
    "sub-01/anat/sub-01_acq-mag_swi": ("01", "", MAGNITUDE),
    "sub-01/anat/sub-01_T2starw": ("01", "", GRE),
    "sub-01/anat/sub-01_echo-2_MEGRE": ("01", "", GRE),
    "Task2/sub-101/sub-101_space-T2S_desc-masked_T2S": ("101", "", GRE),
    "nii/07": ("07", "", ""),
    "rCMB_DefiniteSubject/S04_SWI_1": ("S04_1", "", SWI),
    "Data/007/SWI": ("007", "", SWI),
    "Data/SWI/007": ("007", "", SWI),
    "Data/Phase/007": ("007", "", PHASE),
    "patient_03_SWI": ("patient_03", "", SWI),
    "patient_03_20190412_SWI": ("patient_03", "20190412", SWI),
    "patient_03_ses-02_SWI_phase": ("patient_03", "ses-02", PHASE),
    "patient_03/20190412/swi": ("patient_03", "20190412", SWI),
    "swi": ("source", "", SWI),
    "patient_03_SWI/scan_swi": ("scan", "", SWI),
    "patient_03_SWI/swi": ("patient_03", "", SWI),
    "patient_03/20190412": ("patient_03", "20190412", ""),
    "20190412_SWI": ("20190412", "", SWI),
    "Phase_2/patient_03": ("patient_03", "", ""),
    "Cohort_PD/patient_03": ("patient_03", "", ""),
    "PD/patient_03": ("patient_03", "", ""),
    "baseline/patient_03": ("patient_03", "baseline", ""),
    "PH_03_SWI": ("PH_03", "", SWI),
    "patient_03_SWI_ph": ("patient_03", "", PHASE),
    "Angioletti_Restrepo_swan": ("Angioletti_Restrepo", "", SWI),
    "PD_03": ("PD_03", "", ""),
    "CT_03_SWI": ("CT_03", "", SWI),
    "patient_03_mag": ("patient_03", "", MAGNITUDE),
    "P01_baseline_swi": ("P01", "baseline", SWI),
    "P01_follow-up_swi": ("P01", "follow_up", SWI),
    "P01_followup2_20190412_swi": ("P01", "followup2/20190412", SWI),
    "baseline_P01_swi": ("P01", "baseline", SWI),
    "baseline_01_swi": ("01", "baseline", SWI),
    "P01_visit_2_swi": ("P01", "visit_2", SWI),
    "P02_V1": ("P02", "V1", ""),
    "P02_t1_swi": ("P02", "t1", SWI),
    "P02_post_swi": ("P02", "post", SWI),
    "V1_axial_swi": ("V1_axial", "", SWI),
    "Post_Jan_swi": ("Post_Jan", "", SWI),
    "P01/baseline_swi": ("baseline", "", SWI),
    "P01_2024-01-17_swi": ("P01", "20240117", SWI),
    "P01_2024-01-17/swi": ("P01", "20240117", SWI),
    "P01_ses-02_baseline/swi": ("P01", "baseline/ses-02", SWI),
    "20240117/swi": ("20240117", "", SWI),
    "P01-2024_01_17-swi": ("P01", "20240117", SWI),
    "P01 17.01.2024 swi": ("P01", "20240117", SWI),
    "P01_swi_2024-01-17": ("P01", "20240117", SWI),
    "P01_2024-0117_swi": ("P01_2024_0117", "", SWI),
    "P-19520304_swi": ("P_19520304", "", SWI),
    "P_19520304_20240117_swi": ("P_19520304", "20240117", SWI),
    "P01_20241317_swi": ("P01_20241317", "", SWI),
    "P01_SWI_20240117081523_5": ("P01", "20240117081523", SWI),  # as dcm2niix names files by default
    "P01_SWI_20240117081523_4a_e2_ph": ("P01", "20240117081523", PHASE),
    "P01_20240117_123456_swi": ("P01_123456", "20240117", SWI),  # which may be the patient's number
    "P01_swi_e1": ("P01", "", SWI),
    "P01_swi_E1": ("P01_E1", "", SWI),
    "e1_swi": ("e1", "", SWI),
    "swi_e1": ("e1", "", SWI),
}


@pytest.mark.parametrize(("path", "expected"), PATHS.items(), ids=PATHS)
def test_who_when_and_what(path, expected):
    *folders, stem = path.split("/")
    name = read_name(stem, folders, "source")
    assert (name.subject, name.session, name.role) == expected


SKIPPED_PATHS = {
    "derivatives/sub-01/anat/sub-01_swi": "in derivatives/",
    "sub-01/anat/sub-01_minIP": PROJECTION,
    "sub-01/anat/sub-01_rec-mip_swi": PROJECTION,
    "sub-01/anat/sub-01_T2starmap": "a map, not an image",
    "sub-01/anat/sub-01_part-real_swi": "the part real of a complex image",
    "sub-01/func/sub-01_task-rest_bold": "functional, not SWI",
    "sub-01/anat/sub-01_UNIT1": "UNIT1, not SWI",
    "sub-101/sub-101_space-T2S_CMB": LABELS,
    "sub-101/sub-101_space-T2S_desc-masked_T1": "T1-weighted, not SWI",
    "patient_03_swi_mask": LABELS,
    "patient_03_lesions_2": LABELS,
    "Label/007": LABELS,
    "patient_03_SWI_mIP": PROJECTION,
    "patient_03_T2_FLAIR": "T2-weighted, not SWI",
    "patient_03_CT": "CT, not MR",
    "patient_03_SWI_real": "a real or imaginary part",
}


@pytest.mark.parametrize(("path", "reason"), SKIPPED_PATHS.items(), ids=SKIPPED_PATHS)
def test_what_is_skipped(path, reason):
    *folders, stem = path.split("/")
    name = read_name(stem, folders, "source")
    assert (name.role, name.reason) == (SKIPPED, reason)


def test_folders_may_name_the_patients():
    assert read_name("SWI_Images_7", ["p01", "2019"], "source", by_folder=True).subject == "p01"
    assert read_name("SWI_Images_7", ["p01", "2019"], "source", by_folder=True).session == "2019"
    assert read_name("SWI_Images_7", ["p01"], "source").subject == "Images_7"
    assert read_name("sub-01_swi", ["p01"], "source", by_folder=True).subject == "01"


def test_a_file_in_another_subjects_folder_has_no_subject():
    name = read_name("sub-02_swi", ["sub-01", "swi"], "source")
    assert (name.subject, name.reason) == ("", "in the folder of sub-01")

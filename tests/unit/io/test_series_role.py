"""What a series is: by the names that scanners and sites give, in headers and in sidecars."""

from __future__ import annotations

import json

import pytest

from cmb_models.io.series_role import GRE, MAGNITUDE, PHASE, SKIPPED, SWI, SeriesFacts, role_of
from cmb_models.io.sidecar import facts_of, sidecar_role

NAMES = {
    ("SWI_Images", "M SWI"): SWI,
    ("Pha_Images", "P"): PHASE,
    ("Mag_Images", "M"): MAGNITUDE,
    ("mIP_Images(SW)", "MNIP"): SKIPPED,
    ("Ax SWAN", ""): SWI,
    ("FILT_PHA: Ax SWAN", ""): PHASE,
    ("MinIP_SWAN", ""): SKIPPED,
    ("eSWAN", ""): SWI,
    ("WIP SWIp SENSE", "M_FFE M"): SWI,
    ("VEN_BOLD", "M"): SWI,
    ("VENOUS BOLD HR", "M"): SWI,
    ("SWI mIPs", ""): SKIPPED,
    ("SWI_Phase", ""): PHASE,
    ("Mag SWI", "M"): MAGNITUDE,
    ("SWI tra phase AP", "M"): SWI,
    ("AX SWI NO PHASE WRAP", "M"): SWI,
    ("Susceptibility weighted", ""): SWI,
    ("Ax SWAN MPR", "REFORMATTED"): SKIPPED,
    ("QSM", ""): SKIPPED,
    ("t2_fl2d_tra_hemo", "M"): GRE,
    ("T2*w GRE", "M"): GRE,
    ("T2-star", "M"): GRE,
    ("t1_mprage_sag", "M"): SKIPPED,
    ("T1 MPRAGE swift", "M"): SKIPPED,
    ("FLAIR SWIFT", "M"): SKIPPED,
    ("ep2d_diff_SUSC_CORR", "M"): SKIPPED,
    ("DWI_SWI_brain", "M"): SKIPPED,
    ("Dyn Susc Contrast", "M"): SKIPPED,
    ("ToF_3D", "M"): SKIPPED,
    ("t2_tse_tra", "M"): SKIPPED,
    ("BOLD_rest", "M"): SKIPPED,
    ("3-pl T2 Loc", ""): SKIPPED,
}


PROTOCOLS = ["head", "swi_mag_phase", "t2_swi_qsm", "SWISS_stroke"]  # one for all series of a scan


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("name", "role"), NAMES.items(), ids=[name for name, _ in NAMES])
def test_what_a_series_is(name, role, protocol, tmp_path):
    description, kinds = name
    image_type = ["ORIGINAL", "PRIMARY", *kinds.split(" ")]
    facts = SeriesFacts(frozenset(image_type), description, protocol, "", "GR", "MR", 20.0, 40)
    assert role_of(facts)[0] == role
    values = {"SeriesDescription": description, "ProtocolName": protocol, "ImageType": image_type}
    (tmp_path / "scan.json").write_text(json.dumps(values | {"ScanningSequence": "GR", "Modality": "MR", "EchoTime": 0.02}))
    assert sidecar_role(tmp_path / "scan.nii.gz") == role_of(facts)


SIDECARS = {
    "a map whose name dcm2niix split": ({"ImageType": ["DERIVED", "T2", "STAR", "MAP"]}, (SKIPPED, "a map, not an image")),
    "a projection without a name": ({"ImageType": ["DERIVED", "MIN IP"]}, (SKIPPED, "a projection over several slices")),
    "a phase image without a name": ({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, (PHASE, "")),
    "SWI by ImageType alone": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI"]}, (SWI, "")),
    "SWI by its sequence": ({"SequenceName": "_swi3d1r"}, (SWI, "")),
    "another modality": ({"Modality": "CT"}, (SKIPPED, "CT, not MR")),
    "a gradient echo without a name": ({"ImageType": ["M"], "ScanningSequence": "GR", "EchoTime": 0.02}, None),
    "an echo time in milliseconds": ({"SeriesDescription": "hemo", "ScanningSequence": "GR", "EchoTime": 20}, (GRE, "a T2*")),
    "an echo that is too short": ({"SeriesDescription": "hemo", "ScanningSequence": "GR", "EchoTime": 0.004}, None),
    "several codes": ({"SeriesDescription": "hemo", "ScanningSequence": ["GR", "IR"], "EchoTime": 0.02}, None),
    "a name of a site's own": ({"SeriesDescription": "Venography", "ScanningSequence": "GR", "EchoTime": 0.02}, None),
    "values of other types": ({"SeriesDescription": 7, "ImageType": {"a": 1}, "EchoTime": "x", "Modality": None}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize(("values", "expected"), SIDECARS.values(), ids=SIDECARS)
def test_what_a_sidecar_says(values, expected, tmp_path):
    (tmp_path / "scan.json").write_text(json.dumps(values))
    found = sidecar_role(tmp_path / "scan.nii")
    assert found == expected if not expected else found[0] == expected[0] and found[1].startswith(expected[1])


@pytest.mark.parametrize(("echo", "echo_ms"), [(0.02, 20.0), (20, 20.0), ("20", None)])
def test_echo_times_in_seconds_or_milliseconds(echo, echo_ms):
    assert facts_of({"EchoTime": echo}).echo_ms == echo_ms


@pytest.mark.parametrize("content", [b'{"ImageType": ["P"]', b"\xff\xfe\x00", b"[1]", b"", b"[" * 100_000])
def test_a_damaged_sidecar_is_ignored_with_a_warning(content, tmp_path, caplog):
    assert sidecar_role(tmp_path / "scan.nii.gz") is None and not caplog.records
    (tmp_path / "scan.json").write_bytes(content)
    assert sidecar_role(tmp_path / "scan.nii.gz") is None
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "scan.json" in caplog.text

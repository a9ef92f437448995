"""Damaged files of a site: whatever is in them, the readers raise an InputError of one line, soon."""

import gzip
import json
import logging
import os
import struct
import time
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cmb_models.errors import InputError
from cmb_models.importing.dicom.series import read_headers, stacks_of
from cmb_models.importing.file_names import files_of
from cmb_models.importing.identity import Key
from cmb_models.importing.plan import plan
from cmb_models.io.annotations import read_readings
from cmb_models.io.nifti import read_volume
from cmb_models.io.sidecar import sidecar_role
from cmb_models.volume import Volume
from tests.support.command_line import cmb
from tests.support.dicom_export import VENDORS, write_study
from tests.support.refused import refused

LONGEST_S = 10.0
AFFINE = np.diag([1, 1, 2, 1.0])
HEADER = b"subject,session,x_mm,y_mm,z_mm,diameter_mm,label,rater,region\n"
ROWS = b'sub-001,,1.5,2,3,4,cmb,anna,\nsub-002,ses-1,1,2,3,4,mimic:vein,bob,"lobar, left"\nsub-003,,,,,,none,anna,\n'


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL + 1, logger="nibabel.global")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # such as overflow, which would print a warning at each scan
        yield


def outcome(read, path: Path, longest_s: float = LONGEST_S) -> str:
    """The code of the error; "" if there is none. Any other exception fails the test."""
    begin, refusal = time.monotonic(), None
    try:
        read(path)
    except InputError as error:
        refusal = error
    assert time.monotonic() - begin < longest_s and "\n" not in str(refusal)
    return refusal.code if refusal else ""


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three flipped bits, other bytes, insertions or cuts, half of them near the beginning."""
    raw = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(min(len(raw), rng.choice([400, len(raw)])) + 1))
        kind = rng.integers(4)
        if kind == 0 and place < len(raw):
            raw[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            raw[place : place + 1] = rng.bytes(1)
        elif kind == 2:
            raw[place:place] = rng.bytes(int(rng.integers(1, 20)))
        elif rng.random() < 0.3:
            del raw[place:]
    return bytes(raw)


def image(kind=nib.Nifti1Image, dtype=np.float32) -> bytes:
    made = kind(np.random.default_rng(0).normal(100, 30, (12, 10, 8)).astype(dtype), AFFINE)
    made.set_qform(AFFINE, code=1)
    made.set_sform(AFFINE, code=1)
    return made.to_bytes()


@pytest.mark.parametrize("seed", range(3))
def test_damaged_nifti(tmp_path, seed):
    rng, codes = np.random.default_rng(seed), set()
    for content in (image(), image(nib.Nifti2Image), image(dtype=np.int16)):
        for _ in range(200):
            (tmp_path / "a.nii").write_bytes(damaged(content, rng))
            codes.add(outcome(read_volume, tmp_path / "a.nii"))
            (tmp_path / "a.nii.gz").write_bytes(damaged(gzip.compress(content, 1), rng))
            codes.add(outcome(read_volume, tmp_path / "a.nii.gz"))
    assert codes >= {"", "scan-file", "scan-space"}


FIELDS = {  # offset and form of NIfTI-1 header fields
    "sizeof_hdr": (0, "i"),
    **{f"dim[{n}]": (40 + 2 * n, "h") for n in range(8)},
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    **{f"pixdim[{n}]": (76 + 4 * n, "f") for n in range(8)},
    **{"vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "b")},
    **{"qform_code": (252, "h"), "sform_code": (254, "h")},
    **{f"quatern[{n}]": (256 + 4 * n, "f") for n in range(6)},
    **{f"srow[{n}]": (280 + 4 * n, "f") for n in range(12)},
    "magic": (344, "i"),
}
EXTREMES = {
    "b": (-128, 127, 0, 1, 3),
    "h": (0, 1, -1, 2, 4, 7, 16, 32, 64, 128, 256, 512, 1024, 1536, 2304, 32767, -32768),
    "i": (0, 1, -1, 348, 540, 2**31 - 1, -(2**31)),
    "f": (0, 1e-45, 1e38, -1e38, float("nan"), float("inf"), -float("inf"), 348, 352, -1, 1e9, 2.5),
}


@pytest.mark.parametrize("seed", range(2))
def test_extreme_header_fields(tmp_path, seed):
    rng, path = np.random.default_rng(seed), tmp_path / "a.nii"
    for _ in range(1200):
        raw = bytearray(image_int16)
        for name in rng.choice(list(FIELDS), rng.integers(1, 4)):
            offset, form = FIELDS[name]
            struct.pack_into(f"<{form}", raw, offset, EXTREMES[form][rng.integers(len(EXTREMES[form]))])
        path.write_bytes(raw)
        outcome(read_volume, path)


image_int16 = image(dtype=np.int16)


def bomb(path: Path, gib: float, fields: dict[str, float], extension: bytes = bytes(4)) -> Path:
    """A small gzip file: a header with these fields, its extension, and zeros without end."""
    header = bytearray(image_int16[:348])
    for name, value in fields.items():
        offset, form = FIELDS[name]
        struct.pack_into(f"<{form}", header, offset, value)
    chunk = gzip.compress(bytes(2**26))
    path.write_bytes(gzip.compress(bytes(header) + extension) + chunk * int(gib * 16))
    assert path.stat().st_size < 10e6
    return path


@pytest.mark.parametrize(
    ("fields", "extension", "code"),
    [
        ({}, bytes(4), "scan-file"),
        ({"dim[1]": 1000, "dim[2]": 1000, "dim[3]": 1000}, bytes(4), "scan-too-large"),
        ({"dim[4]": 30000, "dim[0]": 4}, bytes(4), "scan-geometry"),
        ({"vox_offset": 4e9}, bytes(4), "scan-file"),
        ({"vox_offset": 4e9}, b"\1\0\0\0" + struct.pack("<2i", 2**31 - 16, 6), "scan-file"),
    ],
)
def test_a_small_gzip_file_of_gigabytes_is_not_read_whole(tmp_path, fields, extension, code):
    # Decompressed whole it takes 6 s and more.
    assert outcome(read_volume, bomb(tmp_path / "a.nii.gz", 5, fields, extension), longest_s=2) == code


@pytest.mark.parametrize("seed", range(2))
def test_damaged_annotations(tmp_path, seed):
    rng, path = np.random.default_rng(seed), tmp_path / "annotations.csv"
    for encoding in ("utf-8", "utf-16"):
        for _ in range(300):
            path.write_bytes(damaged((HEADER + ROWS).decode().encode(encoding), rng))
            assert outcome(read_readings, path) in ("", "annotations-invalid")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "annotations-invalid"),
        (HEADER + b"sub-1,\0,1,2,3,4,cmb,a,\n", ""),
        (HEADER + b"sub-1,,1,2,3,4,cmb," + b"x" * 200_000 + b",\n", "annotations-invalid"),
        (HEADER[:-1] + b"," + b",".join(b"c%d" % n for n in range(100_000)) + b"\n" + ROWS, ""),
        (HEADER[:-1] + b",c" * 100_000 + b"\n" + ROWS, "annotations-invalid"),
        (HEADER + b"sub-1,,q,2,3,4,cmb,a,\n" * 200_000, "annotations-invalid"),
        (HEADER + b"sub-1,,1e300,2,3,4,cmb,a,\n", "annotations-invalid"),
        (HEADER + "sub-1,,1,2,3,4,cmb,Müller,\n".encode("latin-1"), "annotations-invalid"),
        (b'sep="\n' + HEADER + ROWS, "annotations-invalid"),
        (b"x" * 20_000_000, "annotations-invalid"),
    ],
)
def test_odd_annotations(tmp_path, content, code):
    (tmp_path / "annotations.csv").write_bytes(content)
    assert outcome(read_readings, tmp_path / "annotations.csv") == code


def test_a_message_lists_some_of_many_invalid_rows(tmp_path):
    (tmp_path / "annotations.csv").write_bytes(HEADER + b"".join(b"sub-1,,q%d,2,3,4,cmb,a,\n" % n for n in range(30)))
    with refused("annotations-invalid", got="line 2: .*; line 21: .*; and 10 more faults$"):
        read_readings(tmp_path / "annotations.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_annotations_as_excel_saves_them(tmp_path, encoding):
    """ "Unicode text" is UTF-16 with tabs."""
    (tmp_path / "a.csv").write_bytes((HEADER + ROWS).decode().replace(",", "\t").replace("anna", "Änne").encode(encoding))
    readings = read_readings(tmp_path / "a.csv")
    assert [a.rater for a in readings.annotations] == ["Änne", "bob"] and len(readings.empty) == 1


VALUES = (None, True, 0, 1e308, -1, "", "x", "SWI", [], ["M", None], {}, [[["SWI"]]], float("nan"), 10**400, "\ud800", "x" * 10**5)
NAMES = ("ImageType", "EchoTime", "SeriesDescription", "ProtocolName", "SequenceName", "Modality", "ScanningSequence")


def test_damaged_sidecars(tmp_path):
    rng, file = np.random.default_rng(0), tmp_path / "a.json"
    whole = json.dumps({"ImageType": ["ORIGINAL", "M"], "EchoTime": 0.02, "SeriesDescription": "SWI", "X": {"a": [1, None]}})
    for _ in range(400):
        file.write_bytes(damaged(whole.encode(), rng))
        assert outcome(sidecar_role, tmp_path / "a.nii.gz") == ""
        file.write_text(json.dumps({name: VALUES[rng.integers(len(VALUES))] for name in NAMES}))
        assert outcome(sidecar_role, tmp_path / "a.nii.gz") == ""
    for content in (b"[" * 10**6, b"9" * 10**6, b'{"EchoTime": 1' + b"0" * 400 + b"}", whole.encode("utf-16")):
        file.write_bytes(content)
        assert outcome(sidecar_role, tmp_path / "a.nii.gz") == ""


def damaged_dicom(content: bytes, rng: np.random.Generator) -> bytes:
    """As `damaged`, behind the preamble, or with another value representation somewhere."""
    if rng.random() < 0.5:
        return content[:132] + damaged(content[132:], rng)
    raw = bytearray(content)
    place = raw.find(rng.choice([b"US", b"DS", b"IS", b"LO", b"UI", b"CS", b"DA"]), int(rng.integers(132, 1800)))
    if place > 0:
        raw[place : place + 2] = rng.choice([b"US", b"DS", b"IS", b"SQ", b"UN", b"FD", b"AT", b"XX", b"OB", b"UT"])
    return bytes(raw)


def test_damaged_dicom_files_are_skipped_by_name(tmp_path):
    rng = np.random.default_rng(0)
    scan = Volume(rng.integers(0, 1000, (24, 20, 10)), np.diag([-1, -1, 2, 1.0]))
    for n, vendor in enumerate(VENDORS):
        write_study(tmp_path / f"{n}", vendor, f"p{n}", scan, rng, ["swi", "phase"])
    whole = {file: file.read_bytes() for file in files_of([tmp_path])}
    skipped = 0
    for _ in range(25):
        for file, content in whole.items():
            file.write_bytes(damaged_dicom(content, rng) if rng.random() < 0.6 else content)
        begin = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's
            headers, others, unread = read_headers(whole)
            stacks = stacks_of(headers)
        assert sorted([*(h.file for h in headers), *others, *unread]) == sorted(whole)
        assert sum(len(s.headers) for s in stacks) <= len(headers) and all(s.name for s in stacks)
        outcome(lambda key, stacks=stacks: plan(stacks, Key(key, "00")), tmp_path / "key")
        assert time.monotonic() - begin < LONGEST_S
        skipped += len(others) + len(unread)
    assert skipped > 100


def test_check_lists_every_damaged_file(tmp_path):
    rng, site = np.random.default_rng(0), tmp_path / "site"
    contents = {
        "sub-01": b"",
        "sub-02": b"no image",
        "sub-03": gzip.compress(image())[:-9],
        "sub-04": image()[:900],
        "sub-05": gzip.compress(image() + bytes(10**6)),
        "sub-06": rng.bytes(2000),
    }
    for subject, content in contents.items():
        (site / subject / "swi").mkdir(parents=True)
        (site / subject / "swi" / f"{subject}_swi.nii.gz").write_bytes(content)
    (site / "annotations.csv").write_bytes(HEADER + b"sub-01,,\0,2,3,4,cmb,a,\n")
    result = cmb("check", os.fspath(site), "--json")
    errors = json.loads(result.output)["errors"]
    assert result.exit_code == 1
    assert [e["code"] for e in errors] == ["annotations-invalid", *["scan-file"] * len(contents)]
    assert all(any(subject in e["case"] for e in errors) for subject in contents)

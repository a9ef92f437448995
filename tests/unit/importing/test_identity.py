"""Subject codes and sessions of a key file."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from cmb_models.importing import identity
from cmb_models.importing.identity import Key, Patient, Who, open_key
from tests.support.refused import refused


def test_sessions_are_numbered_around_labels_that_are_kept(tmp_path):
    key = Key(tmp_path / "key.json", "00")
    subject = key.subject(Who("file p1"), "scan")
    assert key.session(subject, "b", "ses-02") == "ses-02"
    assert [key.session(subject, study) for study in ("c", "d", "b", "c")] == ["", "ses-03", "ses-02", ""]


def test_two_patients_do_not_get_one_label(tmp_path):
    key = Key(tmp_path / "key.json", "00")
    assert key.subject(Who("file p-1", label="sub-p1"), "scan") == "sub-p1"
    with refused("import-identity", got="two as sub-p1"):
        key.subject(Who("file p_1", label="sub-p1"), "scan")
    assert key.subject(Who("file p_1"), "scan") != key.subject(Who("file p-1"), "scan")


@pytest.mark.parametrize(("one", "other"), [("Pat01", "pat01"), ("M\u00fcller", "Mu\u0308ller"), ("M\u00dcLLER", "mu\u0308ller")])
def test_one_name_in_two_spellings_is_one_patient(one, other, tmp_path):
    key = Key(tmp_path / "key.json", "00")
    code = key.subject(Who(f"file {one}"), "scan")
    assert key.subject(Who(f"file {other}"), "scan") == code == Key(tmp_path, "00").subject(Who(f"file {other}"), "scan")
    assert key.subject(Who(one), "scan") != key.subject(Who(other), "scan")  # PatientIDs are compared as they are


def test_codes_of_earlier_keys_stay(tmp_path):
    """Which had a code for each spelling; and labels that were kept are nobody's codes."""
    key = Key(tmp_path / "key.json", "00")
    digest = hmac.new(bytes(1), b"file Pat01", hashlib.sha256).digest()
    earlier = f"sub-{base64.b32encode(digest).decode().lower()[:8]}"
    key.patients = {"sub-Pat01": Patient("file Pat01"), earlier: Patient("file Pat01")}
    assert {key.subject(Who(f"file {name}"), "scan") for name in ("Pat01", "pat01", "PAT01")} == {earlier}


MARRIED = Who("4711", "19520304", name="meierpetra")


@pytest.mark.parametrize(
    ("before", "may_be_renamed", "is_one"),
    [
        (Who("4711", "19520304", name="muellerpetra"), True, True),
        (Who("4711", "19520304", name="muellerpetra"), False, False),
        (Who("4711", "", name="muellerpetra"), True, False),
        (Who("4711", "19520305", name="muellerpetra"), True, False),
        (Who("4711", "19520304"), False, True),
    ],
)
def test_a_patient_who_was_renamed(before, may_be_renamed, is_one, tmp_path):
    key = Key(tmp_path / "key.json", "00")
    code = key.subject(before, "scan")
    if not is_one:
        with refused("import-identity") as caught:
            key.subject(MARRIED, "scan", may_be_renamed)
        assert ("--renamed" in caught.value.remedy) == ("names" in caught.value.got)
        assert key.patients[code].born == before.born  # nothing of a refused image is kept
        return
    assert key.subject(MARRIED, "scan", may_be_renamed) == code
    assert key.is_renamed(code) == bool(before.name)
    for who in (before, MARRIED):  # from now on both names are known
        assert key.subject(who, "scan") == code
    with refused("import-identity"):
        key.subject(Who("4711", "19520304", name="another"), "scan")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"secret": "zz", "patients": {}, "series": {}}', '{"secret": "", "patients": {}, "series": {}}', "\xff"],
)
def test_damaged_key_files(content, tmp_path):
    """Of which no code may be made: those of an empty secret anybody can compute."""
    (tmp_path / "key.json").write_bytes(content.encode("latin-1"))
    (tmp_path / "key.json").chmod(0o600)
    with refused("import-key", got="cannot be read"):
        open_key(tmp_path / "key.json", tmp_path / "site")


def test_the_key_file_of_another_user(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "key.json").write_text("{}")
    (tmp_path / "key.json").chmod(0o600)
    monkeypatch.setattr(identity, "read_json", denied)  # root, as whom tests may run, may read everything
    with refused("file-not-readable", got="permission denied"):
        open_key(tmp_path / "key.json", tmp_path / "site")

"""Subject codes and sessions of a key file."""

from __future__ import annotations

from cmb_models.importing.identity import Key, Who
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

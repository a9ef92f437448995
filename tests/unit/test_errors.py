"""The one exception: a sentence with four parts, which survives the way back from a worker process."""

import pickle

from cmb_models.errors import InputError


def test_message():
    error = InputError("a.nii", "a scan", "a cat", "pass a scan")
    assert str(error) == "a.nii: expected a scan, got a cat; pass a scan"
    assert isinstance(error, ValueError)


def test_pickling_keeps_all_parts():
    error = pickle.loads(pickle.dumps(InputError("a", "b", "c", "d")))
    assert (error.case, error.expected, error.got, error.remedy) == ("a", "b", "c", "d")
    assert str(error) == "a: expected b, got c; d"

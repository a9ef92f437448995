"""What a cohort run reports before its first scan is sent."""

from __future__ import annotations

import sys

import pytest

from cmb_models.cli.cohort import cohort
from cmb_models.cohort.servers import Servers, _none_usable, _without_release
from cmb_models.errors import InputError
from tests.support.refused import refused

FREE = "127.0.0.1:9", "127.0.0.1:13"  # ports on which nothing listens


@pytest.mark.parametrize("urls", [FREE[:1], FREE])
def test_servers_that_do_not_answer_are_one_sentence(urls, caplog):
    with pytest.raises(InputError) as caught:
        Servers(urls, 2)
    error = caught.value
    assert (error.code, error.case, error.got) == ("server-unreachable", ", ".join(urls), "no connection")
    assert str(error).count("expected") == 1 and not caplog.records


def test_servers_that_fail_in_two_ways_are_named_with_their_reasons():
    answers = [InputError("server-timeout", "a:1", "an answer in 5 s", "none", "x"), _without_release("b:1")]
    error = _none_usable(answers)
    assert (error.code, error.case) == ("server-unreachable", "a:1, b:1")
    assert error.got == "a:1: none in place of an answer in 5 s; b:1: one without in place of a server with a release deployed"
    assert _none_usable(answers[1:]).as_dict() == _without_release("b:1").as_dict()


def test_a_missing_package_is_reported_before_the_first_scan(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refused("package-missing", case="cmb cohort", got="no pyarrow"):
        cohort(tmp_path / "none.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()

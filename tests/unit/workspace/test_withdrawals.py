"""The hashes of withdrawn scans, from a whole log alone."""

from __future__ import annotations

import pytest

from cmb_models.hash_chain import append_entry
from cmb_models.workspace.paths import WITHDRAWAL_LOG
from cmb_models.workspace.withdrawals import withdrawn_hashes
from tests.support.refused import refused


def test_files_and_contents_are_withdrawn(tmp_path):
    assert withdrawn_hashes(tmp_path) == frozenset()
    append_entry(tmp_path / WITHDRAWAL_LOG, scans=["a"], files=["b", "c"])
    assert withdrawn_hashes(tmp_path) == {"a", "b", "c"}


@pytest.mark.parametrize("text", ["garbage\n", '{"scans": ["a"], "sha256": "0"}\n'])
def test_a_broken_log_is_not_taken_for_one_without_withdrawals(tmp_path, text):
    (tmp_path / WITHDRAWAL_LOG).write_text(text)
    with refused("log-damaged", got="line 1"):
        withdrawn_hashes(tmp_path)

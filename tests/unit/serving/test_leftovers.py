"""Records of servers in a shared folder: only what a dead server of this host and boot left is removed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cmb_models.files import read_json, write_json
from cmb_models.serving.run import leftovers
from cmb_models.serving.run.leftovers import recorded, remove_leftovers


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A function that writes the record of a dead server with some fields changed, and returns its file."""
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", tmp_path / "shm")
    for folder in ("shm", "state", "temporary"):
        (tmp_path / folder).mkdir()
    (tmp_path / "shm/cmb-1-a").touch()
    with subprocess.Popen(["true"]) as process:
        pass
    with recorded(tmp_path / "state", "no-such-token-0123", "cmb-1-", tmp_path / "temporary"):
        (file,) = (tmp_path / "state").glob(".server-*.json")
        whole = read_json(file) | {"pid": process.pid}

    def write(**changed: object) -> Path:
        write_json(file, whole | changed)
        return file

    return write


def left(tmp_path: Path) -> tuple[bool, bool]:
    """Whether the shared memory and the temporary folder are still there."""
    return (tmp_path / "shm/cmb-1-a").exists(), (tmp_path / "temporary").exists()


@pytest.mark.parametrize(
    ("changed", "is_record_left", "expected"),
    [
        ({}, False, (False, False)),
        ({"pid": os.getpid()}, True, (True, True)),
        ({"host": "another"}, True, (True, True)),
        ({"host": "another", "boot": "another"}, True, (True, True)),
        ({"boot": "an earlier one"}, False, (True, True)),
        ({"shm_prefix": ""}, True, (True, True)),
    ],
    ids=["dead", "alive", "another host", "another host and boot", "an earlier boot", "no prefix"],
)
def test_what_is_removed(record, tmp_path, changed, is_record_left, expected):
    file = record(**changed)
    remove_leftovers(tmp_path / "state")
    assert (file.exists(), left(tmp_path)) == (is_record_left, expected)


@pytest.mark.parametrize("text", ["[]", "{}", "null", "{", '{"pid": 1}'])
def test_a_malformed_record_is_ignored(record, tmp_path, text):
    file = record()
    file.write_text(text)
    remove_leftovers(tmp_path / "state")
    assert file.exists() and left(tmp_path) == (True, True)

"""Shared memory that this machine cannot provide; with a server: tests/serving/test_shared_memory.py."""

from __future__ import annotations

import os
import sys

import pytest

from cmb_models.client import shared_memory
from cmb_models.client.shared_memory import REGIONS, _region
from tests.support.refused import refused

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is of Linux")


def test_memory_that_is_too_small_is_an_input_error_and_leaves_no_region():
    space, name = os.statvfs(REGIONS), f"cmb-test-{os.getpid()}"
    # More than all of it is refused before any is allocated.
    size = 2 * space.f_frsize * space.f_blocks
    with refused("shared-memory-unavailable", case="/dev/shm", got="No space left"), _region(name, size):
        pytest.fail("it was created")
    assert not (REGIONS / name).exists()


def test_a_machine_without_it_is_an_input_error(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_memory, "REGIONS", tmp_path / "none")
    with refused("shared-memory-unavailable", case="none", got="No such file"), _region("a", 64):
        pytest.fail("it was created")


def test_a_region_holds_what_is_written_and_is_removed():
    name = f"cmb-test-{os.getpid()}"
    with _region(name, 64) as region:
        region[:3] = b"abc"
        assert (REGIONS / name).read_bytes() == b"abc" + bytes(61)
    assert not (REGIONS / name).exists()


def test_an_error_of_the_user_of_a_region_stays_as_it_is():
    name = f"cmb-test-{os.getpid()}"
    with pytest.raises(OSError, match="of the caller"), _region(name, 64):
        raise OSError("of the caller")
    assert not (REGIONS / name).exists()

"""Limits of a container and a scheduler are kept: made-up /proc and /sys, laid out as the kernel lays them out."""

from __future__ import annotations

import os

import pytest

from cmb_models.machine import VARIABLE, cores, memory_bytes, worker_count
from tests.support.refused import refused

GB = 10**9
MACHINE_CORES, MACHINE_GB = 32, 64


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """32 cores and 64 GB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(MACHINE_CORES)))
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": MACHINE_GB * GB // 1000}[name])
    monkeypatch.delenv(VARIABLE, raising=False)


def write(root, files: dict[str, str]):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


V2 = {"proc/self/cgroup": "0::/job.slice/step"}
V1 = {"proc/self/cgroup": "5:cpuset:/\n4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc"}
CPU_V1, MEMORY_V1 = "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/memory"
CASES = {
    "no cgroup": ({}, 32, 64),
    "v2 without limits": (V2 | {"sys/fs/cgroup/job.slice/step/cpu.max": "max 100000"}, 32, 64),
    "v2, two cores and 4 GB": (
        V2 | {"sys/fs/cgroup/job.slice/step/cpu.max": "200000 100000", "sys/fs/cgroup/job.slice/step/memory.max": str(4 * GB)},
        *(2, 4),
    ),
    "v2, one and a half cores are two": (V2 | {"sys/fs/cgroup/job.slice/step/cpu.max": "150000 100000"}, 2, 64),
    "v2, less than one core is one": (V2 | {"sys/fs/cgroup/job.slice/step/cpu.max": "20000 100000"}, 1, 64),
    "v2, the group above is tighter": (
        V2 | {"sys/fs/cgroup/job.slice/cpu.max": "300000 100000", "sys/fs/cgroup/job.slice/step/cpu.max": "800000 100000"},
        *(3, 64),
    ),
    "v2 in a container with a namespace": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "400000 100000", "sys/fs/cgroup/memory.max": str(8 * GB)},
        *(4, 8),
    ),
    "v2 in a container without a namespace": (
        {"proc/self/cgroup": "0::/docker/abc", "sys/fs/cgroup/cpu.max": "500000 100000"},
        5,
        64,
    ),
    "v1": (
        V1
        | {f"{CPU_V1}/docker/abc/cpu.cfs_quota_us": "250000", f"{CPU_V1}/docker/abc/cpu.cfs_period_us": "100000"}
        | {f"{MEMORY_V1}/docker/abc/memory.limit_in_bytes": str(2 * GB)},
        *(3, 2),
    ),
    "v1 without limits": (
        V1
        | {f"{CPU_V1}/docker/abc/cpu.cfs_quota_us": "-1", f"{CPU_V1}/docker/abc/cpu.cfs_period_us": "100000"}
        | {f"{MEMORY_V1}/docker/abc/memory.limit_in_bytes": "9223372036854771712"},
        *(32, 64),
    ),
    "v1 and v2 together, v1 has the controllers": (
        {"proc/self/cgroup": V1["proc/self/cgroup"] + "\n0::/init.scope"}
        | {f"{CPU_V1}/cpu.cfs_quota_us": "600000", f"{CPU_V1}/cpu.cfs_period_us": "100000"},
        *(6, 64),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cgroups_limits_count(tmp_path, case):
    files, n_cores, gb = CASES[case]
    root = write(tmp_path, files)
    assert (cores(root), memory_bytes(root)) == (n_cores, gb * GB)


def test_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 9})
    assert cores(tmp_path) == 2


def test_without_affinity_all_cores_count(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores(tmp_path) == 6


def test_without_sysconf_memory_is_not_known(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert memory_bytes(tmp_path) is None
    assert worker_count(5, 1.0, tmp_path) == 5


@pytest.mark.parametrize(("setting", "expected"), [("3", 3), ("64", 32), (" 1 ", 1), ("", 32)])
def test_the_override_lowers_the_count_and_never_raises_it(tmp_path, monkeypatch, setting, expected):
    monkeypatch.setenv(VARIABLE, setting)
    assert cores(tmp_path) == expected


@pytest.mark.parametrize("setting", ["0", "-2", "1.5", "all", "²"])
def test_an_impossible_override_is_refused_by_name(tmp_path, monkeypatch, setting):
    monkeypatch.setenv(VARIABLE, setting)
    with refused("setting-invalid"):
        cores(tmp_path)


@pytest.mark.parametrize(("most", "gb_each", "expected"), [(50, 1.0, 32), (5, 1.0, 5), (50, 20.0, 3), (50, 100.0, 1), (0, 1.0, 1)])
def test_workers_are_one_per_core_as_far_as_memory_goes(tmp_path, most, gb_each, expected):
    assert worker_count(most, gb_each, tmp_path) == expected

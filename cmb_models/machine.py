"""Cores and memory available to this process, under the limits of the machine, its scheduler and its container.

`os.cpu_count` counts the machine's cores. A container or a batch job may be limited to fewer by CPU affinity or by a cgroup quota,
which affinity does not show. More threads or processes than that only take memory.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from cmb_models.errors import InputError

VARIABLE = "CMB_CORES"
LOG_LEVELS = ("debug", "info", "warning", "error")  # of $CMB_LOG
ROOT = Path("/")
# cgroup v1 reports no limit as the largest number of whole pages that fits in 63 bits.
UNLIMITED_BYTES = 2**62


def cores(root: Path = ROOT) -> int:
    """Number of cores to use: the minimum of CPU affinity, the cgroup's CPU quota (rounded up) and $CMB_CORES; at least 1.

    Args:
        root: Folder that contains `proc` and `sys`; replaced in tests.

    Raises:
        InputError: If $CMB_CORES is not an integer of 1 or more.
    """
    quotas = [max(1, math.ceil(quota)) for quota in _cpu_quotas(root)]
    return min([_affinity(), *quotas, *_override()])


def memory_bytes(root: Path = ROOT) -> int | None:
    """Memory available to this process in bytes: the minimum of the machine's and its cgroup's; None if neither is known.

    Args:
        root: As for `cores`.
    """
    return min([*_machine_bytes(), *_cgroup_bytes(root)], default=None)


def worker_count(most: int, gb_each: float, root: Path = ROOT) -> int:
    """Number of processes to run in parallel: one per core, at most `most`, limited by memory; at least 1.

    Args:
        most: Number of jobs.
        gb_each: Memory of one process in GB (10^9 bytes).
        root: As for `cores`.
    """
    return max(1, min(most, cores(root), workers_in_memory(gb_each, root)))


def workers_in_memory(gb_each: float, root: Path = ROOT) -> int:
    """Number of processes of this size that fit in memory, at least 1. Arguments as for `worker_count`."""
    room = memory_bytes(root)
    return max(1, int(room / (gb_each * 1e9))) if room is not None else 2**31


def limit_threads() -> None:
    """Limit OpenMP (torch) and BLAS to `cores()` threads in this process; lower settings stay.

    By default they use one thread per core of the machine, more than a container may have. Libraries loaded later are not limited.
    """
    from threadpoolctl import threadpool_info, threadpool_limits

    most, pools = cores(), threadpool_info()
    if any(pool["num_threads"] > most for pool in pools):
        kinds = {pool["user_api"] for pool in pools}
        threadpool_limits({kind: min(most, *(p["num_threads"] for p in pools if p["user_api"] == kind)) for kind in kinds})


def _affinity() -> int:
    """Cores in this process's CPU affinity; all cores on macOS and Windows, which do not report it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _override() -> Iterator[int]:
    setting = os.environ.get(VARIABLE, "").strip()
    if not setting:
        return
    if not setting.isdecimal() or int(setting) < 1:
        expected, remedy = "a whole number of cores, 1 or more", "unset it to use all there are"
        raise InputError("setting-invalid", f"${VARIABLE}", expected, repr(setting), remedy)
    yield int(setting)


def _cpu_quotas(root: Path) -> Iterator[float]:
    """CPU quotas in cores of this process's cgroup and its ancestors."""
    for folder in _cgroups(root, "cpu"):
        if (words := _read(folder / "cpu.max").split()) and words[0].isdecimal():
            yield int(words[0]) / int(words[1])
        quota, period = (_read(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        if quota.isdecimal() and period.isdecimal():  # -1 means no quota
            yield int(quota) / int(period)


def _cgroup_bytes(root: Path) -> Iterator[int]:
    """Memory limits of this process's cgroup and its ancestors."""
    for folder in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (limit := _read(folder / name).strip()).isdecimal() and int(limit) < UNLIMITED_BYTES:
                yield int(limit)


def _machine_bytes() -> Iterator[int]:
    try:
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, macOS lacks these names
        return


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's cgroup for a controller and of its ancestors, cgroup v1 and v2. Some may not exist.

    In a container without a cgroup namespace /proc lists the host's path, which does not exist in the container. Its limits are
    then in the mounted root, which is yielded last.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup"
        if controllers:
            named = [mount / controllers, mount / controller]
            mount = next((folder for folder in named if folder.is_dir()), mount)
        folder = mount / path.strip("/")
        while folder != mount:
            yield folder
            folder = folder.parent
        yield mount


def _read(file: Path) -> str:
    """A small file's text; "" if it is missing or cannot be read."""
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def require_linux(what: str) -> None:
    """Raise InputError on other systems than Linux, for work that needs its process and file locks: training and serving.

    Args:
        what: Name of the work in the message.
    """
    if sys.platform != "linux":
        remedy = "run it on Linux, in WSL or in a container; `cmb detect` and the client run here"
        raise InputError("system-unsupported", what, "Linux", sys.platform, remedy)

"""How many cores and how much memory this process may use: the machine's, its scheduler's and its container's limits together.

`os.cpu_count` counts the machine's cores. A container or a batch job often may use fewer: by CPU affinity, or by a cgroup's quota,
which affinity does not show. Threads and processes beyond that share the same time and only take memory.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from cmb_models.errors import InputError

VARIABLE = "CMB_CORES"
ROOT = Path("/")
# cgroup v1 reports no limit as the largest number of whole pages that fits in 63 bits.
UNLIMITED_BYTES = 2**62


def cores(root: Path = ROOT) -> int:
    """Number of cores to use: the least of CPU affinity, the cgroup's CPU quota (rounded up) and $CMB_CORES; at least 1.

    Args:
        root: folder that holds `proc` and `sys`; another one in tests.

    Raises:
        InputError: $CMB_CORES is not a whole number of 1 or more.
    """
    quotas = [max(1, math.ceil(quota)) for quota in _cpu_quotas(root)]
    return min([_affinity(), *quotas, *_override()])


def memory_bytes(root: Path = ROOT) -> int | None:
    """Memory that this process may use: the least of the machine's and its cgroup's limit; None where neither is known.

    Args:
        root: as for `cores`.
    """
    return min([*_machine_bytes(), *_cgroup_bytes(root)], default=None)


def worker_count(most: int, gb_each: float, root: Path = ROOT) -> int:
    """How many processes to run side by side for `most` pieces of work: one per core, as far as memory goes; at least 1.

    Args:
        most: pieces of work at hand.
        gb_each: memory of one process, in units of 10^9 bytes.
        root: as for `cores`.
    """
    return max(1, min(most, cores(root), workers_in_memory(gb_each, root)))


def workers_in_memory(gb_each: float, root: Path = ROOT) -> int:
    """How many processes of this size the memory holds, at least 1. gb_each, root: as for `worker_count`."""
    room = memory_bytes(root)
    return max(1, int(room / (gb_each * 1e9))) if room is not None else 2**31


def limit_threads() -> None:
    """Keep OpenMP (torch) and BLAS to `cores()` threads in this process; what is lower stays.

    They count the machine's cores, of which a container may use fewer. Libraries that are loaded later are not limited.
    """
    from threadpoolctl import threadpool_info, threadpool_limits

    most, pools = cores(), threadpool_info()
    if any(pool["num_threads"] > most for pool in pools):
        kinds = {pool["user_api"] for pool in pools}
        threadpool_limits({kind: min(most, *(p["num_threads"] for p in pools if p["user_api"] == kind)) for kind in kinds})


def _affinity() -> int:
    """Cores that the scheduler lets this process run on; macOS and Windows do not say, there all are counted."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _override() -> Iterator[int]:
    setting = os.environ.get(VARIABLE, "").strip()
    if not setting:
        return
    if not setting.isdecimal() or int(setting) < 1:
        raise InputError(
            "setting-invalid", f"${VARIABLE}", "a whole number of cores, 1 or more", repr(setting), "unset it to use all there are"
        )
    yield int(setting)


def _cpu_quotas(root: Path) -> Iterator[float]:
    """CPU quotas in cores, of this process's cgroup and of those above it: the least of them holds."""
    for folder in _cgroups(root, "cpu"):
        if (words := _read(folder / "cpu.max").split()) and words[0].isdecimal():
            yield int(words[0]) / int(words[1])
        quota, period = (_read(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        if quota.isdecimal() and period.isdecimal():  # -1 is no quota
            yield int(quota) / int(period)


def _cgroup_bytes(root: Path) -> Iterator[int]:
    """Memory limits of this process's cgroup and of those above it."""
    for folder in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (limit := _read(folder / name).strip()).isdecimal() and int(limit) < UNLIMITED_BYTES:
                yield int(limit)


def _machine_bytes() -> Iterator[int]:
    try:
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, macOS not these names
        return


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's cgroup for a controller and of all above it, of version 1 and 2 alike, as far as they are there.

    In a container without a cgroup namespace /proc names the host's path, whose folders the container does not see; then its own
    limits are in the mounted root, which is among the folders above.
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
    """A small file's text; empty where there is none, or it cannot be read."""
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def require_linux(what: str) -> None:
    """Refuse work that needs Linux: training and serving use its process and file locks. Detection and the client run anywhere.

    Args:
        what: the work, as the message names it.

    Raises:
        InputError: the system is another one.
    """
    if sys.platform != "linux":
        remedy = "run it on Linux, in WSL or in a container; `cmb detect` and the client run here"
        raise InputError("system-unsupported", what, "Linux", sys.platform, remedy)

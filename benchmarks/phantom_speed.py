"""How long the simulator takes, and how much memory: one scan of every preset on one core, and a dataset by one and two workers.

    python -m benchmarks.phantom_speed

Each scan is made in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from cmb_models.phantom import PhantomConfig, draw_config, simulate_scan, write_dataset

CASES = ("whole head", "ukb", "aibl", "clinical", "7t", "finest")
REPEATS = 3


def config_of(case: str) -> PhantomConfig:
    """ "whole head" is the one with a limit: .8 x .8 x 2 mm, 6 s and 3 GB; "finest" the largest that the random preset can draw."""
    ukb = draw_config("ukb", np.random.default_rng(0))
    if case == "whole head":
        return replace(ukb, spacing_mm=(0.8, 0.8, 2.0), fov_mm=(204.8, 230.4, 176.0))
    if case == "finest":
        return replace(ukb, spacing_mm=(0.45, 0.45, 1.0), fov_mm=(199.8, 229.5, 160.0))
    return draw_config(case, np.random.default_rng(0))


def one_scan(case: str, repeats: int) -> tuple[tuple[int, int, int], list[float], float]:
    """Voxels, seconds of each run after a first small one, peak memory in GB."""
    config = config_of(case)
    with threadpool_limits(1):
        simulate_scan(0, 1, PhantomConfig.small())  # imports and the template, once per process
        seconds = []
        for n in range(repeats):
            start = time.perf_counter()
            simulate_scan(n, 4, config)
            seconds.append(time.perf_counter() - start)
    return config.shape, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    print(f"{'case':12} {'voxels':>15} {'median s':>9} {'all':>18} {'peak GB':>8}")
    for case in CASES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            shape, seconds, peak = pool.apply(one_scan, (case, 1 if case == "finest" else REPEATS))
        every = " ".join(f"{s:.1f}" for s in seconds)
        print(f"{case:12} {'x'.join(map(str, shape)):>15} {np.median(seconds):9.2f} {every:>18} {peak:8.2f}")
    times = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            write_dataset(Path(folder) / "set", scans=8, cmbs=16, seed=0, workers=workers, presets=("aibl",))
            times[workers] = time.perf_counter() - start
        print(f"8 aibl scans written by {workers} worker(s): {times[workers]:.1f} s")
    print(f"two workers are {times[1] / times[2]:.2f} times as fast as one")


if __name__ == "__main__":
    main()

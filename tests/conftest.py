"""For all tests: their share of the cores, signals as a terminal would leave them, and which tests are left to CI."""

from __future__ import annotations

import os
import signal

import pytest

from cmb_models.machine import cores

# Each of xdist's workers has its share of the cores, and so have the commands and servers it starts: OpenMP's threads wait by
# spinning, so that with twice as many threads as cores a training of 8 s took 59 s. Set before torch and NumPy are imported. The
# process that starts the workers reads this file first, and they inherit what it set: so a value is lowered, not only added.
SHARE = max(1, cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
for variable in ("CMB_CORES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = str(min(SHARE, int(os.environ.get(variable) or SHARE)))

OF_BENCHMARKS = ("test_training_speed",)

# Whoever runs the tests in a script's background has them ignore Ctrl-C, and so would every server and command that they start
# and then stop that way: an ignored signal is inherited, a handler is not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `ci` and those of the benchmarks, unless everything was asked for: `make test` shall stay below ten minutes
    on two cores."""
    if os.environ.get("CMB_EVERY_STEP"):
        return
    for item in items:
        if item.get_closest_marker("ci") or item.path.name.startswith(OF_BENCHMARKS):
            item.add_marker(pytest.mark.skip(reason="takes long: in CI, or with CMB_EVERY_STEP=1"))

"""For all tests: their share of the cores, signals as a terminal would leave them, and which tests are left to CI."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from cmb_models.machine import cores

# Each of xdist's workers has its share of the cores, and so have the commands and servers it starts: OpenMP's threads wait by
# spinning, so that with twice as many threads as cores a training of 8 s took 59 s. Set before torch and NumPy are imported. The
# process that starts the workers reads this file first, and they inherit what it set: so a value is lowered, not only added.
SHARE = max(1, cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
for variable in ("CMB_CORES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = str(min(SHARE, int(os.environ.get(variable) or SHARE)))

# Variables on which numbers depend.
NUMERICAL = ("CMB_PRECISION", "CMB_CORES", "ONEDNN_", "DNNL_", "OMP_", "OPENBLAS_", "MKL_", "ATEN_")
OF_BENCHMARKS = ("test_training_speed",)

# Whoever runs the tests in a script's background has them ignore Ctrl-C, and so would every server and command that they start
# and then stop that way: an ignored signal is inherited, a handler is not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def nothing_left_behind() -> Iterator[None]:
    """No file of tests changes what later tests compute: a precision left behind by one made another fail at times."""
    before = _process_state()
    yield
    now = _process_state()
    changed = {name: (before.get(name), now.get(name)) for name in before | now if before.get(name) != now.get(name)}
    assert not changed, f"left changed (before, after): {changed}"


def _process_state() -> dict[str, object]:
    """What results depend on: variables, and torch's settings once it is imported."""
    state: dict[str, object] = {name: value for name, value in os.environ.items() if name.startswith(NUMERICAL)}
    torch, precision = sys.modules.get("torch"), sys.modules.get("cmb_models.training.precision")
    # Before its import the number that it will have then.
    state["threads"] = torch.get_num_threads() if torch else int(os.environ["OMP_NUM_THREADS"])
    state["dtype"] = str(torch.get_default_dtype()) if torch else "torch.float32"
    state["deterministic"] = torch.are_deterministic_algorithms_enabled() if torch else False
    state["precision"] = {kind: choice.precision for kind, choice in precision._adopted.items()} if precision else {}
    return state


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `ci` and those of the benchmarks, unless everything was asked for: `make test` shall stay below ten minutes
    on two cores."""
    if os.environ.get("CMB_EVERY_STEP"):
        return
    for item in items:
        if item.get_closest_marker("ci") or item.path.name.startswith(OF_BENCHMARKS):
            item.add_marker(pytest.mark.skip(reason="takes long: in CI, or with CMB_EVERY_STEP=1"))

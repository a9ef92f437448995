"""For all tests: signals as a terminal would leave them, and which tests are left to CI."""

from __future__ import annotations

import os
import signal

import pytest

# Whoever runs the tests in a script's background has them ignore Ctrl-C, and so would every server and command that they start
# and then stop that way: an ignored signal is inherited, a handler is not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `ci`, unless everything was asked for: `make test` shall stay below ten minutes on two cores."""
    if os.environ.get("CMB_EVERY_STEP"):
        return
    for item in items:
        if item.get_closest_marker("ci"):
            item.add_marker(pytest.mark.skip(reason="takes long: in CI, or with CMB_EVERY_STEP=1"))

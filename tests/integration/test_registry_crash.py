"""Kill -9 at every step of a command: the move has happened or it has not, and what is left can be gone on with.

At every ninth step or fifth, since each takes seconds; at every single one with CMB_EVERY_STEP set, as .ci/run does.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from cmb_models.registry.promote import promote
from tests.integration.registry_crash import require_mended, run_and_die, scratch
from tests.integration.registry_site import copy_site
from tests.integration.registry_workspace import GOOD, retrain

AT_ONCE = 2
STRIDES = {"promote": 9, "rollback": 5, "register": 9}
FEWEST = {"promote": 36, "rollback": 6, "register": 26}  # steps; fewer would mean that they are not seen


def kill_at_every_step(action, template, tmp_path) -> int:
    """Run the action once for every n-th step, on a copy each (STRIDES); return the last one at which it could be killed."""
    stride = 1 if os.environ.get("CMB_EVERY_STEP") else STRIDES[action]

    def killed(step: int) -> bool:
        folder = copy_site(template, tmp_path / f"{action}-{step}")
        died = run_and_die(action, folder, step)
        if died:
            require_mended(action, folder, step)
        shutil.rmtree(folder)
        shutil.rmtree(scratch(folder))
        return died

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for first in count(1, AT_ONCE * stride):
            steps = range(first, first + AT_ONCE * stride, stride)
            if not all(died := list(pool.map(killed, steps))):
                return steps[died.index(False)] - stride
    raise AssertionError("never reached")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_a_killed_move_has_happened_or_not(action, site, tmp_path):
    promote("1", "first", site)
    if action == "rollback":
        promote("2", "second", site)
    assert kill_at_every_step(action, site, tmp_path) >= FEWEST[action]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_registration_leaves_a_whole_release_or_none(site, tmp_path):
    retrain(site, GOOD | {"sensitivity": 0.91})
    assert kill_at_every_step("register", site, tmp_path) >= FEWEST["register"]

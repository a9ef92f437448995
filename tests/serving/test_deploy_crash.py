"""Kill -9 at every step of a deployment: clients notice nothing, and the next deployment ends right.

At every fifth of some 180 steps, since each takes seconds, and in CI alone; with CMB_DEPLOY_STRIDE=1 at every single one. Each kill
is at another step of a deployment like the one before: a new release with a new challenger, on the same server, under load.
"""

from __future__ import annotations

import os
import threading
from itertools import count

import pytest

from cmb_models.client.contract import DETECTOR
from cmb_models.client.grpc import Client
from cmb_models.detection import DetectionResult
from cmb_models.release.bundle import load_bundle
from cmb_models.serving.deploy.desired import DesiredState, Release
from cmb_models.serving.deploy.fleet import Target, reconcile
from cmb_models.serving.deploy.observed import Admin
from cmb_models.serving.deploy.status import Named, server_status
from cmb_models.serving.run.triton_process import running_server
from cmb_models.serving.triton.repository import CHALLENGER, ENSEMBLES, PREVIOUS, PROBE, ROLES, pin_of
from tests.serving.deploy_crash import deploy_and_die
from tests.support.bundles import head, make_bundle

pytestmark = [pytest.mark.ci, pytest.mark.serving, pytest.mark.slow, pytest.mark.timeout(3600)]
STRIDE = int(os.environ.get("CMB_DEPLOY_STRIDE", 5))  # of some 180, seconds each
FEWEST = 70  # steps; fewer would mean that they are not seen
PAUSE_S = 0.1


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [load_bundle(make_bundle(folder / name, threshold)) for name, threshold in (("a", 0.9), ("b", 0.8))]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    repository = tmp_path_factory.mktemp("crash") / "repository"
    with running_server(repository) as server:
        yield Target(server.grpc_url, repository.resolve())


def wanted(bundles, round_: int) -> DesiredState:
    """Releases of a round: production and a challenger by turns, production of the round before as previous."""

    def release(number: int) -> Release:
        bundle = bundles[number % 2]
        return Release(pin_of(number, bundle), bundle)

    releases = {DETECTOR: release(2 * round_), PREVIOUS: release(2 * round_ - 2)} if round_ > 1 else {DETECTOR: release(2)}
    return DesiredState(releases | ({CHALLENGER: release(2 * round_ + 1)} if round_ % 2 else {}))


class Sender(threading.Thread):
    """Sends one scan after the other until it is to stop."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.done = url, threading.Event()
        self.answers: list[DetectionResult] = []
        self.faults: list[Exception] = []

    def run(self) -> None:
        scan = head()
        with Client(self.url) as client:
            while not self.done.wait(PAUSE_S):
                try:
                    self.answers.append(client.detect(scan))
                except Exception as error:  # any loss is what the test looks for
                    self.faults.append(error)


def require_right(target: Target, goal: DesiredState) -> None:
    """Server and folder are exactly as wanted."""
    named = {a: Named(r.pin.release, r.pin.manifest_sha256) for a, e in ROLES.items() if (r := goal.releases.get(e))}
    found = server_status(target.url, named)
    assert not found.fault and not found.differences, (found.fault, found.differences)
    with Admin(target.url) as admin:
        assert admin.observed().pins == {e: r.pin for e, r in goal.releases.items()}
    numbers = {str(r.pin.release) for r in goal.releases.values()}
    models = {p for p in target.repository.iterdir() if p.is_dir()}
    assert {p.name for p in models} & {*ENSEMBLES} == set(goal.releases) and PROBE not in {p.name for p in models}
    for model in models:
        own = {str(goal.releases[model.name].pin.release)} if model.name in ENSEMBLES else numbers
        assert {p.name for p in model.iterdir()} - {"config.pbtxt"} == own, model
    with Client(target.url) as client:
        answer = client.detect(head())
    pin = goal.releases[DETECTOR].pin
    assert (answer.release, answer.manifest_sha256) == (pin.release, pin.manifest_sha256)


def test_deployment_killed_anywhere_is_finished_by_the_next(target, bundles):
    reconcile(wanted(bundles, 1), [target])
    sender = Sender(target.url)
    sender.start()
    try:
        for round_ in count(2):
            step = 1 + (round_ - 2) * STRIDE
            goal = wanted(bundles, round_)
            since = len(sender.answers)
            died = deploy_and_die(goal, target, step)
            reconcile(goal, [target])
            require_right(target, goal)
            legal = {wanted(bundles, r).release for r in (round_ - 1, round_)}
            assert {a.release for a in sender.answers[since:]} <= legal
            assert not sender.faults, (step, sender.faults)
            if not died:
                break
        [again] = reconcile(goal, [target])
        assert not again.changed and "nothing to do" in str(again)
    finally:
        sender.done.set()
        sender.join()
    assert step > FEWEST and not sender.faults and sender.answers
    assert all(a.manifest_sha256 == bundles[a.release % 2].manifest_sha256 for a in sender.answers)

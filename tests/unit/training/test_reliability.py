"""Trainings that are killed, diverge or run out of disk: what was done is kept, and what comes out is whole or is not there."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from cmb_models import files
from cmb_models.files import atomic_directory, atomic_write, write_json
from cmb_models.networks.unet import build_unet
from cmb_models.training import checkpoint as checkpoint_module
from cmb_models.training import loop
from cmb_models.training.checkpoint import Checkpoint, checkpoint_directory, open_checkpoint, save_tensors
from cmb_models.training.data.examples import save_example
from cmb_models.training.data.samplers import CnnSampler
from cmb_models.training.final import save_weights
from cmb_models.training.loop import Diverged, train_cnn
from cmb_models.training.validation.jobs import (
    OutOfFoldCandidates,
    UnetJob,
    cnn_checkpoint,
    save_candidates,
    try_unet_job,
    unet_checkpoint,
)
from tests.support.bundles import settings as bundle_settings
from tests.support.examples import CNN, UNET, example
from tests.support.imports import ROOT
from tests.support.refused import refused
from tests.support.trainings import SNAPSHOT, STEPS, Killed, assert_equal, cnn_sampler, kill_at, train

KILLED_AT = 2 * SNAPSHOT + 1  # after a state was saved that holds some of the averaging, which begins at step 9


@pytest.fixture(autouse=True)
def small(monkeypatch, on_one_core):
    """Short trainings."""
    monkeypatch.setattr(loop, "SNAPSHOT", SNAPSHOT)


@pytest.mark.parametrize("kind", ["unet", "cnn"])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, kind):
    kept = Checkpoint(tmp_path / "c.pt", every_s=0)
    with pytest.raises(Killed):
        train(kind, kept, kill_at(KILLED_AT))
    steps = []
    resumed = train(kind, Checkpoint(tmp_path / "c.pt", every_s=0), steps.append)
    assert_equal(resumed, train(kind))
    assert steps == list(range(STEPS))  # the bar counts what was done before, too
    assert kept.load()["step"] == STEPS


CHILD = """
import sys
from pathlib import Path
import torch
from cmb_models.training import loop
from cmb_models.training.checkpoint import Checkpoint
from tests.support.trainings import SNAPSHOT, train
torch.set_num_threads(1)
loop.SNAPSHOT = SNAPSHOT
train("cnn", Checkpoint(Path(sys.argv[1]), every_s=0), lambda step: print(step, flush=True), steps=5000)
"""


def test_sigkill(tmp_path):
    """A process that is really killed, in the middle of a step or of writing its state."""
    path = tmp_path / "c.pt"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if int(line) == 3 * SNAPSHOT + 7:
            break
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    saved = Checkpoint(path).load()["step"]
    assert saved >= 3 * SNAPSHOT and saved % SNAPSHOT == 0
    end = saved + 2 * SNAPSHOT  # both are stopped here, just after the state of this step was written
    for file in (path, tmp_path / "straight.pt"):
        with pytest.raises(Killed):
            train("cnn", Checkpoint(file, every_s=0), kill_at(end), steps=5000)
    resumed, straight = Checkpoint(path).load(), Checkpoint(tmp_path / "straight.pt").load()
    assert resumed["step"] == straight["step"] == end
    assert_equal(resumed["model"], straight["model"])
    assert_equal(resumed["average"], straight["average"])
    assert torch.equal(resumed["random"]["torch"], straight["random"]["torch"])
    for first, second in zip(*(s["optimizer"]["state"].values() for s in (resumed, straight)), strict=True):
        assert_equal(first, second)


def test_a_finished_training_is_not_done_again(tmp_path, monkeypatch):
    first = train("cnn", Checkpoint(tmp_path / "c.pt"))
    monkeypatch.setattr(CnnSampler, "batch", kill_at(None))  # would raise: not one batch is drawn
    assert_equal(first, train("cnn", Checkpoint(tmp_path / "c.pt")))


def test_no_other_training_picks_a_checkpoint_up(tmp_path, monkeypatch):
    one, other = example([(10, 10, 10)]), example([(10, 10, 12)])
    seen = {unet_checkpoint(tmp_path, UNET, 0, [one]).path}
    assert unet_checkpoint(tmp_path, UNET, 0, [example([(10, 10, 10)])]).path in seen  # the same again
    found = OutOfFoldCandidates("a", frozenset({"x"}), np.array([[1, 2, 3]]), np.zeros((1, 3)), np.ones(1))
    seen.add(cnn_checkpoint(tmp_path, CNN, 0, [one], {"a": found}).path)
    others = [
        unet_checkpoint(tmp_path, UNET, 1, [one]),
        unet_checkpoint(tmp_path, UNET.model_copy(update={"batch": 3}), 0, [one]),
        unet_checkpoint(tmp_path, UNET, 0, [other]),
        unet_checkpoint(tmp_path, UNET, 0, [one, other]),
        cnn_checkpoint(tmp_path, CNN, 1, [one], {"a": found}),
        cnn_checkpoint(
            tmp_path, CNN, 0, [one], {"a": OutOfFoldCandidates("a", found.trained_on, found.index_vox + 1, *[np.zeros((1, 3))] * 2)}
        ),
    ]
    monkeypatch.setattr(checkpoint_module, "library_hash", lambda *modules: "of other code")
    others.append(unet_checkpoint(tmp_path, UNET, 0, [one]))
    monkeypatch.setattr(torch, "__version__", "another")
    others.append(unet_checkpoint(tmp_path, UNET, 0, [one]))
    assert len(seen | {c.path for c in others}) == 2 + len(others)
    assert unet_checkpoint(None, UNET, 0, [one]) is cnn_checkpoint(None, CNN, 0, [one], {}) is None


def test_a_checkpoint_that_cannot_be_read_is_left_aside(tmp_path, caplog):
    for content in (b"", b"half a checkpo"):
        (tmp_path / "c.pt").write_bytes(content)
        assert Checkpoint(tmp_path / "c.pt").load() is None
    whole = open_checkpoint(tmp_path, "x")
    whole.save({"step": 1, "more": torch.zeros(1000)})
    whole.path.write_bytes(whole.path.read_bytes()[:-700])
    assert whole.load() is None
    assert sum("cannot be read and is left aside" in r.message for r in caplog.records) == 3


def test_checkpoints_outlive_a_stage_that_fails_and_go_when_it_is_done(tmp_path):
    with pytest.raises(Killed), checkpoint_directory(tmp_path / "stage") as folder:
        open_checkpoint(folder, "unet", 1).save({"step": 1})
        raise Killed
    with checkpoint_directory(tmp_path / "stage") as folder:
        assert open_checkpoint(folder, "unet", 1).load() == {"step": 1}
    assert not (tmp_path / "stage").exists()


def test_a_second_process_of_a_stage_does_not_remove_the_checkpoints_of_the_first(tmp_path):
    script = "import sys; from pathlib import Path; from cmb_models.training.checkpoint import checkpoint_directory as hold\n"
    script += "with hold(Path('stage')): print('begun', flush=True); sys.stdin.readline()"
    other = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "begun\n"
    with refused("folder-in-use"), checkpoint_directory(tmp_path / "stage"):
        pytest.fail("two processes have the checkpoints")
    other.communicate("done\n")
    assert other.returncode == 0
    with checkpoint_directory(tmp_path / "stage"):
        pass


def test_it_is_written_no_more_often_than_asked(tmp_path):
    rare = Checkpoint(tmp_path / "c.pt", every_s=1000)
    rare.save_if_due({"step": 1})
    assert not rare.path.exists()
    often = Checkpoint(tmp_path / "c.pt", every_s=0)
    often.save_if_due({"step": 1})
    assert often.load() == {"step": 1}


class Broken:
    """A sampler whose batches are NaN when they are drawn for the `at`th time; None: always."""

    def __init__(self, inner, at):
        self.inner, self.at, self.drawn, self.settings = inner, at, 0, inner.settings
        self.channels = inner.channels

    def batch(self, rng):
        self.drawn += 1
        patches, labels = self.inner.batch(rng)
        return (patches * np.nan if self.at is None or self.drawn in self.at else patches), labels

    def basis(self):
        return self.inner.basis()

    def state(self):
        return self.inner.state()

    def restore(self, state):
        self.inner.restore(state)


def test_a_training_that_diverges_once_goes_back_and_on_with_half_the_rate(caplog):
    at = SNAPSHOT + 3
    sampler = Broken(cnn_sampler(), at={at + 1})  # drawn before step `at`
    weights = train_cnn(sampler, 3).state_dict()
    assert all(torch.isfinite(v).all() for v in weights.values())
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"training loss became nan at step {at}: back to step {SNAPSHOT}, learning rate halved"
    ]
    assert sampler.drawn == STEPS + (at - SNAPSHOT) + 1  # the steps since the snapshot again, and the broken one


def test_a_killed_training_remembers_that_its_rate_was_halved(tmp_path):
    broken = {SNAPSHOT // 2}
    straight = train_cnn(Broken(cnn_sampler(), broken), 3).state_dict()
    with pytest.raises(Killed):
        train_cnn(Broken(cnn_sampler(), broken), 3, kill_at(KILLED_AT), Checkpoint(tmp_path / "c.pt", every_s=0))
    assert Checkpoint(tmp_path / "c.pt").load()["rate"] == 0.5
    assert_equal(straight, train_cnn(Broken(cnn_sampler(), set()), 3, None, Checkpoint(tmp_path / "c.pt", every_s=0)).state_dict())


def test_a_training_that_always_diverges_is_given_up_after_two_halvings(caplog):
    sampler = Broken(cnn_sampler(), at=None)
    words = r"became nan at step 0: lower the learning rate \(0.01; 2 times halved it did so again\), or look for broken scans"
    with pytest.raises(Diverged, match=words):
        train_cnn(sampler, 3)
    assert sampler.drawn == 3


def test_weights_that_overflow_in_the_last_step_are_no_result(monkeypatch):
    """No loss is computed with them any more."""
    steps = []

    def overflow(self):
        steps.append(self.param_groups[0]["lr"])
        self.param_groups[0]["params"][0].data.fill_(np.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    with pytest.raises(Diverged, match="lower the learning rate"):
        train_cnn(cnn_sampler(steps=1), 3)
    assert steps == [0.01, 0.005, 0.0025]


def test_a_search_is_told_of_divergence_instead_of_ended(tmp_path):
    one, other = (replace(example([(10, 12, 16)]), key=k, subject=k) for k in ("a", "b"))
    save_example(tmp_path, one)
    config = bundle_settings()
    job = UnetJob(
        tmp_path, frozenset({"a"}), frozenset({"b"}), UNET.model_copy(update={"steps": 4, "hard_negatives_at": ()}), config, 0
    )
    save_example(tmp_path, other)
    assert [m.key for m in try_unet_job(job)] == ["b"]
    one.prepared.image[:] = np.nan
    save_example(tmp_path, one)
    assert try_unet_job(job) is None


@pytest.fixture
def full_disk(monkeypatch):
    """The system's own answer for a full disk: temporary files lead to /dev/full."""

    def mkstemp(prefix, suffix, dir):
        name = os.path.join(dir, f"{prefix}full{suffix}")
        os.symlink("/dev/full", name)
        return os.open(os.devnull, os.O_RDONLY), name

    monkeypatch.setattr(files.tempfile, "mkstemp", mkstemp)


WRITERS = {
    "json": lambda folder: write_json(folder / "a.json", {"some": "thing"}),
    "tensors": lambda folder: save_tensors(folder / "a.pt", torch.zeros(10_000)),
    "candidates": lambda folder: save_candidates(
        folder, OutOfFoldCandidates("a", frozenset(), np.zeros((9, 3), int), np.zeros((9, 3)), np.zeros(9))
    ),
    "example": lambda folder: save_example(folder, example([])),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path, full_disk, kind):
    with refused("disk-full"):
        WRITERS[kind](tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_model(tmp_path, full_disk):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/unet.pt").write_bytes(b"old")
    model = build_unet(UNET.channels, UNET.strides)
    with refused("disk-full"), atomic_directory(tmp_path / "weights") as folder:
        save_weights(folder, UNET, CNN, model, model, [])
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]
    assert (tmp_path / "weights/unet.pt").read_bytes() == b"old"


def test_a_training_needs_no_room_for_its_checkpoint(tmp_path, full_disk, caplog):
    assert_equal(train("cnn", Checkpoint(tmp_path / "c.pt", every_s=0)), train("cnn"))
    assert any("continues without a checkpoint: " in r.message and "room on the disk" in r.message for r in caplog.records)
    assert not list(tmp_path.iterdir())


def test_other_faults_of_the_system_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(PermissionError), atomic_write(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")

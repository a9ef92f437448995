"""Nested cross-validation for real, on scans that are small: nothing inside an outer fold depends on that fold."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from cmb_models.config.params import CnnSearch, UnetSearch, load_params
from cmb_models.training.data.examples import save_example
from cmb_models.training.tuning import objective
from cmb_models.training.validation import cross_validation, nested
from cmb_models.training.validation.jobs import CnnJob, inner_split, load_candidates
from cmb_models.training.validation.nested_summary import OuterFold, decide_inside, nested_metrics
from tests.support.examples import example
from tests.support.imports import ROOT
from tests.support.refused import refused

SUBJECTS = ("s_a", "s_b", "s_c")
SPLIT = {"folds": {s: n for n, s in enumerate(SUBJECTS)}, "locked": [], "locked_sha256": [], "notes": []}
CENTRES = {"s_a": (10, 12, 16), "s_b": (20, 9, 12), "s_c": (14, 20, 20)}
TRIALS = 2


def tiny_params():
    params = load_params(ROOT / "params.yaml")
    tiny = {
        "channels": (4, 4, 8),
        "strides": (1, 2, 1),
        "patch_vox": (16, 16, 8),
        "batch": 2,
        "steps": 8,
        "inserted_per_patch": 0.0,
    }
    tiny |= {k: 0.0 for k in ("inserted_mimics_per_patch", "hard_negative_fraction") if k in type(params.unet).model_fields}
    unet = params.unet.model_copy(update=tiny)
    tiny = {"channels": (4,), "patch_vox": (8, 8, 4), "batch": 4, "steps": 8, "inserted_fraction": 0.0}
    tiny |= {k: 0.0 for k in ("inserted_mimic_fraction",) if k in type(params.cnn).model_fields}
    cnn = params.cnn.model_copy(update=tiny)
    few = {"trials": TRIALS, "steps": 4}
    candidates = params.detect_candidates.candidates.model_copy(update={"floor": 0.0, "max_per_scan": 12})
    return params.model_copy(
        update={
            "unet": unet,
            "cnn": cnn,
            "tune_unet": params.tune_unet.model_copy(update=few | {"search": UnetSearch(sigma_mm=(1.0, 2.0))}),
            "tune_cnn": params.tune_cnn.model_copy(update=few | {"search": CnnSearch(dropout=(0.05, 0.5))}),
            "detect_candidates": params.detect_candidates.model_copy(update={"candidates": candidates}),
            "evaluate": params.evaluate.model_copy(update={"bootstrap": 20}),
        }
    )


class Inline:
    """Workers in this very process, which keep a list of what they were asked to do."""

    jobs: ClassVar[list] = []

    def __init__(self, most, unet=True):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def map(self, function, jobs, steps, description):
        Inline.jobs += jobs
        return [function(job) for job in jobs]


@pytest.fixture(autouse=True)
def inline(monkeypatch):
    monkeypatch.setattr(Inline, "jobs", [])
    for module in (objective, cross_validation, nested):
        monkeypatch.setattr(module, "open_workers", Inline)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Makes an empty workspace with the prepared scans of three subjects; Optuna's studies lie in it too."""

    def make(name, other=None):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        for subject in SUBJECTS:
            scan = replace(example([CENTRES[subject]]), key=subject, subject=subject, sha256=f"file of {subject}")
            if subject == other:
                scan = replace(example([(5, 5, 5), (25, 25, 24)]), key=subject, subject=subject, sha256="another file")
                scan.prepared.image[:] *= -2
            save_example(folder / "prepared", scan)
        return folder

    return make


def run(folder):
    return nested.nested_cross_validate(tiny_params(), folder / "prepared", SPLIT, folder / "nested", folder / "checkpoints")


def figures_of(fold: OuterFold):
    """All that was found inside, and the decision that follows."""
    chosen = {stage: [(t["params"], t["value"]) for t in tuned["trials"]] for stage, tuned in fold.chosen.items()}
    return chosen, [(s.key, s.scores.tolist()) for s in fold.inner], decide_inside(fold, tiny_params()).decision


@pytest.mark.ci
@pytest.mark.slow
def test_what_is_found_inside_does_not_depend_on_the_outer_fold(workspace):
    """Other pictures and other lesions in fold 3: everything inside it stays the same to the last bit, its scores do not."""
    first, second = run(workspace("one")), run(workspace("two", other="s_c"))
    assert figures_of(first[2]) == figures_of(second[2])
    assert first[2].outer[0].scores.tolist() != second[2].outer[0].scores.tolist()
    assert figures_of(first[0]) != figures_of(second[0])  # inside the other folds it is a training subject, and counts


@pytest.mark.slow
def test_every_subject_is_judged_once_by_models_that_never_knew_it(workspace):
    folder = workspace("one")
    folds = run(folder)
    assert [[s.subject for s in f.outer] for f in folds] == [["s_a"], ["s_b"], ["s_c"]]
    for number, fold in enumerate(folds):
        outer = {SUBJECTS[number]}
        assert {s.subject for s in fold.inner} == set(SUBJECTS) - outer
        candidates = load_candidates(folder / f"nested/outer-{number}")
        assert set(candidates) == set(SUBJECTS)
        for key, mined in candidates.items():
            assert not mined.trained_on & (outer | {key})
        jobs = [j for j in Inline.jobs if isinstance(j, CnnJob) and j.candidates_dir.name == f"outer-{number}"]
        last = jobs[-1]
        assert (last.training, last.held_out) == (set(SUBJECTS) - outer, outer)
        assert len(jobs) == 2 * TRIALS + 2 + 1 and all(job.unseen == outer for job in jobs)
        assert all(not (job.training | job.held_out) & outer for job in jobs[:-1])


def figures(folds):
    """What the stage reports, Optuna's own numbers of trials left out: it counts killed ones too."""
    metrics, _ = nested_metrics(folds, tiny_params(), np.random.default_rng(0))
    for fold in metrics["folds"]:
        for tuned in fold["chosen"].values():
            del tuned["trial"]
    return metrics


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.ci
@pytest.mark.slow
def test_a_killed_run_keeps_its_trials_and_trainings(workspace, monkeypatch):
    folder = workspace("one")
    with monkeypatch.context() as patch:
        calls = []

        def die_in_the_second(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                raise Killed
            return objective.search_cnn(*arguments)

        patch.setattr(nested, "search_cnn", die_in_the_second)
        with pytest.raises(Killed):
            run(folder)
    done = len(Inline.jobs)
    folds = run(folder)
    tuned = [j for j in Inline.jobs[done:] if j.checkpoints is None]
    # Left to tune: stage 2 of outer folds 2 and 3, stage 1 of fold 3; two inner folds each.
    assert len(tuned) == 3 * 2 * TRIALS
    straight = run(workspace("whole"))
    assert [figures_of(f) for f in folds] == [figures_of(f) for f in straight]
    assert figures(folds) == figures(straight)  # same seed, same numbers, in another run and another workspace


def test_two_folds_leave_nothing_to_tune_on(tmp_path):
    split = {**SPLIT, "folds": {"s_a": 0, "s_b": 1}}
    with refused("params-invalid"):
        nested.nested_cross_validate(tiny_params(), tmp_path, split, tmp_path)


def test_the_inner_split_leaves_the_outer_fold_alone():
    assert inner_split(SPLIT, 1) == {**SPLIT, "folds": {"s_a": 0, "s_c": 1}, "held_out": ["s_b"]}

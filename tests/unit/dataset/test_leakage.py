"""A leak of every kind, inserted on purpose: each must be refused, and the same thing without the leak must pass.

Those on the way from a file to a prepared image are in test_leaks_prepared.py.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmb_models.config.params import Decision, Fusion, load_params
from cmb_models.dataset.leakage import check_lineage, check_split
from cmb_models.dataset.split import split_subjects
from cmb_models.detect.fusion import calibrated
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.operating_point import decide_on, threshold_apart
from cmb_models.evaluation.rows import write_rows
from cmb_models.evaluation.statistics.calibration import adaptive_ece
from cmb_models.files import read_json, write_json
from cmb_models.io.annotations import Annotation
from cmb_models.training.data.examples import Example, load_training, save_example
from cmb_models.training.tuning.objective import search_cnn, search_unet
from cmb_models.training.validation.cross_validation import candidates_out_of_fold, cross_validate
from cmb_models.training.validation.jobs import (
    CnnJob,
    OutOfFoldCandidates,
    cnn_sampler,
    load_candidates,
    run_cnn_job,
    save_candidates,
)
from pipelines import calibrate
from tests.support.examples import CNN, UNET, example
from tests.support.imports import ROOT
from tests.support.refused import refused

SPLIT = {"folds": {"s_a": 0, "s_b": 1}, "locked": ["l_a"], "locked_sha256": ["locked file"], "notes": []}
SCANS = [
    {"key": "s_a", "dataset": "s", "subject": "s_a", "sha256": "file a", "n_cmbs": 2},
    {"key": "s_b", "dataset": "s", "subject": "s_b", "sha256": "file b", "n_cmbs": 2},
    {"key": "l_a", "dataset": "l", "subject": "l_a", "sha256": "locked file", "n_cmbs": 2},
]
PARAMS = load_params(ROOT / "params.yaml")


def of(subject, key=None, sha256="a file", centres=((10, 12, 16),)) -> Example:
    """An example with a lesion that belongs to `subject`."""
    return replace(example(list(centres)), key=key or subject, subject=subject, sha256=sha256)


def mined(key, trained_on) -> OutOfFoldCandidates:
    index = np.array([[10, 12, 8], [25, 25, 4]])
    return OutOfFoldCandidates(key, frozenset(trained_on), index, index * (1.0, 1.0, 2.0), np.array([0.9, 0.4]))


@pytest.fixture
def folder(tmp_path):
    """Prepared scans of two subjects in two folds, and their out-of-fold candidates."""
    for n, subject in enumerate(("s_a", "s_b")):
        save_example(tmp_path / "prepared", of(subject, sha256=f"file {n}"))
    save_candidates(tmp_path / "candidates", mined("s_a", {"s_b"}))
    save_candidates(tmp_path / "candidates", mined("s_b", {"s_a"}))
    return tmp_path


def every_training(folder, split):
    """What each stage that trains does first with the prepared scans."""
    prepared, candidates = folder / "prepared", folder / "candidates"
    return {
        "train": lambda: load_training(prepared, split),
        "tune_unet": lambda: search_unet(PARAMS, prepared, split),
        "detect_candidates": lambda: candidates_out_of_fold(PARAMS, UNET, prepared, split),
        "tune_cnn": lambda: search_cnn(PARAMS, prepared, candidates, split),
        "cross_validate": lambda: cross_validate(PARAMS, CNN, prepared, candidates, split),
    }


STAGES = ("train", "tune_unet", "detect_candidates", "tune_cnn", "cross_validate")


def test_what_is_clean_passes(folder):
    examples = load_training(folder / "prepared", SPLIT)
    assert [e.subject for e in examples] == ["s_a", "s_b"]
    cnn_sampler(examples, load_candidates(folder / "candidates"), CNN)
    check_split(SPLIT, SCANS)


@pytest.mark.parametrize("stage", STAGES)
def test_a_locked_subject_in_training(folder, stage):
    """Its prepared scan lies among the others: weights, and every trial's objective, would be of it."""
    save_example(folder / "prepared", of("l_a"))
    with refused("leakage"):
        every_training(folder, SPLIT)[stage]()


@pytest.mark.parametrize("stage", STAGES)
def test_a_locked_scan_in_training_under_another_name(folder, stage):
    """The name is a training subject's, the file is a locked one: only its content shows it."""
    save_example(folder / "prepared", of("s_a", key="s_a_ses-02", sha256="locked file"))
    with refused("leakage", got="s_a_ses-02, the same file as a locked one"):
        every_training(folder, SPLIT)[stage]()


@pytest.mark.parametrize("stage", STAGES)
def test_a_subject_that_is_both_locked_and_in_a_fold(folder, stage):
    split = {**SPLIT, "folds": {**SPLIT["folds"], "l_a": 1}}
    save_example(folder / "prepared", of("l_a"))
    with refused("leakage"):
        every_training(folder, split)[stage]()
    with refused("leakage"):
        check_split(split, SCANS)


@pytest.mark.parametrize("stage", STAGES)
def test_two_sessions_of_a_subject_in_two_folds(folder, stage):
    """A split by scan instead of by subject."""
    split = {**SPLIT, "folds": {"s_a_ses-01": 0, "s_a_ses-02": 1, "s_b": 1}}
    with refused("split-incomplete"):
        every_training(folder, split)[stage]()
    with refused("split-incomplete"):
        check_split(split, SCANS)


@pytest.mark.parametrize("second", ["l_a", "s_b"])
def test_one_scan_under_two_names(second):
    """In training and locked, or in two folds: refused by its content when the data are split."""
    scans = [{**s, "sha256": "file a"} if s["subject"] == second else s for s in SCANS]
    with refused("leakage", got=f"one file as s_a and as {second}"):
        check_split(SPLIT, scans)
    settings = PARAMS.split.model_copy(update={"folds": 2, "locked_datasets": ("l",), "locked_fraction": 0.0})
    assert split_subjects(SCANS, settings, 2)["locked"] == ["l_a"]
    with refused("leakage", got=f"one file as s_a and as {second}"):
        split_subjects(scans, settings, 2)


def test_one_phase_image_under_two_names():
    """Another SWI each, as if exported twice; the phase image says that it is one scan."""
    scans = [{**s, "phase_sha256": f"phase {s['key']}"} for s in SCANS]
    check_split(SPLIT, scans)
    settings = PARAMS.split.model_copy(update={"folds": 2, "locked_datasets": ("l",), "locked_fraction": 0.0})
    assert split_subjects(scans, settings, 2)["locked_sha256"] == ["locked file", "phase l_a"]
    twice = [{**s, "phase_sha256": "phase s_a"} if s["key"] == "l_a" else s for s in scans]
    with refused("leakage"):
        check_split(SPLIT, twice)
    trained = {**LINEAGE, "training_phases": {"s_a": "phase s_a", "s_b": "phase s_b"}}
    check_lineage(trained, scans, ["l_a"])
    with refused("leakage"):
        check_lineage(trained, twice, ["l_a"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_locked_phase_image_in_training_beside_another_swi(folder, stage):
    scan = of("s_a", key="s_a_ses-02", sha256="another file")
    prepared = replace(scan.prepared, phase=np.zeros_like(scan.prepared.image))
    save_example(folder / "prepared", replace(scan, prepared=prepared, phase_sha256="locked phase"))
    with refused("leakage", got="s_a_ses-02, the same file as a locked one"):
        every_training(folder, {**SPLIT, "locked_sha256": ["locked file", "locked phase"]})[stage]()


def scored(subject) -> ScoredScan:
    lesion = Annotation("s", "", 0.0, 0.0, 0.0, 3.0, "cmb", "r")
    return ScoredScan(subject, subject, (lesion,), np.zeros((1, 3)), np.array([0.8]))


def test_a_threshold_chosen_with_the_scores_it_is_counted_on():
    assert threshold_apart([scored("s_a")], [scored("s_b")], 3.0, 1.0) == 0.4  # halfway between .8 and none
    with refused("leakage"):
        threshold_apart([scored("s_a")], [scored("s_b"), scored("s_a")], 3.0, 1.0)


def found(subject: str, *scores: float) -> ScoredScan:
    """A scan with a microbleed at its first candidate and none at the others."""
    places = np.array([(20.0 * n, 0.0, 0.0) for n in range(len(scores))]).reshape(-1, 3)
    return replace(scored(subject), centres_mm=places, scores=np.array(scores))


@pytest.fixture
def out_of_fold(tmp_path, monkeypatch):
    """A workspace as cross_validate leaves it, but for MLflow: write(scans) writes its rows, and calibrate.main() may run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibrate, "log_stage", lambda *_: None)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    write_json(calibrate.SPLIT, SPLIT)
    return lambda scans: write_rows(calibrate.ROWS, scans, 0.5, 3.0, Fusion(), {s.subject: 0 for s in scans})


@pytest.mark.parametrize("stray", ["l_a", "nobody"])
def test_a_threshold_and_a_calibration_from_locked_scores(out_of_fold, stray):
    out_of_fold([found("s_a", 0.8, 0.3), found("s_b", 0.7, 0.2), found(stray)])  # without a candidate, but its miss would count
    with refused("leakage", case="cross_validate", got=stray):
        calibrate.main()
    assert not calibrate.CALIBRATION.exists()


def test_a_threshold_from_somewhere_else(out_of_fold):
    """Whatever metrics.json says: the release's threshold is chosen on the rows of training subjects."""
    visits = [replace(found("s_a", 0.8, 0.3), key=f"s_a_ses-{n}") for n in range(5)]  # enough to fit a calibration
    own = [*visits, found("s_b", 0.7, 0.2, 0.4, 0.3)]
    out_of_fold(own)
    write_json(calibrate.ROWS / "metrics.json", {"threshold": 0.75, "stage2_weight": 0.1})
    calibrate.main()
    report = read_json(calibrate.CALIBRATION)
    assert report == {"decision": decide_on(own, load_params(Path("params.yaml"))).model_dump(), "subjects": ["s_a", "s_b"]}
    metrics, uncut = read_json(calibrate.REPORTS / "calibrate/metrics.json"), Decision(**{**report["decision"], "threshold": 0.0})
    scores, hits = np.array([*[0.8, 0.3] * 5, 0.7, 0.2, 0.4, 0.3]), np.array([*[1, 0] * 5, 1, 0, 0, 0])
    assert metrics["ece_before"] == pytest.approx(adaptive_ece(scores, hits))
    assert metrics["ece_after"] == pytest.approx(adaptive_ece(calibrated(scores, uncut), hits))
    assert metrics["ece_after"] < metrics["ece_before"]
    assert all(low < metrics[n] < high or low == high for n, (low, high) in metrics["intervals_95"].items())
    assert report["decision"]["threshold"] == pytest.approx(float(calibrated(np.float64(0.55), uncut)))  # halfway from .7 to .4


LINEAGE = {"training_scans": {"s_a": "file a", "s_b": "file b"}, "calibrated_on": ["s_a", "s_b"]}


def test_a_bundle_without_leaks_may_be_evaluated():
    check_lineage(LINEAGE, SCANS, ["l_a"])


@pytest.mark.parametrize(
    ("change", "case", "got"),
    [
        ({"training_scans": {"s_a": "file a", "l_a": "locked file"}}, "networks", "l_a$"),
        ({"training_scans": {"s_a": "file a", "s_b": "locked file"}}, "networks", "^l_a, .*s_b$"),
        ({"calibrated_on": ["s_a", "l_a"]}, "calibration", "l_a$"),
    ],
)
def test_a_bundle_that_has_seen_a_locked_scan_is_not_evaluated(change, case, got):
    with refused("leakage", case=case, got=got):
        check_lineage({**LINEAGE, **change}, SCANS, ["l_a"])


@pytest.mark.parametrize("missing", ["training_scans", "calibrated_on"])
def test_a_bundle_that_does_not_say_what_it_has_seen_is_not_evaluated(missing):
    with refused("lineage-incomplete", got=f"^no {missing}$"):
        check_lineage({k: v for k, v in LINEAGE.items() if k != missing}, SCANS, ["l_a"])


def test_stage_2_trained_on_candidates_of_a_stage_1_that_saw_the_scan(folder):
    examples = load_training(folder / "prepared", SPLIT)
    save_candidates(folder / "candidates", mined("s_b", {"s_a", "s_b"}))
    known = load_candidates(folder / "candidates")
    with refused("leakage"):
        cnn_sampler(examples, known, CNN)
    job = CnnJob(folder / "prepared", folder / "candidates", frozenset({"s_a"}), frozenset({"s_b"}), CNN, 0)
    with refused("leakage"):
        run_cnn_job(job)  # scored, not trained on: its candidates would be too good


def test_candidates_from_a_stage_1_that_saw_the_outer_fold(folder):
    """Out of fold as to its own scan, but the fold that all this is judged on was among its training data."""
    save_example(folder / "prepared", of("s_c"))
    save_candidates(folder / "candidates", mined("s_a", {"s_b", "s_c"}))
    known = load_candidates(folder / "candidates")
    example_a = [e for e in load_training(folder / "prepared", {**SPLIT, "held_out": ["s_c"]}) if e.subject == "s_a"]
    cnn_sampler(example_a, known, CNN)
    with refused("leakage"):
        cnn_sampler(example_a, known, CNN, frozenset({"s_c"}))


def test_candidates_that_are_missing(folder):
    (folder / "candidates/s_b.npz").unlink()
    with refused("candidates-missing"):
        cnn_sampler(load_training(folder / "prepared", SPLIT), load_candidates(folder / "candidates"), CNN)


def test_a_fold_without_microbleeds_is_not_tuned_on(folder):
    """No leak, but no number either: its sensitivity would be 0 of 0."""
    bare = replace(of("s_b"), annotations=())
    save_example(folder / "prepared", bare)
    with refused("training-too-few"):
        load_training(folder / "prepared", SPLIT)


def test_one_scan_in_two_files_is_one_scan():
    """Compressed again it has another hash, and the same content."""
    *training, locked = [{**scan, "content_sha256": scan["key"]} for scan in SCANS]
    lineage = {**LINEAGE, "training_scans": {"s_a": "an older file"}, "training_contents": {"s_a": "s_a"}}
    check_lineage(lineage, [*training, locked], ["l_a"])
    with refused("leakage", got="l_a, trained on as s_a"):
        check_lineage(lineage, [*training, {**locked, "content_sha256": "s_a"}], ["l_a"])
    with refused("leakage", got="one file as s_a and as l_a"):
        check_split(SPLIT, [*training, {**locked, "content_sha256": "s_a"}])

"""The benchmark of a whole run: it runs the pipeline's own stages, with the settings of the full demo, and tells of each."""

from __future__ import annotations

import pytest

from cmb_models.config.params import load_params
from cmb_models.dataset.layout import find_scans
from cmb_models.errors import InputError
from cmb_models.files import read_json, write_json
from cmb_models.hash_chain import read_entries
from research import exposure, full_run
from research.stages import ROOT, TO_BUNDLE, create_workspace, run_stages
from tests.support.bundles import make_bundle
from tests.test_dvc_graph import STAGES

PARAMS = load_params(ROOT / "params.yaml")
SMALL = ["--scans", "4", "--cmbs", "4", "--cmb-free", "0", "--seed", "1", "--preset", "small"]


def test_settings_are_the_full_demos_with_more_trials():
    params = full_run.settings(PARAMS, 50, 10)
    for tuning in (params.tune_unet, params.tune_cnn):
        assert (tuning.trials, tuning.parallel_trials) == (50, 10)
    assert params.split.folds == 5 and (params.unet.steps, params.tune_unet.steps) == (2600, 150)
    assert params.train.init_from == "random" and params.cnn.channels == (8, 16, 32) and params.gate == PARAMS.gate


def test_stages_are_those_of_dvc_up_to_the_bundle():
    stages = list(STAGES)
    assert sorted(stages[: stages.index("export") + 1]) == sorted(TO_BUNDLE)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full_run")
    full_run.simulate(folder / "data/raw/site", SMALL, 1)
    full_run.simulate(folder / "data/raw/locked", SMALL, 1, seed=2)
    few = {
        "split": PARAMS.split.model_copy(update={"folds": 2}),
        "lesion_bank": PARAMS.lesion_bank.model_copy(update={"lesions": 4}),
    }
    create_workspace(folder, PARAMS.model_copy(update=few), "locked")
    return folder


def test_scans_are_as_asked_for_and_other_seeds_give_others(workspace):
    site, locked = (find_scans(workspace / "data/raw" / name) for name in ("site", "locked"))
    assert len(site) == len(locked) == 4
    assert sum(a.is_cmb for s in site for a in s.annotations) == 4
    assert {a.centre_mm for s in site for a in s.annotations}.isdisjoint(a.centre_mm for s in locked for a in s.annotations)


def test_each_stage_is_told_of_when_it_is_done(workspace):
    for n, (stage, seconds) in enumerate(run_stages(workspace, ("ingest", "split"))):
        assert stage == ("ingest", "split")[n] and seconds > 0
        assert (workspace / f"data/{('index', 'split')[n]}.json").is_file()
    split = read_json(workspace / "data/split.json")
    assert set(split["folds"].values()) == {0, 1} and len(split["locked"]) == 4


def test_stages_run_again_over_what_they_wrote_before(workspace):
    stages = ("ingest", "split", "initialise", "preprocess")
    for _ in range(2):
        assert [stage for stage, _ in run_stages(workspace, stages)] == list(stages)


def test_a_stage_that_fails_is_named(tmp_path):
    create_workspace(tmp_path, PARAMS, "locked")
    with pytest.raises(InputError, match="stage ingest: expected exit code 0, got 2"):
        list(run_stages(tmp_path, ("ingest",)))


def test_pruned_trials_are_counted(tmp_path):
    rows = [{"state": "COMPLETE"}, {"state": "PRUNED"}, {"state": "PRUNED"}]
    for name in ("unet", "cnn"):
        found = {"settings": {}, "trial": 0, "best_value": 0.5, "study": "x", "trials": rows}
        write_json(tmp_path / f"models/tuned/{name}.json", found)
    assert full_run.tuned(tmp_path)["cnn"] == {"settings": {}, "trial": 0, "best_value": 0.5, "trials": 3, "pruned": 2}


def test_the_evaluation_on_the_held_out_scans_is_logged(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(exposure, "EXPOSURE_LOG", tmp_path / "exposure.jsonl")
    list(run_stages(workspace, ("ingest", "split")))
    make_bundle(workspace / "models/bundle")
    write_json(workspace / "reports/cross_validate/metrics.json", dict.fromkeys(full_run.REPORTED, 0.5))
    found = full_run.judge(workspace, PARAMS)
    (entry,) = read_entries(exposure.EXPOSURE_LOG)
    scans = read_json(workspace / "data/index.json")["scans"]
    assert entry["scans"] == sorted(s["sha256"] for s in scans if s["dataset"] == "locked")
    assert entry["figures"]["n_lesions"] == found["locked"]["n_lesions"] == 4
    assert found["out_of_fold"]["sensitivity"] == 0.5

"""A stale output must be impossible: dvc.yaml names all code, parameters and files that each stage uses."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from cmb_models.config.params import Params, load_params
from tests.support.imports import ROOT, closure

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
TRAINING = ("tune_unet", "detect_candidates", "tune_cnn", "cross_validate", "calibrate", "train")
ORDER = ("ingest", "split", "initialise", "preprocess", *TRAINING, "export", "evaluate", "report")
LOGGING = ("cmb_models/registry",)  # logs what a stage did and changes none of its outputs


def parameters(stage: str) -> list[str]:
    """The sections of params.yaml that a stage lists."""
    return [p for p in STAGES[stage].get("params", []) if isinstance(p, str)]


def sections_used(stage: str) -> set[str]:
    """Sections of params.yaml read as `params.<section>` by the stage's main function or any library function it reaches."""
    functions: dict[str, list[ast.AST]] = {}
    for file in closure(ROOT / f"pipelines/{stage}.py", LOGGING):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                functions.setdefault(node.name, []).append(node)
    main = ast.parse((ROOT / f"pipelines/{stage}.py").read_text(encoding="utf-8"))
    todo, seen, used = [main], set(), set()
    while todo:
        for node in ast.walk(todo.pop()):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params":
                used.add(node.attr)
            if isinstance(node, ast.Name) and node.id in functions and node.id not in seen:
                seen.add(node.id)
                todo += functions[node.id]
    return used & set(Params.model_fields)


def test_every_stage_is_there_with_a_file_of_its_name():
    assert tuple(STAGES) == ORDER
    for stage, entry in STAGES.items():
        assert entry["cmd"] == f"python -m pipelines.{stage}"
        assert (ROOT / f"pipelines/{stage}.py").is_file()
        assert entry["desc"]
    assert {p.stem for p in (ROOT / "pipelines").glob("*.py")} == set(ORDER), "a pipeline file without a stage"


@pytest.mark.parametrize("stage", ORDER)
def test_stage_depends_on_the_hash_of_its_code(stage):
    assert {"code.lock": [f"stages.{stage}"]} in STAGES[stage]["params"]


@pytest.mark.parametrize("stage", ORDER)
def test_stage_lists_the_parameters_it_uses(stage):
    assert set(parameters(stage)) == sections_used(stage)


def test_files_come_from_stages_or_from_the_site():
    made = [next(iter(o)) if isinstance(o, dict) else o for s in STAGES.values() for o in [*s["outs"], *s.get("metrics", [])]]
    assert len(made) == len(set(made)), "two stages write one file"
    for stage, entry in STAGES.items():
        for dep in entry["deps"]:
            assert dep in ("data/raw", *made), f"{stage} reads {dep}, which no stage writes"


def test_locked_scans_reach_no_training_stage():
    """data/raw holds the locked scans; only checking, reading the training scans, the final evaluation and the pictures of its
    report may open it."""
    readers = {stage for stage, entry in STAGES.items() if "data/raw" in entry["deps"]}
    assert readers == {"ingest", "preprocess", "evaluate", "report"}


def test_metrics_stay_in_git():
    for stage, entry in STAGES.items():
        for metric in entry.get("metrics", []):
            assert metric == {f"reports/{stage}/metrics.json": {"cache": False}}


def test_shipped_params_are_valid():
    params = load_params(Path(ROOT / "params.yaml"))
    assert params.split.folds == 3
    assert set(yaml.safe_load((ROOT / "params.yaml").read_text())) == set(Params.model_fields)

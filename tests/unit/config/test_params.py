"""params.yaml: unknown keys and impossible values are refused by name, all at once."""

from pathlib import Path

import pytest
import yaml

from cmb_models.config.params import load_params
from cmb_models.errors import InputError
from tests.support.refused import refused

PARAMS = Path(__file__).parents[3] / "params.yaml"


def load_changed(tmp_path, **changes):
    """params.yaml with some values replaced; `a__b=1` sets key b of section a, None drops it."""
    raw = yaml.safe_load(PARAMS.read_text())
    for dotted, value in changes.items():
        *way, last = dotted.split("__")
        section = raw
        for key in way:
            section = section[key]
        if value is None:
            del section[last]
        else:
            section[last] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    return load_params(tmp_path / "params.yaml")


def test_the_repositorys_own_file_is_valid():
    params = load_params(PARAMS)
    assert params.cnn.patch_vox and params.split.folds >= 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, "colour is not a known key"),
        ({"unet__stepps": 3}, "unet.stepps is not a known key"),
        ({"tune_unet__search__momentum": [0.1, 0.9]}, "tune_unet.search.momentum is not a known key"),
        ({"gate": None}, "gate is missing"),
        ({"cnn__dropout": 1.0}, "cnn.dropout: .*less than 1 .got 1.0"),
        ({"split__folds": 1}, "split.folds: .*2 .got 1"),
        ({"unet__learning_rate": float("nan")}, "unet.learning_rate: "),
        ({"preprocess__clip": float("inf")}, "preprocess.clip: "),
        ({"preprocess__spacing_mm": [1, 1, 0]}, "preprocess.spacing_mm.2: .*greater than 0 .got 0"),
        ({"preprocess__spacing_mm": [1, 1]}, "preprocess.spacing_mm"),
        ({"unet__steps": "many"}, "unet.steps: .*got 'many'"),
        ({"unet__strides": [2, 2, 1]}, "unet.strides must be 3 numbers, as unet.channels has, the first 1; they are .2, 2"),
        ({"unet__patch_vox": [50, 48, 24]}, "unet.patch_vox must be multiples of 4"),
        ({"preprocess__multiple_vox": [4, 4, 2]}, "preprocess.multiple_vox must be multiples of 4"),
        ({"tune_cnn__search__dropout": [0.3, 0.5]}, "tune_cnn.search.dropout must hold cnn.dropout, where the search begins"),
        ({"tune_unet__search": {}}, "tune_unet.search must name at least one setting"),
        ({"cross_validate__nested": "perhaps"}, "cross_validate.nested: .*got 'perhaps'"),
        ({"tune_cnn__search__dropout": [0.5, 0.1]}, "tune_cnn.search.dropout: the first value must not be above the second"),
        (
            {"unet__frozen_levels": 1, "train__init_from": "random"},
            "unet.frozen_levels must be 0 with train.init_from: random; it is 1",
        ),
        (
            {"cnn__frozen_levels": 1, "train__init_from": "random"},
            "cnn.frozen_levels must be 0 with train.init_from: random; it is 1",
        ),
        (
            {"tune_unet__search__frozen_levels": [0, 1], "train__init_from": "random"},
            "tune_unet.search.frozen_levels must be 0 with train.init_from: random",
        ),
        ({"unet__frozen_levels": 4, "train__init_from": "base"}, "unet.frozen_levels must be at most 3, .*; it is 4"),
        ({"cnn__frozen_levels": 4, "train__init_from": "base"}, "cnn.frozen_levels must be at most 3, .*; it is 4"),
        (
            {"tune_cnn__search__frozen_levels": [0, 4], "train__init_from": "base"},
            "tune_cnn.search.frozen_levels must be at most 3",
        ),
        ({"unet__frozen_levels": -1}, "unet.frozen_levels: .*got -1"),
        ({"tune_unet__search__frozen_levels": [0, 0.5], "train__init_from": "base"}, "tune_unet.search.frozen_levels.1: .*got 0.5"),
        (
            {"unet__frozen_levels": 1, "tune_unet__search__frozen_levels": [2, 3], "train__init_from": "base"},
            "tune_unet.search.frozen_levels must hold unet.frozen_levels",
        ),
    ],
)
def test_impossible_settings_are_named(tmp_path, changes, words):
    with refused("params-invalid", got=words) as raised:
        load_changed(tmp_path, **changes)
    assert raised.value.case == str(tmp_path / "params.yaml")


def test_all_faults_at_once(tmp_path):
    with pytest.raises(InputError) as raised:
        load_changed(tmp_path, colour="red", gate=None, split__folds=0, cnn__batch=1)
    assert all(word in raised.value.got for word in ("colour", "gate", "split.folds", "cnn.batch"))


@pytest.mark.parametrize(
    ("text", "code", "got"),
    [("a: [", "params-not-yaml", "line 1"), ("", "params-invalid", "unet is missing"), ("- 1", "params-invalid", r"\[1\]")],
)
def test_files_that_are_no_params(tmp_path, text, code, got):
    (tmp_path / "params.yaml").write_text(text)
    with refused(code, case="params.yaml", got=got):
        load_params(tmp_path / "params.yaml")


def test_no_file(tmp_path):
    with refused("file-not-found"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("train", "seed", -1), ("export", "golden_seed", -3), ("unet", "steps", 2)],
)
def test_values_that_would_fail_hours_later_are_refused_at_load(tmp_path, section, key, value):
    raw = yaml.safe_load(PARAMS.read_text())
    raw[section][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    with refused("params-invalid", got=f"{section}.{key}: .*{value}"):
        load_params(tmp_path / "params.yaml")


def test_search_ranges_stay_where_the_recipe_may_go(tmp_path):
    raw = yaml.safe_load(PARAMS.read_text())
    raw["tune_cnn"]["search"]["dropout"] = [0.1, 1.5]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    with refused("params-invalid"):
        load_params(tmp_path / "params.yaml")


def test_a_setting_can_be_left_out_of_the_search(tmp_path):
    params = load_changed(tmp_path, tune_cnn__search={"dropout": [0.1, 0.4]})
    assert params.tune_cnn.search.model_dump(exclude_none=True) == {"dropout": (0.1, 0.4)}


@pytest.mark.parametrize("init_from", ["base", "production", "7", "../theirs"])
def test_levels_may_be_frozen_where_training_starts_from_a_release(tmp_path, init_from):
    search = {"learning_rate": [0.001, 0.01], "frozen_levels": [0, 3]}
    changes = {"unet__frozen_levels": 3, "cnn__frozen_levels": 2, "train__init_from": init_from}
    params = load_changed(tmp_path, **changes, tune_unet__search=search)
    assert (params.unet.frozen_levels, params.cnn.frozen_levels) == (3, 2)
    assert params.tune_unet.search.frozen_levels == (0, 3)

"""The configurations written for Triton fit the wire contract, one another and the networks: no server needed to see it."""

from __future__ import annotations

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cmb_models.client.contract import DETECTOR, OUTPUTS, STEPS, inputs_of
from cmb_models.release.bundle import load_bundle
from cmb_models.serving.triton.repository import (
    CHALLENGER,
    ONNX_FILES,
    PREVIOUS,
    PROBE,
    TYPES,
    ensemble_config,
    pin_of,
    remove_versions,
    step_configs,
    write_configs,
    write_release,
)
from cmb_models.serving.triton.step import PROBE_INPUT, ROLE_INPUTS, model_of
from tests.support.bundles import make_bundle

ROLE_NAMES = {t.name for t in (*ROLE_INPUTS.values(), PROBE_INPUT)}  # optional: by one of them a step knows the ensemble that calls


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {phase: load_bundle(make_bundle(folder / str(phase), phase=phase)) for phase in (False, True)}


@pytest.fixture(scope="module")
def repository(bundles, tmp_path_factory):
    """Release 1 without phase and 2 with it, as three ensembles."""
    folder = tmp_path_factory.mktemp("configs") / "repository"
    for phase, bundle in bundles.items():
        write_release(folder, bundle, 1 + phase)
    write_configs(
        folder, {DETECTOR: pin_of(1, bundles[False]), PREVIOUS: pin_of(2, bundles[True]), CHALLENGER: pin_of(2, bundles[True])}
    )
    return folder


def fits(given, taken) -> bool:
    """Whether a tensor of type and dims `given` may go where `taken` is expected; -1 stands for any extent."""
    pairs = list(zip(given[1], taken[1], strict=False))
    return given[0] == taken[0] and len(given[1]) == len(taken[1]) and all(-1 in pair or pair[0] == pair[1] for pair in pairs)


def tensors(listed) -> dict[str, tuple[str, list[int]]]:
    return {t["name"]: (t["data_type"], t["dims"]) for t in listed}


@pytest.mark.parametrize("phase", [False, True], ids=["SWI", "SWI and phase"])
def test_every_step_gets_what_it_wants_and_the_ensemble_gives_the_contract(repository, bundles, phase):
    steps, ensemble = step_configs(repository, [1, 2]), ensemble_config(DETECTOR, 1 + phase, bundles[phase])
    assert tensors(ensemble["input"]) == {t.name: (TYPES[t.dtype], list(t.shape)) for t in inputs_of(phase)}
    assert tensors(ensemble["output"]) == {t.name: (TYPES[t.dtype], list(t.shape)) for t in OUTPUTS}
    known = tensors(ensemble["input"])
    for step, joined in zip(STEPS, ensemble["ensemble_scheduling"]["step"], strict=True):
        config = steps[joined["model_name"]]
        assert joined["model_name"] == model_of(step, phase) and joined["model_version"] == 1 + phase
        assert set(joined["input_map"]) == set(tensors(config["input"])) - ROLE_NAMES
        assert set(joined["output_map"]) == set(tensors(config["output"]))
        for own, name in joined["input_map"].items():
            assert fits(known[name], tensors(config["input"])[own]), (step, name)
        given = {name: tensors(config["output"])[own] for own, name in joined["output_map"].items()}
        assert not set(given) & set(known), "a tensor is written twice"
        known |= given
    for name, tensor in tensors(ensemble["output"]).items():
        assert fits(known[name], tensor), name


@pytest.mark.parametrize("name", [DETECTOR, CHALLENGER, PREVIOUS, PROBE])
def test_each_ensemble_says_which_it_is(bundles, name):
    first = ensemble_config(name, 1, bundles[False])["ensemble_scheduling"]["step"][0]["input_map"]
    report = {DETECTOR: set(), CHALLENGER: {ROLE_INPUTS[CHALLENGER].name}}.get(name, {PROBE_INPUT.name})
    assert set(first) & ROLE_NAMES == report


@pytest.mark.parametrize("phase", [False, True], ids=["SWI", "SWI and phase"])
def test_networks_have_the_inputs_and_outputs_of_their_configuration(repository, bundles, phase):
    for step, file in ONNX_FILES.items():
        graph, config = onnx.load(bundles[phase].path / file).graph, step_configs(repository, [1 + phase])[model_of(step, phase)]
        for listed, there in ((config["input"], graph.input), (config["output"], graph.output)):
            assert [t["name"] for t in listed] == [t.name for t in there]
            for tensor, own in zip(listed, there, strict=True):
                dims = [d.dim_value if d.HasField("dim_value") else -1 for d in own.type.tensor_type.shape.dim]
                assert tensor["data_type"] == "TYPE_FP32" and own.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
                assert tensor["dims"] == dims, (step, tensor["name"])


def test_written_configurations_are_the_ones_that_are_loaded(repository, bundles):
    expected = step_configs(repository, [1, 2])
    expected[DETECTOR] = ensemble_config(DETECTOR, 1, bundles[False])
    expected |= {name: ensemble_config(name, 2, bundles[True]) for name in (PREVIOUS, CHALLENGER)}
    folders = {p.name for p in repository.iterdir()}
    assert folders == set(expected)
    for name, config in expected.items():
        file = text_format.Parse((repository / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert (file.name, file.max_batch_size) == (name, 0)
        assert list(file.version_policy.specific.versions) == config["version_policy"]["specific"]["versions"]
        assert sorted(p.name for p in (repository / name).iterdir() if p.is_dir()) == [
            str(v) for v in file.version_policy.specific.versions
        ]
        for kind in ("input", "output"):
            read = {t.name: (model_config_pb2.DataType.Name(t.data_type), list(t.dims)) for t in getattr(file, kind)}
            assert read == tensors(config[kind])


def test_writing_again_changes_no_file_and_older_releases_go_without_trace(bundles, tmp_path):
    for release in (1, 2):
        write_release(tmp_path, bundles[False], release)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    write_release(tmp_path, bundles[False], 2)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    (tmp_path / "cmb_unet" / ".partial-3-x").mkdir()
    (tmp_path / "cmb_unet" / ".partial-y-config.pbtxt").touch()
    write_release(tmp_path, bundles[True], 3)
    remove_versions(tmp_path, {2})
    assert {p.name for p in tmp_path.rglob("*") if p.is_dir()} == {*STEPS, "2"}
    assert not list(tmp_path.rglob(".partial-*"))


def test_other_code_or_patch_size_makes_another_pin(bundles):
    one, other = pin_of(1, bundles[False]), pin_of(1, bundles[True])
    assert one == pin_of(1, bundles[False]) and one.steps_sha256 != other.steps_sha256
    assert pin_of(2, bundles[False]).steps_sha256 == one.steps_sha256

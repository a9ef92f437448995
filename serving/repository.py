"""The Triton model repository: configurations made from the contract, and version folders written from a bundle.

A version folder's number is the release's number. Every model has one configuration for all its resident versions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cmb_models.bundle import CNN_FILE, PIPELINE_FILE, UNET_FILE, Bundle
from cmb_models.client.contract import AFFINE, CANDIDATES, CNN, DECIDE, DETECTOR, OUTPUTS, PREPARE, STEPS, UNET, Tensor, inputs_of
from cmb_models.config import PipelineConfig
from cmb_models.files import read_json, replacing_folder, write_json, write_text
from serving.model_repository.step import (
    MODELS,
    PATCHES,
    PROBE_INPUT,
    RELEASE_FILE,
    RENAMED,
    ROLE_INPUTS,
    TRACE,
    TRACE_FOUND,
    flow,
    model_of,
    role_input,
)

PROBE = "cmb_probe"  # the same ensemble, pinned to a release that is tried out before the detector is switched to it
ONNX_FILES = {UNET: UNET_FILE, CNN: CNN_FILE}
PYTHON_STEPS = (PREPARE, CANDIDATES, DECIDE)
SOURCES = Path(__file__).parent / "model_repository"
TYPES = {
    np.float32: "TYPE_FP32",
    np.float64: "TYPE_FP64",
    np.int32: "TYPE_INT32",
    np.int64: "TYPE_INT64",
    np.object_: "TYPE_STRING",
}


def step_configs(repository: Path, versions: Iterable[int]) -> dict[str, dict]:
    """Configurations of the models that run steps, by name, with `versions` resident, whose folders are written."""
    settings = {v: PipelineConfig.model_validate(read_json(repository / DECIDE / str(v) / PIPELINE_FILE)) for v in sorted(versions)}
    configs = {}
    for uses_phase in (False, True):
        own = {v: s for v, s in settings.items() if s.preprocess.phase == uses_phase}
        for step, (inputs, outputs) in flow(uses_phase).items() if own else ():
            model, renamed = model_of(step, uses_phase), RENAMED.get(step, {})
            shared = model == model_of(step, not uses_phase)
            configs[model] = {
                "name": model,
                "backend": "onnxruntime" if step in ONNX_FILES else "python",
                "max_batch_size": 0,  # above 0, an ensemble fails on zero candidates
                "version_policy": {"specific": {"versions": list(settings if shared else own)}},
                "input": [_input(t, renamed, _common_patch(own.values())) for t in inputs] + _role_inputs(step),
                "output": [_tensor(t, renamed, _common_patch(own.values())) for t in outputs],
                "instance_group": [{"kind": "KIND_AUTO", "count": 1}],
            }
    return configs


def ensemble_config(name: str, release: int, bundle: Bundle) -> dict:
    """Configuration of an ensemble whose every step is pinned to one release; its parameters say which."""
    steps, uses_phase = [], bundle.config.preprocess.phase
    for step, (inputs, outputs) in flow(uses_phase).items():
        own = RENAMED.get(step, {})
        steps.append(
            {
                "model_name": model_of(step, uses_phase),
                "model_version": release,
                "input_map": {own.get(t.name, t.name): t.name for t in inputs},
                "output_map": {own.get(t.name, t.name): t.name for t in outputs},
            }
        )
    if role := role_input(name):
        steps[0]["input_map"][role.name] = AFFINE.name
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [release]}},
        "input": [_tensor(t) for t in inputs_of(uses_phase)],
        "output": [_tensor(t) for t in OUTPUTS],
        "ensemble_scheduling": {"step": steps},
        "parameters": {"release": {"string_value": str(release)}, "manifest_sha256": {"string_value": bundle.manifest_sha256}},
    }


def _role_inputs(step: str) -> list[dict]:
    """What the first step may be given besides, by which it knows the ensemble that calls."""
    return [_tensor(t) | {"optional": True} for t in (*ROLE_INPUTS.values(), PROBE_INPUT)] if step == PREPARE else []


def _tensor(tensor: Tensor, own: dict[str, str] | None = None, patch_vox: Sequence[int] = ()) -> dict:
    shape = (*tensor.shape[:2], *patch_vox) if tensor.name == PATCHES.name and patch_vox else tensor.shape
    return {"name": (own or {}).get(tensor.name, tensor.name), "data_type": TYPES[tensor.dtype], "dims": list(shape)}


def _input(tensor: Tensor, own: dict[str, str], patch_vox: Sequence[int]) -> dict:
    """The same of a step's input. Ensembles of releases that were deployed before there were traces lead none to it, and go on."""
    return _tensor(tensor, own, patch_vox) | ({"optional": True} if tensor in (TRACE, TRACE_FOUND) else {})


def _common_patch(settings: Iterable[PipelineConfig]) -> tuple[int, ...]:
    """Stage 2's patch size, -1 along axes where the resident releases differ.

    ONNX Runtime's own backend wants a fixed axis of the graph fixed here too, so -1 is written only where it must be.
    """
    return tuple(axis[0] if len(set(axis)) == 1 else -1 for axis in zip(*(s.patch_vox for s in settings), strict=True))


def write_release(repository: Path, bundle: Bundle, release: int) -> None:
    """Write the version folders of one release, each whole or absent. A folder of the same number is replaced."""
    identity = {"release": release, "manifest_sha256": bundle.manifest_sha256}
    folders = {step: repository / model_of(step, bundle.config.preprocess.phase) / str(release) for step in STEPS}
    for step in PYTHON_STEPS:
        with replacing_folder(folders[step]) as folder:
            shutil.copyfile(SOURCES / step / "model.py", folder / "model.py")
            for shared in SOURCES.glob("*.py"):
                shutil.copyfile(shared, folder / shared.name)
            shutil.copyfile(bundle.path / PIPELINE_FILE, folder / PIPELINE_FILE)
            write_json(folder / RELEASE_FILE, identity)
            # A file where Python would keep its bytecode: else the folder changes after loading, and Triton loads it a second time.
            (folder / "__pycache__").touch()
    for step, file in ONNX_FILES.items():
        with replacing_folder(folders[step]) as folder:
            shutil.copyfile(bundle.path / file, folder / "model.onnx")
    for ensemble in (DETECTOR, PROBE):
        (repository / ensemble / str(release)).mkdir(parents=True, exist_ok=True)


def write_config(repository: Path, config: dict) -> None:
    """Write a model's config.pbtxt, for servers that load the repository without being told a configuration."""
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    message = json_format.ParseDict(config, model_config_pb2.ModelConfig())
    write_text(repository / config["name"] / "config.pbtxt", text_format.MessageToString(message))


def remove_versions(repository: Path, keep: Iterable[int]) -> None:
    """Remove the version folders of all releases but `keep`, and models that only releases of the other kind would run."""
    keep = {str(v) for v in keep}
    for model in (*MODELS, DETECTOR, PROBE):
        there = {folder.name: folder for folder in (repository / model).glob("[0-9]*")}
        for folder in (there[name] for name in there.keys() - keep):
            shutil.rmtree(folder)
        if model in MODELS and not there.keys() & keep:
            shutil.rmtree(repository / model, ignore_errors=True)

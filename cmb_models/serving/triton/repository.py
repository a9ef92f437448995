"""The Triton model repository: configurations generated from the contract, and version folders written from a bundle.

A version folder is numbered by its release. Every model has one configuration for all its resident versions. Each role
(production, previous, challenger) is an ensemble pinned to one release.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.client.contract import (
    AFFINE,
    CANDIDATES,
    CHALLENGER,
    CNN,
    DECIDE,
    DETECTOR,
    OUTPUTS,
    PREPARE,
    STEPS,
    UNET,
    Tensor,
    inputs_of,
)
from cmb_models.config.params import PipelineConfig
from cmb_models.files import atomic_directory, read_json, write_text
from cmb_models.io.nifti import read_volume
from cmb_models.io.scan_id import scan_sha256
from cmb_models.release.bundle import CNN_FILE, GOLDEN_SCAN, PIPELINE_FILE, UNET_FILE, Bundle
from cmb_models.serving.triton.files import serving_files
from cmb_models.serving.triton.step import (
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

PREVIOUS = "cmb_previous"  # ensemble of the release that a rollback restores
PROBE = "cmb_probe"  # ensemble of a release under test, before another ensemble is switched to it
ROLES = {"production": DETECTOR, "previous": PREVIOUS, "challenger": CHALLENGER}  # alias in the registry -> ensemble
ENSEMBLES = (*ROLES.values(), PROBE)
ONNX_FILES = {UNET: UNET_FILE, CNN: CNN_FILE}
PYTHON_STEPS = (PREPARE, CANDIDATES, DECIDE)
SOURCES = serving_files() / "model_repository"
# Code of the steps outside model.py.
SHARED_MODULES = ("device_metric", "request_metrics", "request_reporter", "request_trace", "step")
SHARED = tuple(Path(__file__).with_name(f"{name}.py") for name in SHARED_MODULES)
TYPES: dict[type, str] = {
    np.float32: "TYPE_FP32",
    np.float64: "TYPE_FP64",
    np.int32: "TYPE_INT32",
    np.int64: "TYPE_INT64",
    np.object_: "TYPE_STRING",
}


@dataclass(frozen=True)
class Pin:
    """The release that an ensemble is pinned to. steps_sha256: of the steps' code and configuration, which vary by version."""

    release: int
    manifest_sha256: str
    steps_sha256: str = ""

    def __str__(self) -> str:
        return f"release {self.release} (manifest {self.manifest_sha256[:12]})"


def pin_of(release: int, bundle: Bundle) -> Pin:
    """The pin of a bundle served as `release` by this version's steps."""
    digest = hashlib.sha256()
    for source in (*SHARED, *(SOURCES / step / "model.py" for step in PYTHON_STEPS)):
        digest.update(source.read_bytes())
    digest.update(json.dumps(_step_configs({1: bundle.config}), sort_keys=True).encode())
    return Pin(release, bundle.manifest_sha256, digest.hexdigest())


def settings_of(repository: Path, release: int) -> PipelineConfig:
    """The settings of a release whose version folders are written."""
    return PipelineConfig.model_validate(read_json(repository / DECIDE / str(release) / PIPELINE_FILE))


def is_written(repository: Path, release: int) -> bool:
    """Whether a release has version folders here. Each is written atomically, the one checked here last."""
    return (repository / DECIDE / str(release) / PIPELINE_FILE).is_file()


def step_configs(repository: Path, versions: Iterable[int]) -> dict[str, dict]:
    """Configurations of the models that run steps, by name, for the resident `versions`, whose folders are written."""
    return _step_configs({v: settings_of(repository, v) for v in sorted(versions)})


def _step_configs(settings: Mapping[int, PipelineConfig]) -> dict[str, dict]:
    configs = {}
    for uses_phase in (False, True):
        matching = {v: s for v, s in settings.items() if s.preprocess.phase == uses_phase}
        for step, (inputs, outputs) in flow(uses_phase).items() if matching else ():
            model, renamed = model_of(step, uses_phase), RENAMED.get(step, {})
            shared = model == model_of(step, not uses_phase)
            configs[model] = {
                "name": model,
                "backend": "onnxruntime" if step in ONNX_FILES else "python",
                "max_batch_size": 0,  # with more, ensembles fail on zero candidates
                "version_policy": {"specific": {"versions": list(settings if shared else matching)}},
                "input": [_input(t, renamed, _common_patch(matching.values())) for t in inputs] + _role_inputs(step),
                "output": [_tensor(t, renamed, _common_patch(matching.values())) for t in outputs],
                # One instance on each card, or one on the CPU. A second on a card would wait for the first.
                "instance_group": [{"kind": "KIND_AUTO", "count": 1}],
            }
    return configs


def ensemble_config(name: str, release: int, bundle: Bundle) -> dict:
    """Configuration of an ensemble with all steps pinned to one release, which its parameters name."""
    return pinned_config(name, pin_of(release, bundle), bundle.config.preprocess.phase)


def pinned_config(name: str, pin: Pin, uses_phase: bool) -> dict:
    """As ensemble_config, without the bundle."""
    steps: list[dict[str, Any]] = []
    for step, (inputs, outputs) in flow(uses_phase).items():
        renamed = RENAMED.get(step, {})
        steps.append(
            {
                "model_name": model_of(step, uses_phase),
                "model_version": pin.release,
                "input_map": {renamed.get(t.name, t.name): t.name for t in inputs},
                "output_map": {renamed.get(t.name, t.name): t.name for t in outputs},
            }
        )
    if role := role_input(name):
        steps[0]["input_map"][role.name] = AFFINE.name
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [pin.release]}},
        "input": [_tensor(t) for t in inputs_of(uses_phase)],
        "output": [_tensor(t) for t in OUTPUTS],
        "ensemble_scheduling": {"step": steps},
        "parameters": {
            "release": {"string_value": str(pin.release)},
            "manifest_sha256": {"string_value": pin.manifest_sha256},
            "steps_sha256": {"string_value": pin.steps_sha256},
        },
    }


def _role_inputs(step: str) -> list[dict]:
    """Optional inputs of the first step that identify the calling ensemble."""
    return [_tensor(t) | {"optional": True} for t in (*ROLE_INPUTS.values(), PROBE_INPUT)] if step == PREPARE else []


def _tensor(tensor: Tensor, renamed: dict[str, str] | None = None, patch_vox: Sequence[int] = ()) -> dict:
    shape = (*tensor.shape[:2], *patch_vox) if tensor.name == PATCHES.name and patch_vox else tensor.shape
    return {"name": (renamed or {}).get(tensor.name, tensor.name), "data_type": TYPES[tensor.dtype], "dims": list(shape)}


def _input(tensor: Tensor, renamed: dict[str, str], patch_vox: Sequence[int]) -> dict:
    """As _tensor for an input. Traces are optional, for ensembles deployed by earlier versions without them."""
    return _tensor(tensor, renamed, patch_vox) | ({"optional": True} if tensor in (TRACE, TRACE_FOUND) else {})


def _common_patch(settings: Iterable[PipelineConfig]) -> tuple[int, ...]:
    """Stage 2's patch size, with -1 only along axes on which the resident releases differ.

    ONNX Runtime's backend requires an axis that is fixed in the graph to be fixed here too.
    """
    return tuple(axis[0] if len(set(axis)) == 1 else -1 for axis in zip(*(s.patch_vox for s in settings), strict=True))


def write_release(repository: Path, bundle: Bundle, release: int) -> None:
    """Write the version folders of a release, each atomically; one with the same content is left alone.

    A server reloads a version whose folder has changed on the next load of the model.
    """
    repository = Path(repository)
    folders = {step: repository / model_of(step, bundle.config.preprocess.phase) / str(release) for step in STEPS}
    for step, folder in folders.items():
        content = _content(step, bundle, release)
        if not _holds(folder, content):
            with atomic_directory(folder) as temporary:
                for name, data in content.items():
                    (temporary / name).write_bytes(data)


def write_ensemble(repository: Path, name: str, release: int) -> None:
    """Write an ensemble's version folder with a file in it, since object stores keep no empty folder."""
    folder = repository / name / str(release)
    if not (folder / RELEASE_FILE).is_file():
        with atomic_directory(folder) as temporary:
            write_text(temporary / RELEASE_FILE, json.dumps({"release": release}))


def _content(step: str, bundle: Bundle, release: int) -> dict[str, bytes]:
    """The files of a step's version folder."""
    if step in ONNX_FILES:
        return {"model.onnx": (bundle.path / ONNX_FILES[step]).read_bytes()}
    return {
        "model.py": (SOURCES / step / "model.py").read_bytes(),
        PIPELINE_FILE: (bundle.path / PIPELINE_FILE).read_bytes(),
        RELEASE_FILE: _identity(bundle, release),
        # Blocks Python's bytecode folder, which would change the folder after loading, so that Triton reloads it.
        "__pycache__": b"",
    }


def _identity(bundle: Bundle, release: int) -> bytes:
    scan = read_volume(bundle.path / GOLDEN_SCAN)
    golden = {"shape": list(scan.data.shape), "sha256": scan_sha256(scan)}  # no patient's scan: deployments send it
    return json.dumps({"release": release, "manifest_sha256": bundle.manifest_sha256, "golden": golden}, indent=2).encode()


def _holds(folder: Path, content: Mapping[str, bytes]) -> bool:
    """Whether a folder has exactly these files."""
    try:
        return {p.name for p in folder.iterdir()} == set(content) and all(
            (folder / name).read_bytes() == data for name, data in content.items()
        )
    except OSError:
        return False


def touch_step(repository: Path, model: str, release: int) -> None:
    """Make a server restart a step of a release on the next load, whatever its state."""
    for file in (repository / model / str(release)).glob("model.*"):
        file.touch()


def write_config(repository: Path, config: dict) -> None:
    """Write a model's config.pbtxt, for servers that load the repository without explicit configurations."""
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    message = json_format.ParseDict(config, model_config_pb2.ModelConfig())
    file, text = repository / config["name"] / "config.pbtxt", text_format.MessageToString(message)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)


def write_configs(repository: Path, pins: Mapping[str, Pin]) -> None:
    """Write the configuration of every model for these ensembles, and remove models that they do not use."""
    configs = step_configs(repository, {pin.release for pin in pins.values()})
    for name, pin in pins.items():
        write_ensemble(repository, name, pin.release)
        for folder in (p for p in (repository / name).iterdir() if p.is_dir() and p.name != str(pin.release)):
            shutil.rmtree(folder)
        configs[name] = pinned_config(name, pin, settings_of(repository, pin.release).preprocess.phase)
    for config in configs.values():
        write_config(repository, config)
    for model in (*MODELS, *ENSEMBLES):
        if model not in configs and (repository / model).is_dir():
            shutil.rmtree(repository / model)


def remove_versions(repository: Path, keep: Iterable[int]) -> None:
    """Remove the version folders of all releases but `keep`, partial files of interrupted deployments, and empty models."""
    kept_names = {str(v) for v in keep}
    for model in (*MODELS, *ENSEMBLES):
        folders = {p for p in (repository / model).glob("*") if p.is_dir()}
        removed = {p for p in folders if p.name not in kept_names}
        for folder in removed:
            shutil.rmtree(folder)
        for file in (repository / model).glob(".partial-*"):
            file.unlink()
        if model in MODELS and removed == folders:
            shutil.rmtree(repository / model, ignore_errors=True)

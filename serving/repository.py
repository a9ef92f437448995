"""The Triton model repository: configurations made from the contract, and version folders written from a bundle.

A version folder's number is the release's number. Every model has one configuration for all its resident versions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cmb_models.bundle import CNN_FILE, PIPELINE_FILE, UNET_FILE, Bundle
from cmb_models.client.contract import CANDIDATES, CNN, DECIDE, DETECTOR, INPUTS, OUTPUTS, PREPARE, UNET, Tensor
from cmb_models.config import PipelineConfig
from cmb_models.files import read_json, replacing_folder, write_json, write_text
from serving.model_repository.step import FLOW, PATCHES, RELEASE_FILE, RENAMED

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
    """Configurations of the five steps by name, with `versions` resident, whose folders are written."""
    versions = sorted(versions)
    patch_vox = _common_patch(repository, versions)
    configs = {}
    for step, (inputs, outputs) in FLOW.items():
        own = RENAMED.get(step, {})
        configs[step] = {
            "name": step,
            "backend": "onnxruntime" if step in ONNX_FILES else "python",
            "max_batch_size": 0,  # above 0, an ensemble fails on zero candidates
            "version_policy": {"specific": {"versions": versions}},
            "input": [_tensor(t, own, patch_vox) for t in inputs],
            "output": [_tensor(t, own, patch_vox) for t in outputs],
            "instance_group": [{"kind": "KIND_AUTO", "count": 1}],
        }
    return configs


def ensemble_config(name: str, release: int, manifest_sha256: str) -> dict:
    """Configuration of an ensemble whose every step is pinned to one release; its parameters say which."""
    steps = []
    for step, (inputs, outputs) in FLOW.items():
        own = RENAMED.get(step, {})
        steps.append(
            {
                "model_name": step,
                "model_version": release,
                "input_map": {own.get(t.name, t.name): t.name for t in inputs},
                "output_map": {own.get(t.name, t.name): t.name for t in outputs},
            }
        )
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [release]}},
        "input": [_tensor(t) for t in INPUTS],
        "output": [_tensor(t) for t in OUTPUTS],
        "ensemble_scheduling": {"step": steps},
        "parameters": {"release": {"string_value": str(release)}, "manifest_sha256": {"string_value": manifest_sha256}},
    }


def _tensor(tensor: Tensor, own: dict[str, str] | None = None, patch_vox: Sequence[int] = ()) -> dict:
    shape = (*tensor.shape[:2], *patch_vox) if tensor is PATCHES and patch_vox else tensor.shape
    return {"name": (own or {}).get(tensor.name, tensor.name), "data_type": TYPES[tensor.dtype], "dims": list(shape)}


def _common_patch(repository: Path, versions: Sequence[int]) -> tuple[int, ...]:
    """Stage 2's patch size, -1 along axes where the resident releases differ.

    ONNX Runtime's own backend wants a fixed axis of the graph fixed here too, so -1 is written only where it must be.
    """
    files = [repository / CANDIDATES / str(v) / PIPELINE_FILE for v in versions]
    sizes = [PipelineConfig.model_validate(read_json(f)).patch_vox for f in files]
    return tuple(axis[0] if len(set(axis)) == 1 else -1 for axis in zip(*sizes, strict=True))


def write_release(repository: Path, bundle: Bundle, release: int) -> None:
    """Write the version folders of one release, each whole or absent. A folder of the same number is replaced."""
    identity = {"release": release, "manifest_sha256": bundle.manifest_sha256}
    for step in PYTHON_STEPS:
        with replacing_folder(repository / step / str(release)) as folder:
            shutil.copyfile(SOURCES / step / "model.py", folder / "model.py")
            shutil.copyfile(SOURCES / "step.py", folder / "step.py")
            shutil.copyfile(bundle.path / PIPELINE_FILE, folder / PIPELINE_FILE)
            write_json(folder / RELEASE_FILE, identity)
            # A file where Python would keep its bytecode: else the folder changes after loading, and Triton loads it a second time.
            (folder / "__pycache__").touch()
    for step, file in ONNX_FILES.items():
        with replacing_folder(repository / step / str(release)) as folder:
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
    """Remove the version folders of all releases but `keep`."""
    keep = {str(v) for v in keep}
    for model in (*FLOW, DETECTOR, PROBE):
        for folder in (repository / model).glob("[0-9]*"):
            if folder.name not in keep:
                shutil.rmtree(folder)

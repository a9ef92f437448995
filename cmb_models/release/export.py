"""Export of the networks to ONNX and of the bundle's other files."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from cmb_models.config.params import Export, PipelineConfig
from cmb_models.dataset.statistics import Reference
from cmb_models.detect.detector import detect
from cmb_models.detect.line_filters import CHANNELS
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.files import read_json, sha256_of, write_json, write_text
from cmb_models.hash_chain import canonical_sha256
from cmb_models.io.nifti import write_volume
from cmb_models.networks.cnn import PatchClassifier, Score
from cmb_models.networks.line_filters_onnx import prepend_spots
from cmb_models.networks.unet import Heatmap
from cmb_models.phantom import golden_scan
from cmb_models.release import bundle
from cmb_models.release.metadata import metadata
from cmb_models.release.model_card import model_card
from cmb_models.runtime.cpu import SPOTS, open_onnx
from cmb_models.runtime.torch import as_callable
from cmb_models.training.initial import write_state

BATCHES = (1, 16, 60)  # candidates of a scan: the blank patch of one without any, a usual number, the most by default
Network = Callable[[np.ndarray], np.ndarray]


def write_bundle(
    folder: Path,
    unet: nn.Sequential,
    cnn: PatchClassifier,
    config: PipelineConfig,
    settings: Export,
    inputs: dict[str, Path],
    statistics: Mapping[str, Reference] | None = None,
) -> dict[str, float]:
    """Write a bundle into an empty folder.

    Args:
        folder: The bundle's folder.
        unet: Stage 1.
        cnn: Stage 2.
        config: The release's settings.
        settings: Of the export.
        inputs: Files that lineage.json is made from (index, split, tuned_unet, tuned_cnn, recipe, calibration).
        statistics: Of the training scans (`metadata.training_statistics`); None to leave them out.

    Returns:
        The largest score difference of ONNX to torch by network.

    Raises:
        InputError: If a difference exceeds settings.parity_tolerance: the networks would not perform as evaluated.
    """
    export_networks(unet, cnn, config, folder)
    for name, network in (("unet", unet), ("cnn", cnn)):
        write_state(folder / bundle.WEIGHTS_DIR / f"{name}.npz", network.state_dict())
    write_json(folder / bundle.PIPELINE_FILE, config.model_dump(mode="json"))
    parity = _golden(folder, unet, cnn, config, settings)
    described = metadata(config, parity, read_json(inputs["index"]), read_json(inputs["split"]), statistics)
    origin = lineage(inputs)
    write_json(folder / bundle.METADATA_FILE, described)
    write_json(folder / bundle.LINEAGE_FILE, origin)
    write_text(folder / bundle.CARD_FILE, model_card(config, described, origin))
    bundle.write_manifest(folder)
    return parity


def export_networks(unet: nn.Sequential, cnn: PatchClassifier, config: PipelineConfig, folder: Path) -> None:
    """Write both networks as ONNX files into a folder, for any number of candidates and any volume of multiple_vox."""
    multiple = config.preprocess.multiple_vox
    spots = torch.randn(1, CHANNELS, *(4 * m for m in multiple))
    extents = {n + 2: torch.export.Dim(f"n{n}", min=1, max=512) * m for n, m in enumerate(multiple)}
    patches = torch.randn(3, config.patch_channels + CHANNELS - 1, *config.patch_vox)
    count = {0: torch.export.Dim("candidates", min=1, max=4096)}
    _to_onnx(Heatmap(unet[1]), spots, extents, (SPOTS, bundle.UNET_OUTPUT), folder / bundle.UNET_FILE)
    _to_onnx(Score(cnn, filtered=True), patches, count, (SPOTS, bundle.CNN_OUTPUT), folder / bundle.CNN_FILE)
    for file, name in ((bundle.UNET_FILE, bundle.UNET_INPUT), (bundle.CNN_FILE, bundle.CNN_INPUT)):
        model = onnx.load(folder / file)
        prepend_spots(model, name, SPOTS)
        onnx.save(model, folder / file)


def _to_onnx(model: nn.Module, example: torch.Tensor, dynamic: dict[int, Any], names: tuple[str, str], path: Path) -> None:
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=[names[0]],
            output_names=[names[1]],
            external_data=False,
            verbose=False,
        )
        # It is None only without `dynamo`.
        assert program is not None
        program.save(path, external_data=False)
    _drop_traces(path)


def _drop_traces(path: Path) -> None:
    """Remove source locations of nodes, by which exports from different folders would differ."""
    model = onnx.load(path)
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
    onnx.save(model, path)


def _golden(folder: Path, unet: nn.Sequential, cnn: PatchClassifier, config: PipelineConfig, settings: Export) -> dict[str, float]:
    """Write the golden scan with the exported networks' result, and compare the networks with torch."""
    scan, simulated_phase, _ = golden_scan(settings.golden_seed)
    phase = simulated_phase if config.preprocess.phase else None
    write_volume(folder / bundle.GOLDEN_SCAN, scan)
    if phase is not None:
        write_volume(folder / bundle.GOLDEN_PHASE, phase)
    onnx_unet = open_onnx(folder / bundle.UNET_FILE, bundle.UNET_INPUT, bundle.UNET_OUTPUT)
    onnx_cnn = open_onnx(folder / bundle.CNN_FILE, bundle.CNN_INPUT, bundle.CNN_OUTPUT)
    answer = detect(scan, config, onnx_unet, onnx_cnn, "golden scan", phase)
    rows = [[*d.position_mm, d.score] for d in answer.candidates]
    write_json(folder / bundle.GOLDEN_ANSWER, {"candidates": rows, "threshold": answer.threshold})
    device = torch.device("cpu")
    image = prepare(scan, config.preprocess, "golden scan", phase).image[None, None]
    parity = {
        "unet": largest_difference(as_callable(Heatmap(unet), device), onnx_unet, volumes(image, config.preprocess.multiple_vox)),
        "cnn": largest_difference(as_callable(Score(cnn), device), onnx_cnn, batches(config, settings.golden_seed)),
    }
    worst = max(parity.values())
    if not worst <= settings.parity_tolerance:
        expected = f"scores within {settings.parity_tolerance:g} of torch"
        raise InputError("export-parity", "ONNX export", expected, f"a difference of {worst:.2g}", "report this as a bug")
    return parity


def largest_difference(one: Network, other: Network, inputs: Iterable[np.ndarray]) -> float:
    """The largest difference of two networks' scores over several inputs: an exported graph may be right at one size alone."""
    return max(float(np.abs(one(array) - other(array)).max()) for array in inputs)


def volumes(image: np.ndarray, multiple_vox: Sequence[int]) -> list[np.ndarray]:
    """An image (1, 1, I, J, K), a part of it with sides of about a half, and three in a row along k. All are multiples."""
    part = tuple(slice(max(1, n // (2 * m)) * m) for n, m in zip(image.shape[2:], multiple_vox, strict=True))
    return [image, np.ascontiguousarray(image[0, 0][part])[None, None], np.concatenate([image] * 3, axis=-1)]


def batches(config: PipelineConfig, seed: int) -> list[np.ndarray]:
    """Random patches (N, C, *patch_vox) for N of BATCHES."""
    random, shape = np.random.default_rng(seed), (config.patch_channels, *config.patch_vox)
    return [random.standard_normal((n, *shape), dtype=np.float32) for n in BATCHES]


def lineage(inputs: dict[str, Path]) -> dict[str, Any]:
    """The part of lineage.json that is known at export.

    SHA-256 of every scan's file and content (and phase image, if used) as training recorded it, device and precision of the
    training, settings of both networks, the weights they started from, subjects of the calibration, the chosen trials, and the
    gate settings before training.
    `cmb release register` adds the commit and the hashes of dvc.lock and params.yaml.
    """
    index, tuned = read_json(inputs["index"]), {n: read_json(inputs[f"tuned_{n}"]) for n in ("unet", "cnn")}
    folds = read_json(inputs["split"])["folds"]
    recipe = read_json(inputs["recipe"])
    locked = [s for s in index["scans"] if s["subject"] not in folds]
    locked_phases = {s["key"]: s["phase_sha256"] for s in locked if "phase_sha256" in s}
    phases = {"training_phases": recipe["phases"]} if "phases" in recipe else {}
    gate = {"gate": recipe["gate"], "gate_sha256": canonical_sha256(recipe["gate"])} if "gate" in recipe else {}
    compute = {"compute": recipe["compute"]} if "compute" in recipe else {}
    networks = {name: recipe[name] for name in ("unet", "cnn") if name in recipe}
    initial = {"initial": recipe["initial"]} if "initial" in recipe else {}
    contents = {s["key"]: s["content_sha256"] for s in index["scans"] if "content_sha256" in s}
    return {
        "training_scans": recipe["scans"],
        "training_contents": {key: contents[key] for key in recipe["scans"] if key in contents},
        **compute,
        **({"networks": networks} if networks else {}),
        **initial,
        **phases,
        **gate,
        "calibrated_on": read_json(inputs["calibration"])["subjects"],
        "locked_scans": {s["key"]: s["sha256"] for s in locked},
        "locked_contents": {s["key"]: contents[s["key"]] for s in locked if s["key"] in contents},
        **({"locked_phases": locked_phases} if locked_phases else {}),
        "index_sha256": sha256_of(inputs["index"]),
        "split_sha256": sha256_of(inputs["split"]),
        "studies": {n: {"study": t["study"], "trial": t["trial"]} for n, t in tuned.items()},
    }

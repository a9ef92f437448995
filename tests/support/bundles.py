"""A small real bundle for tests: two ONNX networks whose weights are set by hand, so that they find dark blobs without training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy import ndimage

from cmb_models.base_release import BUNDLE, PUBLIC_KEY
from cmb_models.config.params import PipelineConfig
from cmb_models.detect.detector import detect
from cmb_models.files import read_json, write_json, write_text
from cmb_models.io.nifti import write_volume
from cmb_models.release.bundle import (
    CARD_FILE,
    CNN_FILE,
    CNN_INPUT,
    CNN_OUTPUT,
    GOLDEN_ANSWER,
    GOLDEN_PHASE,
    GOLDEN_SCAN,
    LINEAGE_FILE,
    METADATA_FILE,
    PIPELINE_FILE,
    UNET_FILE,
    UNET_INPUT,
    UNET_OUTPUT,
    BundleDetector,
    write_manifest,
)
from cmb_models.release.keys import new_keys
from cmb_models.release.signing import sign_bundle
from cmb_models.runtime.cpu import open_onnx
from cmb_models.volume import Volume, index_from_world

PATCH = (20, 20, 10)
AFFINE = np.array([[1.0, 0, 0, -40], [0, 1.0, 0, -40], [0, 0, 2.0, -32], [0, 0, 0, 1]])
BLOBS_MM = ((-10.0, -5.0, 0.0), (12.0, 8.0, -6.0), (0.0, 15.0, 8.0))  # centres of the dark spots of `head`


def settings(threshold: float = 0.99, phase: bool = False) -> PipelineConfig:
    """Pipeline settings that suit the hand-made networks."""
    grid = {"spacing_mm": [1, 1, 2], "multiple_vox": [8, 8, 8], "foreground_fraction": 0.15, "clip": 4}
    return PipelineConfig.model_validate(
        {
            "preprocess": grid | ({"phase": True} if phase else {}),  # releases made before there was phase do not say
            "candidates": {"floor": 0.2, "min_distance_mm": 4, "max_per_scan": 40},
            "patch_vox": PATCH,
            "decision": {"slope": 1.0, "intercept": 0.0, "threshold": threshold},
        }
    )


def head(blobs_mm=BLOBS_MM, affine: np.ndarray = AFFINE, shape=(80, 80, 32), seed: int = 0) -> Volume:
    """A bright ellipsoid in dark air with a dark spot of 2 mm radius at each of `blobs_mm`."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    extent = np.abs(affine[:3, :3]) @ np.array(shape)
    data = 600.0 * (((world - centre) / (0.45 * extent)) ** 2).sum(-1).__lt__(1)
    for spot in blobs_mm:
        data -= 520 * np.exp(-((world - spot) ** 2).sum(-1) / (2 * 1.5**2)) * (data > 0)
    noise = np.random.default_rng(seed).normal(0, 12, shape)
    return Volume(np.abs(data + noise).astype(np.float32), affine)


def head_phase(
    blobs_mm=BLOBS_MM, affine: np.ndarray = AFFINE, shape=(80, 80, 32), seed: int = 0, sign: int = 1, calcified: int = 0
) -> Volume:
    """Phase of `head` in thousandths of a radian, times `sign`: 1.5 radians in its spots, -1.5 in the first `calcified` of them,
    noise elsewhere, any phase in air."""
    scan, rng = head((), affine, shape, seed), np.random.default_rng(seed + 1000)
    world = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    radians = rng.normal(0, 0.1, shape)
    for n, spot in enumerate(blobs_mm):
        radians += (-1.5 if n < calcified else 1.5) * np.exp(-((world - spot) ** 2).sum(-1) / (2 * 1.5**2))
    radians = np.where(scan.data > 300, radians, rng.uniform(-np.pi, np.pi, shape))
    return Volume(np.rint(sign * 1000 * radians).astype(np.float32), affine)


MORE_MM = (*BLOBS_MM, (18.0, -14.0, 4.0), (-16.0, 12.0, -10.0))  # enough for veins: of these one may be calcified


def make_bundle(folder: Path, threshold: float = 0.99, phase: bool = False) -> Path:
    """Write a whole bundle with hand-made networks and its known answer; return the folder. phase: one whose stage 2 sees it."""
    folder = Path(folder)
    (folder / "golden").mkdir(parents=True)
    onnx.save(_unet(), folder / UNET_FILE)
    config = settings(threshold, phase)
    onnx.save(_cnn(config.patch_channels), folder / CNN_FILE)
    write_json(folder / PIPELINE_FILE, config.model_dump(mode="json"))
    write_json(folder / METADATA_FILE, {"name": "cmb-detector", "version": "0.1.0", "metrics": {}})
    write_json(folder / LINEAGE_FILE, {"data_sha256": "0" * 64})
    write_text(folder / CARD_FILE, "# Hand-made networks for tests\n")
    scan = head(seed=1)
    write_volume(folder / GOLDEN_SCAN, scan)
    unet = open_onnx(folder / UNET_FILE, UNET_INPUT, UNET_OUTPUT)
    cnn = open_onnx(folder / CNN_FILE, CNN_INPUT, CNN_OUTPUT)
    scan_phase = head_phase(seed=1) if phase else None
    if phase:
        write_volume(folder / GOLDEN_PHASE, scan_phase)
    answer = detect(scan, config, unet, cnn, "golden scan", scan_phase)
    rows = [[*d.position_mm, d.score] for d in answer.candidates]
    write_json(folder / GOLDEN_ANSWER, {"candidates": rows, "threshold": answer.threshold})
    write_manifest(folder)
    return folder


def make_base(folder: Path, change: Callable[[Path], None] | None = None) -> Path:
    """A folder with a base release as the package ships it: `bundle/`, after `change(bundle)` if given, signed by `release.pub`.

    The private key is left next to the folder, in `FOLDER-keys`.
    """
    folder = Path(folder)
    bundle = make_bundle(folder / BUNDLE)
    if change:
        change(bundle)
        write_manifest(bundle)
    private, public = new_keys(folder.with_name(f"{folder.name}-keys"))
    sign_bundle(bundle, private)
    shutil.copyfile(public, folder / PUBLIC_KEY)
    return folder


def altered(bundle: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """A copy of a bundle after `change(copy)`, with a manifest that fits again."""
    shutil.copytree(bundle, folder)
    change(folder)
    write_manifest(folder)
    return folder


def find_nothing(folder: Path) -> None:
    pipeline = read_json(folder / PIPELINE_FILE)
    pipeline["candidates"]["floor"] = 1.0
    write_json(folder / PIPELINE_FILE, pipeline)
    write_json(folder / GOLDEN_ANSWER, {"candidates": [], "threshold": pipeline["decision"]["threshold"]})


def candidates(**settings) -> Callable[[Path], None]:
    """A change of a bundle's candidate settings, with the golden answer that belongs to it."""

    def change(folder: Path) -> None:
        pipeline = read_json(folder / PIPELINE_FILE)
        pipeline["candidates"] |= settings
        write_json(folder / PIPELINE_FILE, pipeline)
        write_manifest(folder)
        answer = BundleDetector(folder).detect(folder / GOLDEN_SCAN)
        rows = [[*d.position_mm, d.score] for d in answer.candidates]
        write_json(folder / GOLDEN_ANSWER, {"candidates": rows, "threshold": answer.threshold})

    return change


def spots_found(answer, blobs_mm=BLOBS_MM, within_mm: float = 3.0) -> int:
    """How many of `blobs_mm` have a detection near."""
    found = np.array([d.position_mm for d in answer.detections]).reshape(-1, 3)
    return sum(bool(len(found) and np.linalg.norm(found - b, axis=1).min() < within_mm) for b in blobs_mm)


def in_bounds(detection, volume: Volume) -> bool:
    """Whether the detection's voxel index is the one nearest to its world position, inside the volume."""
    index = np.rint(index_from_world(np.array([detection.position_mm]), volume.affine))[0]
    return bool((index == detection.index).all() and (index >= 0).all() and (index < volume.data.shape).all())


def _graph(name: str, nodes: list, input_: tuple, output: tuple, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(input_[0], TensorProto.FLOAT, input_[1])],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _unet() -> onnx.ModelProto:
    """Heatmap: sigmoid of how much brighter a 4 mm shell is than the 1.5 mm core (a difference of Gaussians on the 1x1x2 grid).

    Axis by axis: as one convolution of 13x13x7 voxels a head takes seconds on a processor without AVX-512.
    """
    nodes, weights = [], {"b": np.float32([-3])}
    for name, sigmas_vox in (("shell", (4, 4, 2)), ("core", (1.5, 1.5, 0.75))):
        image = UNET_INPUT
        for axis, (sigma, size) in enumerate(zip(sigmas_vox, (13, 13, 7), strict=True)):
            half, shape = size // 2, [1, 1, 1, 1, 1]
            shape[2 + axis] = size
            impulse = np.eye(size)[half]
            weight, blurred = f"{name} weight {axis}", f"{name} {axis}"
            weights[weight] = np.float32(ndimage.gaussian_filter(impulse, sigma)).reshape(shape)
            pads = [half * (a == axis) for a in range(3)] * 2
            nodes.append(helper.make_node("Conv", [image, weight], [blurred], pads=pads))
            image = blurred
        weights[f"{name} weight {axis}"] *= np.float32(6 if name == "shell" else -6)
    nodes += [
        helper.make_node("Sum", ["shell 2", "core 2", "b"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], [UNET_OUTPUT]),
    ]
    shape = [1, 1, "I", "J", "K"]
    return _graph("unet", nodes, (UNET_INPUT, shape), (UNET_OUTPUT, shape), weights)


def _cnn(channels: int = 1) -> onnx.ModelProto:
    """Score: sigmoid of the patch's mean less that of its centre; with phase, ten times the phase there is added."""
    size = int(np.prod(PATCH))
    core = np.zeros(PATCH)
    core[9:12, 9:12, 5] = 1 / 9
    rows = [2 * (np.full(PATCH, 1 / size) - core), 10 * core][:channels]
    weights = {
        "w": np.float32(np.stack(rows).reshape(channels * size, 1)),
        "b": np.float32([-1]),
        "axes": np.array([1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Flatten", [CNN_INPUT], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["column"]),
        helper.make_node("Squeeze", ["column", "axes"], [CNN_OUTPUT]),
    ]
    return _graph("cnn", nodes, (CNN_INPUT, ["N", channels, *PATCH]), (CNN_OUTPUT, ["N"]), weights)

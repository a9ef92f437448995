"""metadata.json of a bundle, modelled on MONAI bundles: the networks' inputs and outputs, and the data they were trained on.

Keys follow MONAI's schema of 2024-07-25. Stage 2, for which that schema has no key, is described by `cnn_data_format`, and the
scans by `data`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from cmb_models import __version__
from cmb_models.config.params import Decision, PipelineConfig
from cmb_models.dataset.entries import ScanEntry, ScanIndex, SubjectSplit
from cmb_models.dataset.statistics import BEST_SCORE, DETECTIONS, Reference, references, rounded_mm
from cmb_models.detect.fusion import calibrated
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.release import bundle

NOT_A_DEVICE = "Research software, not a medical device: not for diagnosis, and no substitute for a reader."
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
PACKAGES = ("openvino", "scipy", "nibabel", "pydantic")  # needed to run a bundle, with numpy


def metadata(
    config: PipelineConfig,
    parity: dict[str, float],
    index: ScanIndex,
    split: SubjectSplit,
    statistics: Mapping[str, Reference] | None = None,
) -> dict[str, Any]:
    """The part of metadata.json that is known at export; `cmb release register` adds metrics and changelog.

    index, split: data/index.json and data/split.json. parity: largest score difference of ONNX to torch by network. statistics: of
    the training scans (`training_statistics`); None to leave them out.
    """
    scans = index["scans"]
    return {
        "schema": SCHEMA,
        "name": "cmb-detector",
        "version": __version__,
        "changelog": {__version__: "exported, not yet registered"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in PACKAGES},
        "onnx_version": version("onnx"),
        "task": "cerebral microbleed detection in SWI, two stages (3D U-Net, 3D CNN)",
        "description": "A 3D U-Net proposes locations in an SWI volume, a 3D CNN separates microbleeds from mimics; after "
        "Rau et al., Brain Sciences 2026 (doi:10.3390/brainsci16020207).",
        "authors": "the site that trained it, with cmb-models",
        "copyright": "the site that trained it",
        "intended_use": NOT_A_DEVICE,
        "data_type": "NIfTI, one 3D volume per scan",
        "image_classes": "susceptibility-weighted image (SWI) of a whole head" + (", with its phase" if _phase(config) else ""),
        "label_classes": "centres of cerebral microbleeds in scanner RAS mm",
        "pred_classes": "centres in scanner RAS mm with a calibrated score",
        "network_data_format": _unet_format(config),
        "cnn_data_format": _cnn_format(config),
        "working_spacing_mm": list(config.preprocess.spacing_mm),
        "data": {
            "training": describe(s for s in scans if s["subject"] in split["folds"])
            | ({} if statistics is None else {"statistics": dict(statistics)}),
            "locked": describe(s for s in scans if s["subject"] in set(split["locked"])),
        },
        "parity": parity,
    }


def describe(scans: Iterable[ScanEntry]) -> dict[str, Any]:
    """Counts of scans, subjects and microbleeds, by dataset and by voxel size. scans: entries of data/index.json."""
    scans = list(scans)
    voxels = Counter(tuple(sorted(map(rounded_mm, s["spacing_mm"]))) for s in scans if "spacing_mm" in s)
    return {
        "scans": len(scans),
        "subjects": len({s["subject"] for s in scans}),
        "microbleeds": sum(s.get("n_cmbs", 0) for s in scans),
        "scans_without_microbleeds": sum(s.get("n_cmbs") == 0 for s in scans),
        "with_phase": sum("phase_sha256" in s for s in scans),
        "datasets": dict(sorted(Counter(s["dataset"] for s in scans if "dataset" in s).items())),
        "voxels": [{"mm": list(sides), "scans": n} for sides, n in sorted(voxels.items(), key=lambda v: (-v[1], v[0]))],
    }


def training_statistics(
    measured: Mapping[str, Mapping[str, float | None]], scans: Iterable[ScoredScan], decision: Decision
) -> dict[str, Reference]:
    """Quantiles over the training scans by which `cmb cohort` compares others with them.

    Args:
        measured: Voxel sizes and intensities of each training scan by its key (data/statistics.json).
        scans: The out-of-fold evaluation, whose scores are not calibrated yet (reports/cross_validate).
        decision: The release's calibration and threshold.
    """
    rows: list[Mapping[str, float | None]] = [*measured.values()]
    for scan in scans:
        scores = calibrated(scan.scores, decision)
        found = float((scores >= decision.threshold).sum())
        rows.append({BEST_SCORE: float(scores.max(initial=0.0)), DETECTIONS: found})
    return references(rows)


def _phase(config: PipelineConfig) -> bool:
    return config.preprocess.phase


def _unet_format(config: PipelineConfig) -> dict[str, Any]:
    """Stage 1: the volume on the working grid to a heatmap."""
    shape = [f"{m} * n" for m in config.preprocess.multiple_vox]
    image = _tensor("magnitude", 1, shape, [-config.preprocess.clip, config.preprocess.clip], {"0": "SWI, normalised"})
    heatmap = _tensor("probabilities", 1, shape, [0, 1], {"0": "near a microbleed's centre"})
    return {"inputs": {bundle.UNET_INPUT: image}, "outputs": {bundle.UNET_OUTPUT: heatmap}}


def _cnn_format(config: PipelineConfig) -> dict[str, Any]:
    """Stage 2: patches around candidates to a score each."""
    channels = {"0": "SWI, normalised"} | ({"1": "phase, normalised"} if _phase(config) else {})
    limits = [-config.preprocess.clip, config.preprocess.clip]
    patches = _tensor("magnitude", len(channels), list(config.patch_vox), limits, channels, is_patch=True)
    score = _tensor("probabilities", 1, [], [0, 1], {"0": "microbleed"})
    return {"inputs": {bundle.CNN_INPUT: patches}, "outputs": {bundle.CNN_OUTPUT: score}}


def _tensor(
    kind: str, channels: int, shape: Sequence[str | int], limits: list[float], names: dict[str, str], is_patch: bool = False
) -> dict[str, Any]:
    """One tensor in MONAI's schema; shape without batch and channels."""
    return {
        "type": "image" if kind == "magnitude" else kind,
        "format": kind,
        "num_channels": channels,
        "spatial_shape": list(shape),
        "dtype": "float32",
        "value_range": limits,
        "is_patch_data": is_patch,
        "channel_def": names,
    }

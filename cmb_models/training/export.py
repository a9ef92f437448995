"""Networks to ONNX and everything a bundle holds besides."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cmb_models import __version__, bundle
from cmb_models.config import Export, PipelineConfig
from cmb_models.detect.detector import detect
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.files import read_json, sha256_of, write_json, write_text
from cmb_models.io.nifti import write_volume
from cmb_models.networks.cnn import Score
from cmb_models.networks.inference import as_callable
from cmb_models.networks.unet import Heatmap
from cmb_models.phantom import golden_scan

NOT_A_DEVICE = "Research software, not a medical device: not for diagnosis, and no substitute for a reader."


def write_bundle(
    folder: Path, unet: nn.Module, cnn: nn.Module, config: PipelineConfig, settings: Export, inputs: dict[str, Path]
) -> dict[str, float]:
    """Write a whole bundle into an empty folder and return its parity, the largest score differences torch - ONNX.

    inputs: the files that lineage.json is made from (index, split, tuned_unet, tuned_cnn, recipe, calibration).
    Raises InputError when parity exceeds settings.parity_tolerance: such networks would not answer as they were evaluated.
    """
    _export_onnx(unet, cnn, config, folder)
    write_json(folder / bundle.PIPELINE_FILE, config.model_dump(mode="json"))
    parity = _golden(folder, unet, cnn, config, settings)
    write_json(folder / bundle.METADATA_FILE, _metadata(config, parity))
    write_json(folder / bundle.LINEAGE_FILE, lineage(inputs))
    write_text(folder / bundle.CARD_FILE, _model_card(config, parity))
    bundle.write_manifest(folder)
    return parity


def _export_onnx(unet: nn.Module, cnn: nn.Module, config: PipelineConfig, folder: Path) -> None:
    multiple = config.preprocess.multiple_vox
    image = torch.randn(1, 1, *(4 * m for m in multiple))
    extents = {n + 2: torch.export.Dim(f"n{n}", min=1, max=512) * m for n, m in enumerate(multiple)}
    patches = torch.randn(3, config.patch_channels, *config.patch_vox)
    count = {0: torch.export.Dim("candidates", min=1, max=4096)}
    _to_onnx(Heatmap(unet), image, extents, (bundle.UNET_INPUT, bundle.UNET_OUTPUT), folder / bundle.UNET_FILE)
    _to_onnx(Score(cnn), patches, count, (bundle.CNN_INPUT, bundle.CNN_OUTPUT), folder / bundle.CNN_FILE)


def _to_onnx(model: nn.Module, example: torch.Tensor, dynamic: dict, names: tuple[str, str], path: Path) -> None:
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
        program.save(path, external_data=False)


def _golden(folder: Path, unet: nn.Module, cnn: nn.Module, config: PipelineConfig, settings: Export) -> dict[str, float]:
    """Write the known-answer scan with the exported networks' answer, and compare these networks with torch on it."""
    scan, phase, _ = golden_scan(settings.golden_seed)
    write_volume(folder / bundle.GOLDEN_SCAN, scan)
    if config.preprocess.phase:
        write_volume(folder / bundle.GOLDEN_PHASE, phase)
    else:
        phase = None
    onnx_unet = bundle.open_onnx(folder / bundle.UNET_FILE, bundle.UNET_INPUT, bundle.UNET_OUTPUT)
    onnx_cnn = bundle.open_onnx(folder / bundle.CNN_FILE, bundle.CNN_INPUT, bundle.CNN_OUTPUT)
    answer = detect(scan, config, onnx_unet, onnx_cnn, "golden scan", phase)
    rows = [[*d.world_mm, d.score] for d in answer.candidates]
    write_json(folder / bundle.GOLDEN_ANSWER, {"candidates": rows, "threshold": answer.threshold})
    device = torch.device("cpu")
    image = prepare(scan, config.preprocess, "golden scan", phase).image[None, None]
    shape = (16, config.patch_channels, *config.patch_vox)
    patches = np.random.default_rng(settings.golden_seed).standard_normal(shape, dtype=np.float32)
    parity = {
        "unet": float(np.abs(as_callable(Heatmap(unet), device)(image) - onnx_unet(image)).max()),
        "cnn": float(np.abs(as_callable(Score(cnn), device)(patches) - onnx_cnn(patches)).max()),
    }
    worst = max(parity.values())
    if not worst <= settings.parity_tolerance:
        expected = f"scores within {settings.parity_tolerance:g} of torch"
        raise InputError("ONNX export", expected, f"a difference of {worst:.2g}", "report this as a bug")
    return parity


def lineage(inputs: dict[str, Path]) -> dict:
    """What went into the networks: hash of every scan (and phase image, where phase is used) as training recorded it, whose
    scores calibrated them, the chosen trials.

    `cmb register` adds what is known only then: the commit, dvc.lock and params.yaml.
    """
    index, tuned = read_json(inputs["index"]), {n: read_json(inputs[f"tuned_{n}"]) for n in ("unet", "cnn")}
    folds = read_json(inputs["split"])["folds"]
    recipe = read_json(inputs["recipe"])
    phases = {"training_phases": recipe["phases"]} if "phases" in recipe else {}
    return {
        "training_scans": recipe["scans"],
        **phases,
        "calibrated_on": read_json(inputs["calibration"])["subjects"],
        "locked_scans": {s["key"]: s["sha256"] for s in index["scans"] if s["subject"] not in folds},
        "index_sha256": sha256_of(inputs["index"]),
        "split_sha256": sha256_of(inputs["split"]),
        "studies": {n: {"study": t["study"], "trial": t["trial"]} for n, t in tuned.items()},
    }


def _metadata(config: PipelineConfig, parity: dict[str, float]) -> dict:
    """In the manner of MONAI's bundle metadata."""
    return {
        "name": "cmb-detector",
        "version": __version__,
        "task": "cerebral microbleed detection in SWI, two stages (3D U-Net, 3D CNN)",
        "intended_use": NOT_A_DEVICE,
        "data_format": {
            "input": f"SWI{' and phase' if config.preprocess.phase else ''} (i, j, k) and its affine to RAS mm",
            "working_spacing_mm": list(config.preprocess.spacing_mm),
        },
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "parity": parity,
    }


def _model_card(config: PipelineConfig, parity: dict[str, float]) -> str:
    spacing = "×".join(f"{s:g}" for s in config.preprocess.spacing_mm)
    phase = "- Its high-pass filtered phase image, in any unit and with either sign.\n" if config.preprocess.phase else ""
    return f"""# Cerebral microbleed detector

{NOT_A_DEVICE}

Two stages after Rau et al., Brain Sciences 2026: a 3D U-Net proposes locations in the SWI volume, a 3D CNN tells microbleeds from
mimics. Trained by a site on its own scans; `lineage.json` lists their hashes, the split, the settings and the chosen trials.

- Input: one whole-head SWI volume (magnitude times phase mask, as the scanner makes it), any orientation and voxel size up to 6 mm.
{phase}- Working grid: {spacing} mm. Threshold on the calibrated score: {config.decision.threshold:.3f}.
- ONNX against torch: heatmap within {parity["unet"]:.1e}, stage-2 score within {parity["cnn"]:.1e}.
- Not tested on: children, other sequences than SWI, scans after surgery, other scanners than the training data's.
"""

"""The pictures of the documents: the first detection, one row per preset, and each kind of lesion. `make gallery` runs it.

Same code, same pictures: all seeds are written here.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib
import nbclient
import nbformat
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cmb_models.io.annotations import Annotation
from cmb_models.phantom import SimulatedScan, draw_config, simulate_scan
from cmb_models.phantom.config import GENERATIONS
from cmb_models.volume import Volume, index_from_world

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
ROWS = ("ukb", "aibl", "clinical", "7t", "random")
SEED = {"ukb": 0, "aibl": 1, "clinical": 2, "7t": 3, "random": 1}  # of the protocol; the random one at 3 T
KINDS = ("cmb", "calcification", "vein", "vein_branch", "iron", "air_bone", "cavernoma", "flow_void")
HALF_MM = 14.0  # of an enlarged piece
EACH = 3  # examples of a kind
CORTEX_LEVELS = (0.34, 0.55, 0.72)  # of the slices that show the cortex, as a share of the scan's
MOST_SUBJECTS = 40  # searched for rare kinds


def middle(volume: Volume) -> tuple[np.ndarray, float]:
    """The axial slice (I, J) just above the middle, at the ventricles, and its voxels' aspect."""
    data = volume.data
    return data[:, :, round(data.shape[2] * 0.52)], volume.spacing_mm[1] / volume.spacing_mm[0]


def show(axes, image: np.ndarray, aspect: float, low: float, high: float) -> None:
    axes.imshow(image.T, origin="lower", cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def window(scan: SimulatedScan) -> float:
    """White of the display: what the brightest tissue reaches."""
    return 1.15 * float(np.percentile(scan.swi.data[scan.brain_mask.data > 0], 99))


def caption(scan: SimulatedScan) -> str:
    config = scan.truth["config"]
    voxel = "×".join(f"{s:.3g}" for s in config["spacing_mm"])
    return f"{config['name']}\n{config['field_t']:g} T, TE {config['te_ms']:.0f} ms\n{voxel} mm\n{config['orientation']}"


def presets() -> None:
    """phantom-presets.png: SWI, magnitude, phase, minimum projection and a sagittal SWI of one scan of each preset."""
    figure, grid = plt.subplots(len(ROWS), 5, figsize=(15, 2.85 * len(ROWS)), layout="constrained")
    for n, (line, preset) in enumerate(zip(grid, ROWS, strict=True)):
        scan = simulate_scan(20 + n, 6, draw_config(preset, np.random.default_rng(SEED[preset])))
        top = window(scan)
        unit = scan.truth["phase"]["radians_per_unit"]
        images = (("SWI", scan.swi, 0, top), ("magnitude", scan.magnitude, 0, top), ("phase", scan.phase, -1 / unit, 1 / unit))
        for axes, (name, volume, low, high) in zip(line, (*images, ("minimum over 16 mm", scan.minip, 0, top)), strict=False):
            show(axes, *middle(volume.to_ras()), low, high)
            axes.set_title(name if n == 0 else "")
        ras = scan.swi.to_ras()
        side = ras.data[round(ras.data.shape[0] * 0.56)]
        show(line[4], side, ras.spacing_mm[2] / ras.spacing_mm[1], 0, top)
        line[4].set_title("SWI, sagittal" if n == 0 else "")
        line[0].set_ylabel(caption(scan), rotation=0, ha="right", va="center")
        print(f"{preset}: {scan.swi.data.shape}")
    save(figure, "phantom-presets")


def enlarged(axes, volume: Volume, centre_mm: tuple[float, float, float], low: float, high: float) -> None:
    """Axial, coronal and sagittal pieces of HALF_MM around a place, each into one of three axes."""
    ras = volume.to_ras()
    index = index_from_world(centre_mm, ras.affine)[0]
    half = [HALF_MM / s for s in ras.spacing_mm]
    for plane, across in zip(axes, (2, 1, 0), strict=True):
        i, j = (a for a in range(3) if a != across)
        layer = int(np.clip(round(index[across]), 0, ras.data.shape[across] - 1))
        show(plane, np.take(ras.data, layer, axis=across), ras.spacing_mm[j] / ras.spacing_mm[i], low, high)
        plane.set_xlim(index[i] - half[i], index[i] + half[i])
        plane.set_ylim(index[j] - half[j], index[j] + half[j])


def examples() -> dict[str, list[tuple[SimulatedScan, Annotation]]]:
    """Up to EACH of every kind, each from another subject."""
    found: dict[str, list] = {kind: [] for kind in KINDS}
    for seed in itertools.count(100):
        missing = [k for k in KINDS if len(found[k]) < EACH]
        if not missing or seed == 100 + MOST_SUBJECTS:
            return found
        scan = simulate_scan(seed, 2, draw_config("aibl", np.random.default_rng(seed)))
        for kind in missing:
            label = "cmb" if kind == "cmb" else f"mimic:{kind}"
            one = next((a for a in scan.annotations if a.label == label), None)
            if one is not None:
                found[kind].append((scan, one))


def lesions() -> None:
    """phantom-lesions.png: each kind in axial, coronal and sagittal SWI, and its phase in the axial plane."""
    found = examples()
    figure, grid = plt.subplots(len(KINDS), 4 * EACH, figsize=(1.45 * 4 * EACH, 1.5 * len(KINDS)), layout="constrained")
    for line, kind in zip(grid, KINDS, strict=True):
        for axes in line:
            axes.axis("off")
        line[0].text(-0.15, 0.5, kind.replace("_", "\n"), transform=line[0].transAxes, ha="right", va="center")
        for n, (scan, one) in enumerate(found[kind]):
            own = line[4 * n : 4 * n + 4]
            enlarged(own[:3], scan.swi, one.centre_mm, 0, window(scan))
            unit = scan.truth["phase"]["radians_per_unit"] * scan.truth["phase"]["sign"]
            phase = Volume(scan.phase.data * unit, scan.phase.affine)
            spare = [plt.Figure().add_subplot() for _ in range(2)]
            enlarged([own[3], *spare], phase, one.centre_mm, -1.5, 1.5)
            own[0].set_title(f"{one.diameter_mm:.1f} mm", fontsize=8)
        print(f"{kind}: {len(found[kind])}")
    for n, name in enumerate(("axial", "coronal", "sagittal", "phase") * EACH):
        grid[-1][n].text(0.5, -0.12, name, transform=grid[-1][n].transAxes, ha="center", va="top", fontsize=8)
    save(figure, "phantom-lesions")


def cortex() -> None:
    """phantom-cortex.png: one subject with the template's cortex and with its own, in three axial slices."""
    figure, grid = plt.subplots(2, 3, figsize=(11, 8.4), layout="constrained")
    for line, kind in zip(grid, GENERATIONS, strict=True):
        config = draw_config("plain", np.random.default_rng(5), (0.6, 0.6, 2.0), generation=kind)
        scan = simulate_scan(11, 4, replace(config, snr=30.0))
        for axes, part in zip(line, CORTEX_LEVELS, strict=True):
            show(axes, scan.swi.data[:, :, round(part * scan.swi.data.shape[2])], 1.0, 0, window(scan))
        line[0].set_ylabel(f"generation {kind}")
    save(figure, "phantom-cortex")


def detection() -> None:
    """finding.jpg: what the commands of docs/get-started/first-detection.md draw."""
    cmb = str(Path(sys.executable).with_name("cmb"))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([cmb, "simulate", "try", "--scans", "1", "--cmbs", "4", "--seed", "7"], cwd=folder, check=True)
        scan = "try/sub-001/swi/sub-001_swi.nii.gz"
        subprocess.run([cmb, "detect", scan, "--bundle", "base", "--out", "results"], cwd=folder, check=True)
        picture = Image.open(Path(folder, "results/sub-001_swi.png")).convert("RGB")
    size = (1100, round(1100 * picture.height / picture.width))
    picture.resize(size, Image.Resampling.LANCZOS).save(PICTURES / "finding.jpg", quality=88, optimize=True)
    print(PICTURES / "finding.jpg")


def notebook() -> None:
    """examples/detect.ipynb with the outputs of its cells."""
    path = ROOT / "examples/detect.ipynb"
    content = nbformat.read(path, as_version=4)
    nbclient.execute(content, cwd=str(path.parent), record_timing=False, timeout=300)
    for cell in content.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("text/plain", None)
    nbformat.write(content, path)
    print(path)


def save(figure, name: str) -> None:
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=75, metadata={"Software": None})
    plt.close(figure)
    print(PICTURES / f"{name}.png")


if __name__ == "__main__":
    detection()
    notebook()
    presets()
    lesions()
    cortex()

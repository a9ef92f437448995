"""Pictures of false positives for a reader's eye. They show real images, so they must not be kept in the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmb_models.detection import Detection
from cmb_models.errors import InputError
from cmb_models.files import atomic_write
from cmb_models.volume import index_from_world
from research.real_backgrounds.scans import Background
from research.real_planes.images import PIXEL_MM, SIDE, cut_planes
from research.stages import ROOT

PLANES = (("axial", "x", "y"), ("coronal", "x", "z"), ("sagittal", "y", "z"))


def require_outside(folder: Path) -> None:
    """Raise InputError for a folder within the repository: it carries no real image."""
    if folder.resolve().is_relative_to(ROOT):
        raise InputError("setting-invalid", f"--pictures {folder}", "a folder outside the repository", "one within", "name another")


def draw(background: Background, detections: list[Detection], folder: Path) -> None:
    """A PNG for each detection: its axial, coronal and sagittal plane, in mm from its centre; in order of the scores."""
    from matplotlib.figure import Figure

    require_outside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    swi = background.volumes(background.image)[0].data
    bright = float(np.percentile(swi[background.brain], 99)) if background.brain.any() else float(swi.max())
    half = SIDE * PIXEL_MM / 2
    for number, detection in enumerate(detections, start=1):
        at = index_from_world(np.array([detection.position_mm]), background.affine)[0]
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        for axes, plane, (name, across, up) in zip(
            figure.subplots(1, 3), cut_planes(swi, at, np.asarray(background.spacing_mm)), PLANES, strict=True
        ):
            axes.imshow(plane.T, cmap="gray", origin="lower", extent=(-half, half, -half, half), vmin=0, vmax=bright)
            axes.set(title=name, xlabel=f"{across} (mm)", ylabel=f"{up} (mm)")
        score = f"score {detection.score:.2f}, candidate {detection.stage1_score:.2f}, classifier {detection.stage2_score:.2f}"
        figure.suptitle(f"{background.name} {number}: {score}, diameter {detection.diameter_mm:.1f} mm")
        with atomic_write(folder / f"{background.name.replace(' ', '_')}-{number:02d}.png") as temporary:
            figure.savefig(temporary, dpi=90, format="png")

"""What a release's networks score a cube with a site in its middle, by the steps of the shared path (cmb_models.detect)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cmb_models.config.params import PipelineConfig, Preprocess
from cmb_models.detect.fusion import calibrated, fused_score
from cmb_models.detect.patches import cut_channels
from cmb_models.detect.preprocess import Prepared, resample
from cmb_models.errors import InputError
from cmb_models.release.bundle import Bundle, open_networks
from cmb_models.volume import Volume, index_from_world, triple, world_from_index
from research.real_planes.images import PIXEL_MM

# Of simulated whole heads of both generations, whose scalp, skull and air widen the range: 5th to 95th percentile over median, and
# median over that of the brain alone. The real slices are brain-extracted.
HEAD_WIDTH, HEAD_MEDIAN = 1.1, 0.96
NEAR_MM = 3.0  # from the middle: a detection there finds the site, as at the primary tolerance of every evaluation
Network = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Scale:
    """median and width (5th to 95th percentile) of the foreground that intensities are centred on and divided by."""

    median: float
    width: float


@dataclass(frozen=True)
class SiteScore:
    """Scores in [0, 1] of the candidate network, the classifier, and both fused and calibrated.

    candidate: whether the first reaches the floor below which the detector proposes nothing.
    """

    stage1: float
    stage2: float
    fused: float
    candidate: bool

    def found(self, threshold: float) -> bool:
        """Whether the detector would report the site at this threshold."""
        return self.candidate and self.fused >= threshold


def scale_of(pixels: np.ndarray, settings: Preprocess) -> Scale:
    """The statistics that detect.preprocess.normalise takes of a whole head, of the foreground of an image of any shape.

    Raises InputError for an image without foreground or contrast.
    """
    foreground = pixels[pixels > settings.foreground_fraction * np.percentile(pixels, 99)]
    if not len(foreground):
        raise InputError("scan-no-head", "axial slice", "a head in the picture", "no voxel above the background", "check the image")
    p5, median, p95 = np.percentile(foreground, [5, 50, 95])
    if p95 <= p5:
        raise InputError("scan-no-head", "axial slice", "tissue contrast", "one single intensity", "check the image")
    return Scale(float(median), float(p95 - p5))


def head_scale(brain: Scale) -> Scale:
    """The statistics that a whole head would have, given those of its brain alone."""
    median = HEAD_MEDIAN * brain.median
    return Scale(median, HEAD_WIDTH * median)


def prepared_cube(cube: np.ndarray, scale: Scale, settings: Preprocess) -> Prepared:
    """A cube (N, N, N) at PIXEL_MM as the detector's preprocessing leaves a scan, with the site at 0 mm."""
    affine = np.diag([PIXEL_MM, PIXEL_MM, PIXEL_MM, 1.0])
    affine[:3, 3] = -PIXEL_MM * (np.array(cube.shape) // 2)
    grid = resample(Volume(cube, affine), settings.spacing_mm)
    image = ((grid.data - scale.median) / scale.width).clip(-settings.clip, settings.clip).astype(np.float32)
    padding = [(0, -size % multiple) for size, multiple in zip(image.shape, settings.multiple_vox, strict=True)]
    padded = np.pad(image, padding, constant_values=float(image.min()))
    return Prepared(padded, grid.affine, triple(image.shape))


def score(prepared: Prepared, config: PipelineConfig, unet: Network, cnn: Network) -> SiteScore:
    """The candidate network's highest value within NEAR_MM of 0 mm, and the classifier's score of the patch around it."""
    heatmap = unet(prepared.image[None, None])[0, 0][tuple(slice(0, s) for s in prepared.shape)]
    index = np.stack(np.meshgrid(*(np.arange(s) for s in prepared.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    near = index[np.linalg.norm(world_from_index(index, prepared.affine), axis=1) <= NEAR_MM]
    if not len(near):  # voxels larger than NEAR_MM
        near = np.rint(index_from_world(np.zeros((1, 3)), prepared.affine)).astype(int)
    values = heatmap[tuple(near.T)]
    best = int(np.argmax(values))
    stage1 = np.asarray([values[best]], dtype=np.float64)
    stage2 = np.asarray(cnn(cut_channels(prepared, near[best : best + 1], config.patch_vox)), dtype=np.float64).reshape(-1)
    fused = calibrated(fused_score(stage1, stage2, config.decision), config.decision)
    return SiteScore(float(stage1[0]), float(stage2[0]), float(fused[0]), bool(stage1[0] >= config.candidates.floor))


def scorer(bundle: Bundle) -> Callable[..., SiteScore]:
    """The release's score of a cube (N, N, N), given the axial slice through it, and whether a whole head's scale is assumed.

    Raises InputError for a release that needs phase.
    """
    config = bundle.config
    if config.preprocess.phase:
        raise InputError(
            "phase-missing", bundle.path, "a release without phase", "one with", "give another: the real planes have no phase"
        )
    unet, cnn = open_networks(bundle, threads=1)

    def scored(cube: np.ndarray, axial: np.ndarray, whole_head: bool = False) -> SiteScore:
        brain = scale_of(axial, config.preprocess)
        scale = head_scale(brain) if whole_head else brain
        return score(prepared_cube(cube, scale, config.preprocess), config, unet, cnn)

    return scored

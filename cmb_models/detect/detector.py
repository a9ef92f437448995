"""The shared path: a scan in, scored candidates out. Training, evaluation and the server differ only in the two callables."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cmb_models.arrays import NUMPY, Array, Arrays
from cmb_models.config.params import Decision, PipelineConfig
from cmb_models.detect.candidates import diameter_mm, find_candidates
from cmb_models.detect.fusion import calibrated, fused_score
from cmb_models.detect.patches import cut_channels
from cmb_models.detect.preprocess import Prepared, prepare
from cmb_models.detect.validation import CandidateList, check_candidates, check_prepared
from cmb_models.detection import Detection, DetectionResult
from cmb_models.volume import Volume, index_from_world, world_from_index

Network = Callable[[Array], Array]


def propose(heatmap: Array, prepared: Prepared, config: PipelineConfig, arrays: Arrays = NUMPY) -> tuple[CandidateList, Array]:
    """Stage 1's heatmap (I, J, K) to candidates and stage 2's patches (N, C, *patch_vox), C of cut_channels. N may be 0.

    heatmap, prepared and the patches are of `arrays`.

    Raises FloatingPointError for a heatmap with NaN, which compares as "nothing found", and InputError for arrays that do not
    belong together: a served step can be sent anything.
    """
    check_prepared(heatmap, prepared)
    spacing = prepared.spacing_mm
    inside = heatmap[tuple(slice(0, s) for s in prepared.shape)]
    _require_finite(inside, "stage 1's heatmap", arrays)
    index, score = find_candidates(inside, spacing, config.candidates, arrays)
    image = prepared.image[tuple(slice(0, s) for s in prepared.shape)]
    diameters = np.asarray([diameter_mm(image, i, spacing, arrays) for i in index], dtype=np.float32)
    found = CandidateList(index, world_from_index(index, prepared.affine), diameters, score)
    return found, cut_channels(prepared, index, config.patch_vox, arrays=arrays)


def _require_finite(values: Array, name: str, arrays: Arrays = NUMPY) -> None:
    bad = math.prod(values.shape) - int(arrays.is_finite(values).sum())
    if bad:
        raise FloatingPointError(f"{name}: expected finite values, got {bad} NaN or infinite ones; check the network's weights")


def decide(found: CandidateList, stage2_score: np.ndarray, affine: np.ndarray, decision: Decision) -> tuple[Detection, ...]:
    """Join the scores, best first. affine: (4, 4) of the scan as stored; stage2_score: (N,). () for no candidates.

    Raises FloatingPointError for NaN scores, which would drop out at every threshold, and InputError for arrays that do not belong
    together.
    """
    check_candidates(found, stage2_score, affine)
    stage2_score = np.asarray(stage2_score, dtype=np.float64).reshape(-1)
    _require_finite(stage2_score, "stage 2's scores")
    score = calibrated(fused_score(found.stage1_score, stage2_score, decision), decision)
    index = np.rint(index_from_world(found.centre_mm, affine)).astype(int)
    return tuple(
        Detection(
            tuple(found.centre_mm[n].tolist()),
            tuple(index[n].tolist()),
            float(found.diameter_mm[n]),
            float(score[n]),
            float(found.stage1_score[n]),
            float(stage2_score[n]),
        )
        for n in np.argsort(-score, kind="stable")
    )


def detect(
    volume: Volume,
    config: PipelineConfig,
    unet: Network,
    cnn: Network,
    case: str = "scan",
    phase: Volume | None = None,
    arrays: Arrays = NUMPY,
) -> DetectionResult:
    """Find microbleeds in one scan.

    unet: (1, 1, I, J, K) float32 to a heatmap of the same shape in [0, 1]. cnn: (N, config.patch_channels, *patch_vox) to (N,) in
    [0, 1], never called for N = 0. phase: as in `prepare`, needed where config uses it. arrays: where the work is done; the
    networks get its arrays, and may return NumPy's. Raises InputError naming `case` for a volume that cannot be an SWI scan, and
    for a phase image that is missing or cannot be its own.
    """
    prepared = prepare(volume, config.preprocess, case, phase, arrays)
    heatmap = arrays.array(unet(prepared.image[None, None]))[0, 0]
    found, patches = propose(heatmap, prepared, config, arrays)
    stage2 = arrays.host(cnn(patches)) if len(patches) else np.zeros(0)
    return DetectionResult(decide(found, stage2, volume.affine, config.decision), config.decision.threshold)

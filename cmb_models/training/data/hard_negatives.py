"""Hard-negative mining: false positives of the half-trained candidate network in its training scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from cmb_models.config.params import Candidates
from cmb_models.detect.candidates import find_candidates
from cmb_models.networks.unet import Heatmap
from cmb_models.runtime.torch import as_callable
from cmb_models.training.data.examples import Example
from cmb_models.training.precision import autocast
from cmb_models.volume import world_from_index

PER_SCAN = 15  # the worst ones: several times as many as a scan has microbleeds
MOST_SCANS = 20  # looked at each time; a hundred scans' would take longer than the training between
NEAR_MM = 5.0  # to a marked microbleed, or one that may be: half the largest by definition


def mine_hard_negatives(model: nn.Module, examples: Sequence[Example], rng: np.random.Generator) -> np.ndarray:
    """What the model finds in up to MOST_SCANS examples, drawn by `rng`, away from all that is marked as cmb or possible.

    (N, 4) int64: number of the example and voxel (i, j, k). The model is left in training mode.
    """
    settings = Candidates(floor=0.02, min_distance_mm=4.0, max_per_scan=2 * PER_SCAN)
    device, found = next(model.parameters()).device, [np.zeros((0, 4), dtype=np.int64)]
    run = as_callable(Heatmap(model), device)
    for n in sorted(rng.permutation(len(examples))[:MOST_SCANS]):
        prepared = examples[n].prepared
        with autocast(device):
            heatmap = run(np.array(prepared.image)[None, None])[0, 0]
        index, _ = find_candidates(heatmap[tuple(slice(0, s) for s in prepared.shape)], prepared.spacing_mm, settings)
        marked = np.concatenate([examples[n].centres_mm(label) for label in ("cmb", "possible")])
        away = np.linalg.norm(world_from_index(index, prepared.affine)[:, None] - marked[None], axis=2)
        index = index[(away > NEAR_MM).all(axis=1)][:PER_SCAN]
        found.append(np.concatenate([np.full((len(index), 1), n), index], axis=1))
    model.train()
    return np.concatenate(found)

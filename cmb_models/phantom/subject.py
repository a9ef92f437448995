"""One simulated person: head, veins, microbleeds and mimics, drawn once and seen by every time point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_models.phantom.head.template import load_template
from cmb_models.phantom.head.traits import Traits, draw_traits
from cmb_models.phantom.head.warp import Warp, draw_warp
from cmb_models.phantom.lesions.cmbs import draw_cmbs
from cmb_models.phantom.lesions.lesion import Lesion
from cmb_models.phantom.lesions.mimics import draw_mimics
from cmb_models.phantom.lesions.placing import Placer
from cmb_models.phantom.scanner.slab import Slab
from cmb_models.phantom.veins.raster import Veins, draw_veins

OXYGENATION = (0.55, 0.70)  # of venous blood: FACTS section 3


@dataclass(frozen=True)
class Subject:
    """cmbs: in the order of their appearance, those of the first time point first. oxygenation: of the veins, 0..1."""

    traits: Traits
    warp: Warp
    veins: Veins
    oxygenation: float
    cmbs: tuple[Lesion, ...]
    mimics: tuple[Lesion, ...]


def draw_subject(seed: np.random.SeedSequence, n_cmbs: Sequence[int], slabs: Sequence[Slab]) -> Subject:
    """A subject with exactly n_cmbs microbleeds at each time point, never fewer than before, all seen by all `slabs`.

    Each part has a random stream of its own: more microbleeds leave head and veins as they are, and later ones the mimics too.
    Raises InputError when the microbleeds do not fit.
    """
    head, trees, bleeds, others = (np.random.default_rng(s) for s in seed.spawn(4))
    template = load_template()
    traits = draw_traits(head)
    warp = draw_warp(head, traits)
    veins = draw_veins(trees, template)
    placer = Placer(bleeds, template, warp, slabs, veins)
    cmbs = draw_cmbs(bleeds, placer, n_cmbs[0], slabs[0].config)
    placer = placer.continued(others)
    mimics = draw_mimics(others, placer, slabs[0].config, veins, warp, slabs[0].normal_in_head, traits.age_years)
    cmbs += draw_cmbs(bleeds, placer.continued(bleeds), n_cmbs[-1] - n_cmbs[0], slabs[0].config)
    return Subject(traits, warp, veins, float(trees.uniform(*OXYGENATION)), tuple(cmbs), tuple(mimics))

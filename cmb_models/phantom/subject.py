"""One simulated person: head, veins, microbleeds and mimics, drawn once and seen by every time point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_models.phantom.head.cortex import fold
from cmb_models.phantom.head.template import Template, load_template
from cmb_models.phantom.head.traits import Traits, draw_traits
from cmb_models.phantom.head.warp import Warp, draw_warp
from cmb_models.phantom.lesions.cmbs import draw_cmbs
from cmb_models.phantom.lesions.lesion import Lesion
from cmb_models.phantom.lesions.mimics import draw_mimics
from cmb_models.phantom.lesions.placing import Placer, Shows
from cmb_models.phantom.scanner.slab import Slab
from cmb_models.phantom.veins.raster import Veins, draw_veins

FOLDS = 0  # number of the random stream that a head's cortex has of its own
OXYGENATION = (0.55, 0.70)  # of venous blood: docs/explanation/phantom.md


@dataclass(frozen=True)
class Head:
    """One simulated person without lesions. template: with the subject's own cortex. oxygenation: of the veins, 0..1."""

    traits: Traits
    template: Template
    warp: Warp
    veins: Veins
    oxygenation: float


@dataclass(frozen=True)
class Subject(Head):
    """cmbs: in the order of their appearance, those of the first time point first."""

    cmbs: tuple[Lesion, ...]
    mimics: tuple[Lesion, ...]


def draw_head(head: np.random.SeedSequence, trees: np.random.SeedSequence, generation: int = 1) -> Head:
    """A head and its veins, each from a random stream of its own. generation: PhantomConfig.generation."""
    rng, vein_rng = np.random.default_rng(head), np.random.default_rng(trees)
    traits = draw_traits(rng)
    warp = draw_warp(rng, traits)
    folds = np.random.SeedSequence(head.entropy, spawn_key=(*head.spawn_key, FOLDS))
    template = load_template() if generation == 1 else fold(folds, traits)
    veins = draw_veins(vein_rng, template)
    return Head(traits, template, warp, veins, float(vein_rng.uniform(*OXYGENATION)))


def draw_lesions(
    bleeds: np.random.SeedSequence,
    others: np.random.SeedSequence,
    head: Head,
    n_cmbs: Sequence[int],
    slabs: Sequence[Slab],
    shows: Shows | None = None,
    calcifications: int = 0,
) -> Subject:
    """The head with exactly n_cmbs microbleeds at each time point, never fewer than before, all within the view of all `slabs`.

    shows: where a microbleed can be seen; None for everywhere. calcifications: so many beyond the usual ones. Microbleeds and
    mimics have random streams of their own: later microbleeds leave the mimics as they are. Raises InputError when the microbleeds
    do not fit.
    """
    rng, mimic_rng = np.random.default_rng(bleeds), np.random.default_rng(others)
    config = slabs[0].config
    placer = Placer(rng, head.template, head.warp, slabs, head.veins)
    cmbs = draw_cmbs(rng, placer, n_cmbs[0], config, shows)
    placer = placer.continued(mimic_rng)
    mimics = draw_mimics(
        mimic_rng, placer, config, head.veins, head.warp, slabs[0].normal_in_head, head.traits.age_years, calcifications
    )
    cmbs += draw_cmbs(rng, placer.continued(rng), n_cmbs[-1] - n_cmbs[0], config, shows)
    return Subject(head.traits, head.template, head.warp, head.veins, head.oxygenation, tuple(cmbs), tuple(mimics))

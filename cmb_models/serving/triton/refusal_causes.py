"""Why a scan was refused, as one of few words: what is counted must not be free text."""

from __future__ import annotations

import re

from cmb_models.errors import InputError

# In order; the first that fits the words of what was expected. Refusals come from cmb_models.detect, which knows no counting.
CAUSES = {
    "phase": r"phase",
    "not_finite": r"finite",
    "steps": r"heatmap|extent within|centres within|scores from|step before",
    "geometry": r"3D volume|affine|voxels of|field of view|shape|spacing|at most|at least|axes|a scan within",
    "constant": r"SWI scan",
    "intensity": r"SWI intensities",
    "contrast": r"dark air",
    "no_head": r"head in the picture|tissue contrast",
}
OTHER = "other"


def cause_of(error: InputError) -> str:
    """One of CAUSES or OTHER."""
    return next((cause for cause, words in CAUSES.items() if re.search(words, error.expected)), OTHER)

"""How bright tissues are: proton density, T1, T2* and what a spoiled gradient echo makes of them."""

from __future__ import annotations

import numpy as np

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.head.traits import mg_per_ppm

WHITE_SIGNAL = 0.5  # of white matter at the echo: the unit that noise and stored numbers are measured by
FIELDS_T = (1.5, 3.0, 7.0)
# Against water: grey and white about .82 and .70 (Neeb 2008, 10.1016/j.neuroimage.2008.01.045 for white matter); blood assumed.
PROTON_DENSITY = {"grey": 0.82, "white": 0.70, "fluid": 1.0, "blood": 0.85}
# ms at FIELDS_T: 1.5 T Stanisz 2005 (10.1002/mrm.20605), 3 T Wansapura 1999 (J Magn Reson Imaging 9:531), 7 T Wright 2008
# (10.1007/s10334-008-0104-8): three studies, so that white matter's falls a little from 1.5 to 3 T, not a physical effect. Fluid
# Rooney 2007 (10.1002/mrm.21122), blood from that study's fit and Lu 2004 (10.1002/mrm.20178).
T1_MS = {
    "grey": (1124.0, 1331.0, 1939.0),
    "white": (884.0, 832.0, 1126.0),
    "fluid": (4300.0, 4300.0, 4300.0),
    "blood": (1350.0, 1584.0, 2090.0),
}
T2STAR_MS = {  # at FIELDS_T: cortex and white matter of Peters 2007, 10.1016/j.mri.2007.02.014; fluid long (assumed)
    "grey": (84.0, 66.0, 33.2),
    "white": (66.2, 53.2, 26.8),
    "fluid": (500.0, 500.0, 500.0),
}
# 1/s per mg / 100 g at FIELDS_T, least squares over caudate and putamen: their R2* in Peters 2007 less cortex's, against their iron
# at 45 years less cortex's (Hallgren and Sourander 1958). Meets Peters' figures within 6 %.
R2STAR_PER_MG = (0.70, 1.64, 3.30)
CORTEX_MG = 2.92  # iron of frontal cortex in mg / 100 g: Hallgren and Sourander 1958, 10.1111/j.1471-4159.1958.tb12607.x
HEMATOCRIT = 0.42  # docs/explanation/phantom.md


def weight(tissue: str, config: PhantomConfig) -> float:
    """Signal of grey, white, fluid or blood at the start of the decay: proton density times the spoiled steady state (Ernst)."""
    flip = np.deg2rad(config.flip_deg)
    recovered = np.exp(-config.tr_ms / float(np.interp(config.field_t, FIELDS_T, T1_MS[tissue])))
    return float(PROTON_DENSITY[tissue] * np.sin(flip) * (1 - recovered) / (1 - np.cos(flip) * recovered))


def signal(tissue: str, config: PhantomConfig) -> float:
    """Of grey, white or fluid at the echo, white matter being WHITE_SIGNAL."""

    def echo(name: str) -> float:
        return weight(name, config) * float(np.exp(-config.te_ms / t2star_ms(name, config.field_t)))

    return WHITE_SIGNAL * echo(tissue) / echo("white")


def blood_signal(oxygenation: float, config: PhantomConfig) -> float:
    """Of venous blood at the echo, in the unit of `signal`."""
    decay = np.exp(-config.te_ms * 1e-3 * venous_r2star(oxygenation, config.field_t))
    white = np.exp(-config.te_ms / t2star_ms("white", config.field_t))
    return float(WHITE_SIGNAL * weight("blood", config) * decay / (weight("white", config) * white))


def t2star_ms(tissue: str, field_t: float) -> float:
    """Of grey, white or fluid; between FIELDS_T linear in the rate, beyond them as at the nearest."""
    return 1e3 / float(np.interp(field_t, FIELDS_T, 1e3 / np.array(T2STAR_MS[tissue])))


def nucleus_t2star_ms(nucleus: str, iron_ppm: float, field_t: float) -> float:
    """Of a nucleus with so much iron: cortex's rate and its iron's, beyond what cortex has."""
    extra = iron_ppm * mg_per_ppm(nucleus) - CORTEX_MG
    return 1e3 / (1e3 / t2star_ms("grey", field_t) + extra * float(np.interp(field_t, FIELDS_T, R2STAR_PER_MG)))


def venous_r2star(oxygenation: float, field_t: float) -> float:
    """R2* of venous blood in 1/s at this oxygenation (0..1) and field.

    At 3 T: 14.9 Hct + 14.7 + (302.1 Hct + 41.8)(1 - Y)^2 (Zhao 2007, 10.1002/mrm.21342). Other fields: the first part taken as
    proportional to the field, the second to its power 1.5, which gives a T2* of 7.4 ms at 7 T and Y .62 (assumed).
    """
    plain, oxygen = 14.9 * HEMATOCRIT + 14.7, (302.1 * HEMATOCRIT + 41.8) * (1 - oxygenation) ** 2
    return plain * field_t / 3 + oxygen * (field_t / 3) ** 1.5

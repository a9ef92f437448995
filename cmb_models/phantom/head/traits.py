"""A subject: what every scan of one head shares, drawn once and written into the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmb_models.phantom.head.template import Template, load_template
from cmb_models.volume import triple

AGE_YEARS = (50.0, 90.0)  # of those who are scanned for microbleeds: assumed
REFERENCE_YEARS = 45.0  # at which IRON_PPM holds, and for which Peters 2007 gives the nuclei's T2*: assumed
# Susceptibility at REFERENCE_YEARS; the red nucleus assumed between nigra and dentate.
IRON_PPM = {
    "globus_pallidus": 0.131,
    "putamen": 0.038,
    "caudate": 0.044,
    "substantia_nigra": 0.111,
    "red_nucleus": 0.12,
    "dentate": 0.152,
}
# Iron in mg / 100 g at an age is a (1 - exp(-b age)) + c: Hallgren and Sourander 1958, 10.1111/j.1471-4159.1958.tb12607.x, for the
# first three. Nigra, red nucleus and dentate: assumed to follow the pallidum's b and c, up to that study's means.
IRON_CURVE = {
    "globus_pallidus": (21.41, 0.09, 0.37),
    "putamen": (14.62, 0.04, 0.46),
    "caudate": (9.66, 0.05, 0.33),
    "substantia_nigra": (18.1, 0.09, 0.37),
    "red_nucleus": (19.1, 0.09, 0.37),
    "dentate": (10.0, 0.09, 0.37),
}
IRON_SPREAD = (0.16, 0.16)  # standard deviations shared by a subject's nuclei and of each: 23 % together, as in that study's table
IRON_RANGE = (0.4, 1.8)  # times the age's mean: keeps a nucleus a nucleus (assumed)
WEIGHT_SPREAD = 0.05  # of proton density x T1 weighting between subjects: assumed
VENTRICLE_MM = (0.8, 0.055, 0.6)  # at 50 years, per year beyond, spread: assumed; their volume about doubles by 80
VENTRICLE_MOST_MM = 4.0  # some 40 ml in the template's head: assumed
SULCAL = (0.15, 0.018, 0.2, 1.5)  # widening at 50 years, per year beyond, spread, most: assumed
WML_LOAD = (4.0, 0.055, 1.0, 150)  # lesions at 50 years, growth per year of its logarithm, spread of it, most: assumed, heavy tail
WML_PERIVENTRICULAR = 0.4  # share of the lesions that lie in caps and bands: assumed
WML_BRIGHTNESS = (0.08, 0.20)  # against white matter at the echo: assumed
WML_DEEP_MM = (1.9, 0.4)  # median half axis of a deep lesion in a subject with few, spread of its logarithm: assumed
WML_GROWTH = 0.3  # half axes grow with the logarithm of the count, until they run together: assumed
WML_MOST_MM = 9.0  # half axis


@dataclass(frozen=True)
class WhiteMatterLesion:
    """An ellipsoid along the MNI axes, centre and half axes in mm. brightness: what it adds to white matter's signal, a share."""

    centre_mm: tuple[float, float, float]
    half_axes_mm: tuple[float, float, float]
    brightness: float


@dataclass(frozen=True)
class Traits:
    """ventricle_mm: how far the ventricles' walls have moved out. sulcal_widening: 0 and up, how far fluid outweighs cortex.

    iron_ppm: susceptibility by nucleus. weight: factor on a tissue's proton density x T1 weighting. skull_mm, scalp_mm: thick.
    texture_seed: of the tissue's unevenness, whose pattern follows the slab and not the head.
    """

    age_years: float
    ventricle_mm: float
    sulcal_widening: float
    iron_ppm: dict[str, float]
    weight: dict[str, float]
    skull_mm: float
    scalp_mm: float
    white_matter_lesions: tuple[WhiteMatterLesion, ...]
    texture_seed: int

    @classmethod
    def from_dict(cls, values: dict) -> Traits:
        """From what dataclasses.asdict, or a JSON file of it, holds."""
        lesions = (
            WhiteMatterLesion(tuple(w["centre_mm"]), tuple(w["half_axes_mm"]), w["brightness"])
            for w in values["white_matter_lesions"]
        )
        return cls(**{**values, "white_matter_lesions": tuple(lesions)})


def draw_traits(rng: np.random.Generator, age: float | None = None) -> Traits:
    """A subject of an age in years, or of a random one."""
    own = rng.uniform(*AGE_YEARS)
    years = float(own if age is None else age)
    at_50, per_year, spread = VENTRICLE_MM
    ventricle = at_50 + per_year * (years - 50) + spread * rng.standard_normal()
    wide, wider, sulcal_spread, widest = SULCAL
    sulcal = wide + wider * (years - 50) + sulcal_spread * rng.standard_normal()
    return Traits(
        age_years=years,
        ventricle_mm=float(np.clip(ventricle, 0, VENTRICLE_MOST_MM)),
        sulcal_widening=float(np.clip(sulcal, 0, widest)),
        iron_ppm=_draw_iron(rng, years),
        weight={t: float(rng.normal(1, WEIGHT_SPREAD)) for t in ("grey", "white", "fluid")},
        skull_mm=float(rng.uniform(4, 7)),
        scalp_mm=float(rng.uniform(4, 7)),
        white_matter_lesions=_draw_lesions(rng, load_template(), years),
        texture_seed=int(rng.integers(2**31)),
    )


def iron_mg(nucleus: str, age_years: float) -> float:
    """Mean iron of a nucleus at an age, mg / 100 g fresh weight."""
    rise, rate, start = IRON_CURVE[nucleus]
    return float(rise * (1 - np.exp(-rate * age_years)) + start)


def mg_per_ppm(nucleus: str) -> float:
    """Iron in mg / 100 g of a nucleus per ppm of its susceptibility."""
    return iron_mg(nucleus, REFERENCE_YEARS) / IRON_PPM[nucleus]


def _draw_iron(rng: np.random.Generator, years: float) -> dict[str, float]:
    shared = rng.normal(0, IRON_SPREAD[0])
    drawn = {}
    for name in IRON_PPM:
        factor = np.clip(1 + shared + rng.normal(0, IRON_SPREAD[1]), *IRON_RANGE)
        drawn[name] = float(iron_mg(name, years) / mg_per_ppm(name) * factor)
    return drawn


def _draw_lesions(rng: np.random.Generator, template: Template, years: float) -> tuple[WhiteMatterLesion, ...]:
    """Caps and bands along the ventricles, and deep spots that grow and run together where there are many; none to WML_LOAD[-1]."""
    start, growth, spread, most = WML_LOAD
    load = start * np.exp(growth * (years - 50) + spread * rng.standard_normal())
    count = min(int(rng.poisson(load)), most)
    size = 1 + WML_GROWTH * np.log1p(count / 5)
    lesions = []
    for _ in range(count):
        near = rng.random() < WML_PERIVENTRICULAR
        places = template.periventricular if near else template.deep_white
        centre = places[rng.integers(len(places))] + rng.uniform(-1, 1, 3)
        if near:  # long along the ventricle, thin across it
            half = rng.uniform([1.5, 3.5, 2.0], [3.5, 8.0, 4.5])
        else:
            half = WML_DEEP_MM[0] * np.exp(rng.normal(0, WML_DEEP_MM[1])) * rng.uniform(0.7, 1.3, 3)
        half = np.minimum(half * size, WML_MOST_MM)
        brightness = float(rng.uniform(*WML_BRIGHTNESS))
        lesions.append(WhiteMatterLesion(triple(map(float, centre)), triple(map(float, half)), brightness))
    return tuple(lesions)

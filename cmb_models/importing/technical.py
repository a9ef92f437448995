"""Which values of a source's sidecar a dataset keeps.

Numbers in plausible ranges and words of closed lists: none can hold what identifies a patient, a device or a day.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

RANGES = {
    "MagneticFieldStrength": (0.01, 20.0),  # T
    "EchoTime": (0.0, 1.0),  # s, as all times here
    "RepetitionTime": (0.0, 60.0),
    "InversionTime": (0.0, 60.0),
    "FlipAngle": (0.0, 360.0),  # degrees
    "PixelBandwidth": (1.0, 10_000.0),  # Hz
    "SliceThickness": (0.01, 20.0),  # mm
    "SpacingBetweenSlices": (0.01, 20.0),
}
DIGITS = 6  # significant ones that are kept: a number is not to be a fingerprint
WORDS = {
    "Modality": {"MR"},
    "MRAcquisitionType": {"2D", "3D"},
    "ScanningSequence": {"SE", "IR", "GR", "EP", "RM"},
    "SequenceVariant": {"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"},
    "ImageType": {
        *("ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "OTHER", "M", "P", "R", "I", "FFE", "SE", "M_FFE", "M_SE"),
        *(
            "MAGNITUDE",
            "PHASE",
            "REAL",
            "IMAGINARY",
            "PHASE MAP",
            "SWI",
            "NORM",
            "ND",
            "DIS2D",
            "DIS3D",
            "FIL",
            "FM",
            "MEAN",
            "SUM",
        ),
        *("MNIP", "MINIP", "MIN IP", "MIP", "MPR", "REFORMATTED", "PROJECTION IMAGE", "T2_STAR_MAP", "QSM", "B0", "MAP", "MIXED"),
        *(
            "SUSCEPTIBILITY",
            "SUSCEPTIBILITYWEIGHTED",
            "T2_STAR",
            "COMBINED",
            "FILTERED",
            "SUBTRACTION",
            "ECHO",
            "COMP_SP",
            "COMP_AD",
        ),
    },
}
MANUFACTURERS = {
    "siemens": "Siemens",
    "ge": "GE",
    "philips": "Philips",
    "canon": "Canon",
    "toshiba": "Toshiba",
    "uih": "UIH",
    "united": "UIH",
    "hitachi": "Hitachi",
    "fujifilm": "Fujifilm",
    "bruker": "Bruker",
    "mediso": "Mediso",
    "marconi": "Marconi",
    "picker": "Picker",
}


def kept(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a sidecar that may be kept."""
    found: dict[str, Any] = {}
    for name, (low, high) in RANGES.items():
        value = values.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high:
            found[name] = float(f"{value:.{DIGITS}g}")
    for name, allowed in WORDS.items():
        value = values.get(name) or ""
        words = [str(v).strip().upper() for v in (value if isinstance(value, list) else str(value).replace("\\", "_").split("_"))]
        if words := [word for word in words if word in allowed]:
            found[name] = words if name == "ImageType" else "_".join(words)
    vendor = str(values.get("Manufacturer", "")).split()
    if vendor and vendor[0].lower() in MANUFACTURERS:
        found["Manufacturer"] = MANUFACTURERS[vendor[0].lower()]
    return found

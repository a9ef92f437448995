"""Which values of a sidecar are kept, and that a name is in none of them."""

from __future__ import annotations

import json
import math

from cmb_models.importing.technical import RANGES, WORDS, kept

SITE = {
    "Manufacturer": "SIEMENS",
    "ManufacturersModelName": "Prisma Anna",
    "InstitutionName": "clinic",
    "SeriesDescription": "SWI Anna",
    "AcquisitionDateTime": "2024-01-17",
    "MagneticFieldStrength": 3,
    "EchoTime": 0.02,
    "RepetitionTime": 0.028000000123,
    "FlipAngle": 15,
    "PixelBandwidth": 120,
    "ScanningSequence": "GR",
    "SequenceVariant": "SP_OSP",
    "ImageType": ["ORIGINAL", "PRIMARY", "m", "SWI", "ANNA", "NORM"],
    "MRAcquisitionType": "3D",
}


def test_technical_values_are_kept():
    assert kept(SITE) == {
        "Manufacturer": "Siemens",
        "MagneticFieldStrength": 3.0,
        "EchoTime": 0.02,
        "RepetitionTime": 0.028,
        "FlipAngle": 15.0,
        "PixelBandwidth": 120.0,
        "ScanningSequence": "GR",
        "SequenceVariant": "SP_OSP",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI", "NORM"],
        "MRAcquisitionType": "3D",
    }
    assert kept({}) == {}


def test_a_name_or_a_date_in_any_value_is_dropped():
    for odd in ("Anna", "19520304", 19520304, True, math.nan, math.inf, -1, None, ["Anna", 7], {"Anna": 1}, "M_Anna"):
        values = kept(dict.fromkeys((*RANGES, *WORDS, "Manufacturer", "Anna"), odd))
        text = json.dumps(values, allow_nan=False).lower()
        assert "anna" not in text and "1952" not in text and "true" not in text and "-1" not in text
    assert kept({"Manufacturer": "GE Anna"}) == {"Manufacturer": "GE"}
    assert kept({"Manufacturer": "Annamed"}) == {}

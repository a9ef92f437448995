"""The `.json` that dcm2niix and BIDS put next to a NIfTI file, and those of folders above that BIDS lets it inherit."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from cmb_models.io.nifti import scan_name
from cmb_models.io.series_role import GRE, GRE_WORDS, NOT_NAMED, SeriesFacts, role_of

log = logging.getLogger(__name__)

ZEROED = "NanVoxelsSetToZero"  # key of ours: so many voxels of air were NaN in the file that was imported
LARGEST = 2**22  # bytes: a sidecar with the times of many slices has some hundred kilobytes
MOST_ENTITIES = 8  # of a BIDS name; each subset of them is a file that may be there
LONGEST_ECHO_S = 1.0  # a larger EchoTime can only be in milliseconds


def sidecar_of(nifti: Path) -> Path:
    """Expected path of a NIfTI file's sidecar."""
    return Path(nifti).with_name(f"{scan_name(nifti)}.json")


def sidecars_of(nifti: Path) -> list[Path]:
    """The sidecars that apply to a NIfTI file, the nearest last: of one key the last value counts.

    Those of BIDS' inheritance principle: in the folder of a file or above it in the dataset, with its suffix, and no entity that
    it lacks, such as `swi.json` and `sub-01_swi.json` for `sub-01/swi/sub-01_acq-hr_swi.nii.gz`.
    https://bids-specification.readthedocs.io/en/stable/common-principles.html#the-inheritance-principle
    """
    own = sidecar_of(nifti)
    return [file for file in dict.fromkeys([*_inherited(own), own]) if file.is_file()]


def _inherited(own: Path) -> Iterator[Path]:
    """Where sidecars may be that a file inherits, whose own one is given; nowhere if its name is not one of BIDS."""
    *entities, suffix = own.stem.split("_")
    if not own.name.startswith("sub-") or len(entities) > MOST_ENTITIES or not all("-" in e for e in entities):
        return
    above = own.absolute().parents
    depth = next((n for n, folder in enumerate(above) if folder.name == entities[0]), None)
    folders = [own.parent] if depth is None else [*reversed(above[1 : depth + 2]), own.parent]
    for folder in folders:
        for size in range(len(entities) + 1):
            for some in combinations(entities, size):
                yield folder / f"{'_'.join([*some, suffix])}.json"


def read_sidecar(nifti: Path) -> dict[str, Any]:
    """The values of a NIfTI file's sidecars; empty if there is none. One that cannot be parsed is ignored with a log warning."""
    values: dict[str, Any] = {}
    for file in sidecars_of(nifti):
        values |= _read(file)
    return values


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        values = json.loads(file.read_text(encoding="utf-8-sig"))
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s is ignored: %s", file, error)
        return {}
    return values


def facts_of(values: Mapping[str, Any]) -> SeriesFacts:
    """What a sidecar's values say of their series. Values of unexpected types are left out."""
    words = [str(v).strip().upper() for v in _listed(values.get("ImageType"))]
    # dcm2niix splits T2_STAR_MAP at its underscores.
    joined = ["_".join(words[n : n + length]) for length in (2, 3) for n in range(len(words) - length + 1)]
    echo = values.get("EchoTime")
    echo_s = float(echo) if isinstance(echo, int | float) and abs(echo) < LARGEST else None
    return SeriesFacts(
        kinds=frozenset(words + joined),
        description=_text(values, "SeriesDescription"),
        protocol=_text(values, "ProtocolName"),
        sequence=f"{_text(values, 'SequenceName')} {_text(values, 'PulseSequenceName')}".strip(),
        scanning_sequence=_text(values, "ScanningSequence"),
        modality=_text(values, "Modality") or "MR",
        echo_ms=None if echo_s is None else echo_s * (1000 if echo_s <= LONGEST_ECHO_S else 1),
    )


def sidecar_role(nifti: Path) -> tuple[str, str] | None:
    """What the sidecar of a NIfTI file says that its series is, as `role_of`; None if there is no sidecar or it does not say.

    A name without a word for SWI does not say that it is none, since sidecars often hold no names or a site's own.
    """
    return stated_role(facts_of(read_sidecar(nifti)))


def stated_role(facts: SeriesFacts) -> tuple[str, str] | None:
    """What the facts of a sidecar say that its series is, as `sidecar_role`."""
    role, reason = role_of(facts)
    is_stated = bool(GRE_WORDS.search(facts.words)) if role == GRE else reason != NOT_NAMED
    return (role, reason) if is_stated else None


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return value.split("\\") if isinstance(value, str) else []


def _text(values: Mapping[str, Any], name: str) -> str:
    """A value as text, a list's values after one another; '' for anything else."""
    return " ".join(v.strip() for v in _listed(values.get(name)) if isinstance(v, str))

"""Tracing from an alias to every training scan, and from a scan to every release that used it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmb_models.errors import InputError
from cmb_models.files import sha256_of
from cmb_models.io.nifti import read_volume
from cmb_models.io.scan_id import content_sha256
from cmb_models.registry.provenance.lineage import read_lineage, read_lineages
from cmb_models.workspace.versioning import git_lines, has_commit

if TYPE_CHECKING:
    from cmb_models.registry.mlflow.store import Registry, Release

MIN_DIGITS = 8  # of a scan's hash; two of a thousand scans share eight with a probability of 1e-4
ROLES = {
    "training": ("training_scans", "training_contents", "training_phases"),
    "locked test": ("locked_scans", "locked_contents", "locked_phases"),
}
NAMED = re.compile(r"(?P<subject>sub-[^_.]+)(_(?P<session>ses-[^_.]+))?")  # a scan's file
PARENT_KEYS = ("created", "user", "git_commit", "manifest_sha256")


@dataclass(frozen=True)
class Sighting:
    """A use of a scan by a release. roles: training, calibration, locked test; key: name of the scan; aliases: of the release."""

    release: int
    aliases: tuple[str, ...]
    roles: tuple[str, ...]
    key: str
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def trace(registry: Registry, ref: str) -> dict[str, Any]:
    """The lineage of a release as JSON: aliases, manifest, commit, hashes, studies, datasets, scans, ancestors."""
    release = registry.resolve(ref)
    lineage = read_lineage(registry, release)
    by_number = {r.number: r for r in registry.releases()}
    return {
        "release": release.number,
        "aliases": list(release.aliases),
        "manifest_sha256": release.tags.get("manifest_sha256", ""),
        "signed_by": release.tags.get("signed_by", ""),
        **lineage,
        "commit": _commit(registry.workspace, lineage.get("git_commit", "")),
        "parents": [
            {"release": p.number, "aliases": list(p.aliases), **{k: p.tags.get(k, "") for k in PARENT_KEYS}}
            for p in _parents(release, by_number)
        ],
    }


def _commit(workspace: Path, commit: str) -> dict[str, str]:
    """Author, date and subject; {} for a commit that is not in this clone."""
    if not commit or not has_commit(workspace, commit):
        return {}
    lines = git_lines(workspace, "log", "-1", "--format=%an <%ae>%n%aI%n%s", commit)
    return dict(zip(("author", "date", "subject"), lines, strict=False))


def _parents(release: Release, by_number: Mapping[int, Release]) -> list[Release]:
    """The releases that were in production when each was registered, newest first. Stops at a cycle in edited tags."""
    parents, seen = [], {release.number}
    while (text := release.tags.get("parent_release", "")).isdigit() and int(text) in by_number and int(text) not in seen:
        release = by_number[int(text)]
        seen.add(release.number)
        parents.append(release)
    return parents


def scan_hashes(scan: str) -> tuple[str, ...]:
    """The SHA-256 of a scan's file and of its content, or the given leading digits of one of them, in lower case.

    A file that was compressed or saved again has another hash and the same content. One that cannot be read as a scan has only the
    hash of the file.

    Raises:
        InputError: If `scan` is neither.
    """
    file = Path(scan)
    if file.is_file():
        try:
            return sha256_of(file), content_sha256(read_volume(file))
        except InputError:
            return (sha256_of(file),)
    digits = scan.lower().removeprefix("sha256:")
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_DIGITS},64}}", digits):
        expected = f"a file, or {MIN_DIGITS} to 64 hexadecimal digits of its SHA-256"
        raise InputError(
            "hash-invalid", f"--scan {scan}", expected, "neither", "give the NIfTI file as it was trained on, or its hash"
        )
    return (digits,)


def sightings(registry: Registry, hashes: Sequence[str]) -> tuple[list[Sighting], list[str]]:
    """Find the releases that used a scan.

    Args:
        registry: An open registry.
        hashes: As `scan_hashes` returns them; of several scans, all of theirs.

    Returns:
        One entry per release and use, [] if there is none, and a message for each release that cannot be read.
    """
    return _search(registry, lambda name, sha256: sha256.startswith(tuple(hashes)))


def sightings_by_name(registry: Registry, subjects: Sequence[str]) -> tuple[list[Sighting], list[str]]:
    """Find the releases that used any scan of subjects by their names in the index, such as "site_sub-001". As `sightings`."""
    starts = tuple(f"{subject}_" for subject in subjects)
    return _search(registry, lambda name, sha256: name in subjects or name.startswith(starts))


def _search(registry: Registry, is_meant: Callable[[str, str], bool]) -> tuple[list[Sighting], list[str]]:
    releases = registry.known_releases()
    lineages = read_lineages(registry, releases)
    found, unread = [], []
    for release in releases:
        lineage = lineages[release.number]
        if isinstance(lineage, InputError):
            name = f"release {release.number}"
            unread.append(str(lineage) if lineage.case == name else f"{name}: {lineage}")
        else:
            found += [Sighting(release.number, release.aliases, *use) for use in _roles(lineage, is_meant)]
    return found, unread


def namesakes(registry: Registry, scan: str, found: Sequence[Sighting]) -> list[Sighting]:
    """Find uses of scans that are named as a file and have other hashes: the file, or the one they used, may be damaged.

    Args:
        registry: An open registry.
        scan: Path of the file; of its folders only the dataset's counts. A hash has no name.
        found: The uses that `sightings` found by its hashes, which are left out.

    Returns:
        One entry per release, scan and kind of file; of releases that cannot be read none.
    """
    releases, by_hash = registry.known_releases(), {(s.release, s.key, s.roles[0]) for s in found}
    lineages = read_lineages(registry, releases)
    others = []
    for release in releases:
        lineage = lineages[release.number]
        if isinstance(lineage, InputError):
            continue
        for role, (files, *_) in ROLES.items():
            named = {k: h for k, h in lineage.get(files, {}).items() if _is_named(Path(scan), k)}
            others += [
                Sighting(release.number, release.aliases, (role,), key, sha256)
                for key, sha256 in named.items()
                if (release.number, key, role) not in by_hash
            ]
    return others


def _is_named(file: Path, key: str) -> bool:
    """Whether a file is named as a scan of a lineage: subject, session, and dataset where the file lies in a subject's folder."""
    name = NAMED.match(file.name) if file.is_file() else None
    if name is None:
        return False
    folders = file.resolve().parts[:-1]
    session = next((part for part in (name["session"], *reversed(folders)) if part and part.startswith("ses-")), "")
    scan = "_".join(filter(None, (name["subject"], session)))
    dataset = next((above for above, part in pairwise(folders) if part == name["subject"]), "")
    return key == f"{dataset}_{scan}" if dataset else key.endswith(f"_{scan}")


def _roles(lineage: Mapping[str, Any], is_meant: Callable[[str, str], bool]) -> list[tuple[tuple[str, ...], str, str]]:
    """(roles, name, SHA-256) of each of a lineage's scans of which `is_meant` holds for the name and one of its hashes."""
    found: list[tuple[tuple[str, ...], str, str]] = []
    seen = set()
    for role, parts in ROLES.items():
        for key, sha256 in ((k, h) for part in parts for k, h in lineage.get(part, {}).items()):
            if is_meant(key, sha256) and (role, key) not in seen:
                seen.add((role, key))
                calibrated = any(key == s or key.startswith(f"{s}_") for s in lineage.get("calibrated_on", ()))
                found.append(((role, "calibration") if calibrated else (role,), key, sha256))
    return found

"""The chain from an alias to every training scan, and back from a scan to every release that saw it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmb_models.errors import InputError
from cmb_models.files import sha256_of
from cmb_models.registry.provenance.lineage import read_lineage, read_lineages
from cmb_models.workspace.versioning import git_lines, has_commit

if TYPE_CHECKING:
    from cmb_models.registry.mlflow.store import Registry, Release

SHORTEST = 8  # hexadecimal digits of a scan's hash; of a thousand scans two share these with a probability of 1e-4
ROLES = {"training": ("training_scans", "training_phases"), "locked test": ("locked_scans", "locked_phases")}
PARENT_KEYS = ("created", "user", "git_commit", "manifest_sha256")


@dataclass(frozen=True)
class Sighting:
    """One release that saw a scan. roles: training, calibration, locked test; key: its name then; aliases: of the release now."""

    release: int
    aliases: tuple[str, ...]
    roles: tuple[str, ...]
    key: str
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def trace(registry: Registry, ref: str) -> dict[str, Any]:
    """The whole chain of a release as JSON: aliases, manifest, commit, hashes, studies, datasets, scans, parents to the first."""
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
    """Who committed what when; {} for a commit that is not in this clone."""
    if not commit or not has_commit(workspace, commit):
        return {}
    lines = git_lines(workspace, "log", "-1", "--format=%an <%ae>%n%aI%n%s", commit)
    return dict(zip(("author", "date", "subject"), lines, strict=False))


def _parents(release: Release, by_number: Mapping[int, Release]) -> list[Release]:
    """The releases that were in production when each was registered, newest first. A loop, which only edited tags make, ends it."""
    parents, seen = [], {release.number}
    while (text := release.tags.get("parent_release", "")).isdigit() and int(text) in by_number and int(text) not in seen:
        release = by_number[int(text)]
        seen.add(release.number)
        parents.append(release)
    return parents


def scan_hash(scan: str) -> str:
    """What to look for: the SHA-256 of a file, or the first digits of one as given. Raises InputError for anything else."""
    if Path(scan).is_file():
        return sha256_of(Path(scan))
    wanted = scan.lower().removeprefix("sha256:")
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},64}}", wanted):
        expected = f"a file, or {SHORTEST} to 64 hexadecimal digits of its SHA-256"
        raise InputError(
            "hash-invalid", f"--scan {scan}", expected, "neither", "give the NIfTI file as it was trained on, or its hash"
        )
    return wanted


def sightings(registry: Registry, wanted: str) -> tuple[list[Sighting], list[str]]:
    """Every release that saw a scan whose SHA-256 begins with `wanted`, and in words those releases that could not be asked."""
    releases = registry.releases()
    lineages = read_lineages(registry, releases)
    seen, unread = [], []
    for release in releases:
        lineage = lineages[release.number]
        if isinstance(lineage, InputError):
            unread.append(str(lineage))
        else:
            seen += [Sighting(release.number, release.aliases, *found) for found in _roles(lineage, wanted)]
    return seen, unread


def _roles(lineage: Mapping[str, Any], wanted: str) -> list[tuple[tuple[str, ...], str, str]]:
    """(roles, name, SHA-256) of each of a lineage's files whose hash begins with `wanted`."""
    found: list[tuple[tuple[str, ...], str, str]] = []
    for role, parts in ROLES.items():
        for key, sha256 in ((k, h) for part in parts for k, h in lineage.get(part, {}).items()):
            if sha256.startswith(wanted):
                calibrated = any(key == s or key.startswith(f"{s}_") for s in lineage.get("calibrated_on", ()))
                found.append(((role, "calibration") if calibrated else (role,), key, sha256))
    return found

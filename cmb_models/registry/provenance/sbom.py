"""The software bill of materials of a release (CycloneDX 1.6): every package that its commit pins."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.workspace.paths import ENVIRONMENT_LOCK
from cmb_models.workspace.versioning import file_at, has_commit

PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;#]+)")


def locked_environment(workspace: Path, commit: str, expected_sha256: str) -> str:
    """requirements.lock at a release's commit. Raises InputError if it is not the one that the release recorded."""
    content = file_at(workspace, commit, ENVIRONMENT_LOCK) if has_commit(workspace, commit) else None
    got = "none" if content is None else hashlib.sha256(content).hexdigest()
    if content is None or not expected_sha256 or got != expected_sha256:
        expected = f"{ENVIRONMENT_LOCK} with SHA-256 {expected_sha256[:12] or '(not recorded)'}"
        raise InputError(
            "environment-unknown", f"commit {commit[:12]}", expected, got[:12], "fetch the commit that the release was made from"
        )
    return content.decode("utf-8")


def bill_of_materials(lock: str, release: int, manifest_sha256: str, created: str) -> str:
    """CycloneDX 1.6 as JSON, validated against its schema. lock: lines `name==version`; created: ISO 8601.

    The model is the main component, with its manifest's hash; each package is a component with its purl. Raises
    RuntimeError if the result violates the schema.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from packageurl import PackageURL

    model = Component(
        name="cmb-detector",
        version=str(release),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"cmb-detector@{release}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=manifest_sha256)],
        description=f"registered {created}; the hash is that of its manifest.json, which lists every file",
    )
    packages = []
    for name, version in pins(lock):
        purl = PackageURL("pypi", None, re.sub(r"[-_.]+", "-", name).lower(), version)
        packages.append(Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=purl.to_string()))
    bom = Bom(components=packages)
    bom.metadata.component = model
    bom.register_dependency(model, packages)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise RuntimeError(f"the bill of materials does not follow CycloneDX 1.6: {fault}")
    return text + "\n"


def pins(lock: str) -> list[tuple[str, str]]:
    """Name and version of each pinned package. Raises InputError if there is none."""
    found = [(match[1], match[2]) for line in lock.splitlines() if (match := PIN.match(line.strip()))]
    if not found:
        raise InputError(
            "environment-unknown", ENVIRONMENT_LOCK, "lines such as numpy==2.4.6", "none", "pin the environment with `make lock`"
        )
    return found

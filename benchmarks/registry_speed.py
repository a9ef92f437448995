"""How long the commands take with many releases: `python -m benchmarks.registry_speed` (200 of them on SQLite).

Versions and log entries have tags and hashes as real ones, each a lineage of sixty scans, which `cmb release register` leaves in
the workspace; only two of the releases have files, so that making them stays cheap.
Each command is a process of its own, as a user starts it; the best of three counts.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cmb_models.files import write_json
from cmb_models.hash_chain import append_entry
from cmb_models.registry.history.archive import keep
from cmb_models.registry.history.state import registry_state
from cmb_models.registry.mlflow.store import MODEL, open_registry
from cmb_models.registry.provenance.lineage import cache_lineage
from cmb_models.release.bundle import write_manifest
from tests.support.bundles import make_bundle

SCANS = {f"site_sub-{n:02}": hashlib.sha256(f"scan {n}".encode()).hexdigest() for n in range(60)}
# The history is read from the audit log alone; every other command imports mlflow, which takes seconds.
LIMIT_S = {
    "release history": 1.5,
    "release history --at 2026-01-01": 1.5,
    "release list": 6.0,
    "release verify": 6.0,
    "release lineage production": 6.0,
    f"release lineage --scan {SCANS['site_sub-07']}": 6.0,
    "release rollback --reason benchmark": 6.0,
}
REPEATS = 3


def make_workspace(folder: Path, n_releases: int) -> None:
    """A git workspace whose registry has `n_releases` versions, each promoted in its turn; the last two are kept, with files."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    bundle = make_bundle(folder / "bundle")
    write_json(bundle / "lineage.json", {"training_scans": SCANS, "calibrated_on": [], "locked_scans": {}})
    manifest = write_manifest(bundle)
    with open_registry(folder) as registry:
        registry.ensure_model()
        for number in range(1, n_releases + 1):
            client = registry.client
            client.create_model_version(MODEL, bundle.as_uri(), None, tags=_tags(number, manifest))
    before: dict[str, int] = {}
    for number in range(1, n_releases + 1):
        after = {"production": number, **({"previous": number - 1} if number > 1 else {})}
        append_entry(
            folder / "audit.jsonl", user="Site Engineer <engineer@site.example>", registered_by="", action="promote",
            release=number, manifest_sha256=manifest, reason="benchmark", forced=False, gate=[], gate_report_sha256="",
            before=before, after=after,
        )  # fmt: skip
        before = after
    with open_registry(folder) as registry:
        registry.move(before, registry_state(folder).head)
    for number in range(1, n_releases + 1):
        cache_lineage(folder, number, bundle, manifest)
    for number in (n_releases - 1, n_releases):
        keep(folder, number, bundle, manifest)


def _tags(number: int, manifest: str) -> dict[str, str]:
    """As many tags as a registration writes."""
    tags = {f"studies.unet.key{n}": str(n) for n in range(12)}
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    facts = {"created": "2026-01-01T00:00:00Z", "git_commit": digest[:40], "data_sha256": digest, "sensitivity": "0.9"}
    return tags | facts | {"fp_per_scan": "0.5", "user": "Site Engineer", "manifest_sha256": manifest}


def seconds(command: str, folder: Path) -> tuple[float, float]:
    """The best of some runs of one `cmb` command: by the clock, and of processor time, which other work slows less."""
    times = []
    for _ in range(REPEATS):
        begin, used = time.perf_counter(), os.times()
        run = "from cmb_models.cli import main; main()"
        subprocess.run([sys.executable, "-c", run, *command.split()], cwd=folder, check=True, capture_output=True, env=os.environ)
        now = os.times()
        cpu_s = now.children_user + now.children_system - used.children_user - used.children_system
        times.append((time.perf_counter() - begin, cpu_s))
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=200)
    n_releases = parser.parse_args().releases
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    folder = Path(tempfile.mkdtemp(prefix="registry-speed-"))
    try:
        make_workspace(folder, n_releases)
        for command, limit in LIMIT_S.items():
            took, cpu_s = seconds(command, folder)
            print(f"cmb {command}: {took:.2f} s ({cpu_s:.2f} s of processor time) with {n_releases} releases; at most {limit} s")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

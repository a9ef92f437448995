"""`make base`: make the base release in base/, a workspace of its own, by the commands that a site would type.

It simulates scans, trains, registers and signs a release, and copies it into the package, cmb_models/base_release/. Run again, it
redoes only what is not up to date. Everything that the release depends on stands in this file and in params.yaml: with the same
code, the same constants give the same release, up to rounding on other processors (docs/explanation/hardware.md), the time of
registration and the signing key, base/keys/release.key or the one that CMB_SIGNING_KEY names.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

from cmb_models import base_release
from cmb_models.errors import InputError
from cmb_models.files import atomic_directory, atomic_write, sha256_of
from cmb_models.registry.mlflow.store import fetch_release
from cmb_models.release.base import describe, load_base
from cmb_models.release.bundle import MANIFEST_FILE, WEIGHTS_DIR, load_bundle
from cmb_models.release.keys import KEYS_DIR, PUBLIC_FILE, public_pem, signing_key
from cmb_models.workspace.paths import BUNDLE
from scripts.simulated_site import CHECKOUT, SimulatedSite, console

WORKSPACE = CHECKOUT / "base"
# Options of `cmb simulate`. The names of the datasets are shown in the model card and in the lineage.
KIND = ("--generation", "2", "--preset", "random")
DEVELOPMENT = ("--scans", "96", "--cmbs", "384", "--cmb-free", "10", "--seed", "7101", "--faint-as-possible", *KIND)
LOCKED = ("--scans", "20", "--cmbs", "80", "--cmb-free", "2", "--seed", "7102", *KIND)
DATASETS = {"simulated": DEVELOPMENT, "simulated-locked": LOCKED}
# Of params.yaml, other than shipped: a start from random weights needs larger learning rates.
SETTINGS = {
    "train": {"init_from": "random"},
    "split": {"locked_datasets": ["simulated-locked"], "locked_fraction": 0.0, "folds": 2},
    "unet": {"channels": [16, 32, 64], "steps": 4800, "learning_rate": 0.01},
    "cnn": {"channels": [16, 32, 64], "steps": 2400, "learning_rate": 0.003},
    # One trial is the recipe itself: nothing is tuned.
    "tune_unet": {"trials": 1, "parallel_trials": 1, "steps": 10},
    "tune_cnn": {"trials": 1, "parallel_trials": 1, "steps": 10},
}
MOST_BYTES = 20_000_000  # of the bundle, which every installation carries


def create_key(site: SimulatedSite) -> Path:
    """The committed public key of the workspace, which thereby requires signatures; created at first."""
    public = site.folder / KEYS_DIR / PUBLIC_FILE
    if not public.is_file():
        key = signing_key(site.folder)
        if key is None:
            site.run("cmb", "keys", "create", KEYS_DIR)
        else:
            public.parent.mkdir(exist_ok=True)
            public.write_bytes(public_pem(key))
    site.commit("Releases are signed", str(public))
    return public


def is_up_to_date(workspace: Path, folder: Path) -> bool:
    """Whether the base release in `folder` was made from the workspace's exported bundle."""
    if not base_release.is_shipped(folder):
        return False
    try:
        return bool(load_base(folder=folder).lineage.get("export_sha256") == sha256_of(workspace / BUNDLE / MANIFEST_FILE))
    except InputError:
        return False


def ship(bundle: Path, public: Path, folder: Path) -> str:
    """Copy a signed release and its public key into a folder, the package's; returns its description.

    The key comes first: a copy that is stopped in between is refused when it is opened, and the next one completes it.

    Raises:
        InputError: If the key did not sign it, a file differs from its manifest, or it has no weights to start from.
        SystemExit: If it is too large, or was trained or evaluated on other scans than this script simulates.
    """
    verified = load_bundle(bundle, {public.name: public.read_bytes()})
    if missing := [name for name in ("unet", "cnn") if not (bundle / WEIGHTS_DIR / f"{name}.npz").is_file()]:
        raise InputError("bundle-incomplete", bundle, f"weights of {', '.join(missing)}", "none", "export it again")
    if (size := sum(p.stat().st_size for p in bundle.rglob("*") if p.is_file())) > MOST_BYTES:
        sys.exit(f"make base: {bundle} has {size / 1e6:.1f} MB, more than the {MOST_BYTES / 1e6:.0f} MB that the wheel may carry")
    if set(datasets := verified.lineage.get("datasets", {})) != set(DATASETS):
        sys.exit(f"make base: {bundle} is of the datasets {', '.join(datasets) or 'unknown'}, not of {', '.join(DATASETS)}")
    with atomic_write(folder / base_release.PUBLIC_KEY) as temporary:
        temporary.write_bytes(public.read_bytes())
    with atomic_directory(folder / base_release.BUNDLE) as copy:
        shutil.copytree(bundle, copy, dirs_exist_ok=True)
    return describe(load_base(folder=folder).metadata)


def make() -> None:
    started, folder = time.monotonic(), base_release.FOLDER
    site = SimulatedSite(WORKSPACE, "make base")
    site.create(SETTINGS)
    public = create_key(site)
    site.simulate(DATASETS)
    site.train()
    if is_up_to_date(WORKSPACE, folder):
        console.print("the base release in the package is that of this training")
        return
    release = re.search(r"release (\d+)", site.run("cmb", "release", "register", quiet=True)).group(1)
    shipped = ship(fetch_release(release, WORKSPACE).bundle_dir, public, folder)
    console.print(f"{shipped}: {folder}, to be committed", soft_wrap=True)
    console.print(f"everything on one page: {WORKSPACE / 'reports/report.html'}", soft_wrap=True)
    console.print(f"done in {(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    # As in simulated_site.ENVIRONMENT.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        make()
    except InputError as error:
        sys.exit(f"make base: {error}")
    except KeyboardInterrupt:
        sys.exit("make base was interrupted; run again, it continues where it stopped")

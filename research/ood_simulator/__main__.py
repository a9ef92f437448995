"""Evaluate a release on SWI-like scans of a second, independent simulator, next to its figures on its own held-out scans.

    python -m research.ood_simulator --bundle FOLDER [--scans 20] [--seed 0]
    python -m research.ood_simulator --workspace FOLDER    # its models/bundle, and its reports/evaluate
    python -m research.ood_simulator --train    # the recipe of params.yaml on 15 scans of this simulator, evaluated on others

Writes ood_simulator.json, ood_simulator.png (curves) and ood_simulator_scans.png to research/results.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cmb_models.config.params import load_params
from cmb_models.dataset.layout import find_scans
from cmb_models.errors import InputError
from cmb_models.files import write_json
from cmb_models.release.bundle import BundleDetector
from research.ood_simulator.dataset import write_scans
from research.ood_simulator.evaluate import own_locked, score, table, with_intervals
from research.ood_simulator.pictures import froc_picture, scans_picture
from research.ood_simulator.scan import MIN_CNR, PROTOCOLS
from research.stages import ROOT, create_workspace, folder_for, run_stages

TEST, SITE = "other", "other_site"
SITE_SEED = 1_000_000  # added to the seed of the training scans, so that no test scan is among them
GIVEN = "out-of-distribution scans"
OWN = "the release's own held-out scans"
TRAINED = "trained on out-of-distribution scans"


def chosen_bundle(bundle: Path | None, workspace: Path | None, training: bool) -> Path | None:
    """The bundle to measure; None when only the trained one is wanted. Raises InputError unless that is clear."""
    if (bundle and workspace) or not (bundle or workspace or training):
        raise InputError(
            "options-conflict", "research.ood_simulator", "--bundle or --workspace, or --train", "both or none", "name one release"
        )
    return workspace / "models/bundle" if workspace else bundle


def main(
    bundle: Annotated[Path | None, typer.Option(help="Folder of a release.")] = None,
    workspace: Annotated[
        Path | None, typer.Option(help="A site's workspace: its release and the figures of its held-out scans.")
    ] = None,
    scans: Annotated[int, typer.Option(min=1)] = 20,
    seed: Annotated[int, typer.Option(min=0, max=SITE_SEED - 1)] = 0,
    training: Annotated[bool, typer.Option("--train", help="Also train the recipe on scans of this simulator.")] = False,
    site_scans: Annotated[int, typer.Option(min=3, help="Scans to train on.")] = 15,
    keep: Annotated[Path | None, typer.Option(help="Keep the scans, and what was trained, in this new folder.")] = None,
    out: Path = ROOT / "research/results",
    params_file: Annotated[Path, typer.Option("--params")] = ROOT / "params.yaml",
) -> None:
    release, params = chosen_bundle(bundle, workspace, training), load_params(params_file)
    detector = BundleDetector(release) if release else None
    decision = detector.bundle.config.decision if detector else None
    evaluated = {OWN: (own_locked(workspace / "reports/evaluate", decision.threshold), decision)} if workspace else {}
    with folder_for(keep) as folder:
        raw = folder / "data/raw"
        write_scans(raw / TEST, scans, seed)
        files = find_scans(raw / TEST)
        shown = [f for f in files if any(a.is_cmb for a in f.annotations)] or files
        scans_picture(shown[: len(PROTOCOLS)], out / "ood_simulator_scans.png")
        if detector:
            evaluated[GIVEN] = (score(detector, raw, TEST), decision)
        if training:
            write_scans(raw / SITE, site_scans, SITE_SEED + seed)
            create_workspace(folder, params, TEST)
            list(run_stages(folder))
            trained = BundleDetector(folder / "models/bundle")
            evaluated[TRAINED] = (score(trained, raw, TEST), trained.bundle.config.decision)
    figures = {name: with_intervals(own, decided, params) for name, (own, decided) in evaluated.items()}
    about = {"scans": scans, "seed": seed, "voxels_mm": [list(p) for p in PROTOCOLS], "min_cnr": MIN_CNR}
    release_sha256 = detector.bundle.manifest_sha256 if detector else None
    site = {"scans": site_scans, "seed": SITE_SEED + seed} if training else None
    write_json(
        out / "ood_simulator.json", {"generator": about, "manifest_sha256": release_sha256, "trained_on": site, "figures": figures}
    )
    froc_picture(evaluated, params.evaluate.tolerance_mm, out / "ood_simulator.png")
    print(table(figures))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")

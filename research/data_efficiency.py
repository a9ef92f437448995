"""How many site scans does it take, from the base release and from random weights? On scans of the out-of-distribution simulator.

    python -m research.data_efficiency FOLDER --start base --start random --scans 0 --scans 3 --scans 5 --scans 8 --scans 15

Each combination is trained in a workspace of its own in FOLDER, on the first scans of one set, and evaluated on the same other
scans. Figures are added to research/results/data_efficiency.json; a killed run continues.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cmb_models.base_release import BASE
from cmb_models.config.params import Params, load_params
from cmb_models.dataset.layout import ANNOTATIONS
from cmb_models.errors import InputError
from cmb_models.files import atomic_directory, read_json, write_json
from cmb_models.release.base import base_bundle
from cmb_models.release.bundle import BundleDetector
from research.ood_simulator.__main__ import SITE_SEED
from research.ood_simulator.dataset import write_scans
from research.ood_simulator.evaluate import score, sensitivity_at
from research.stages import RANDOM_START, ROOT, create_workspace, run_stages

OUT = ROOT / "research/results/data_efficiency.json"
# A start from the base release: its networks, fewer steps and lower learning rates. Another release may need other channels.
CHANNELS = [16, 32, 64]
RELEASE_START: dict[str, dict[str, Any]] = {
    "unet": {"channels": CHANNELS, "steps": 600, "learning_rate": 0.003},
    "cnn": {"channels": CHANNELS, "steps": 500, "learning_rate": 0.001},
}
TEST, SITE = "other", "site"
TEST_SCANS, TEST_SEED = 20, 0  # as in research.ood_simulator
RATES = (0.5, 1.0)  # false positives per scan
FOLDS = 3


def write_sets(folder: Path, most: int) -> None:
    """The test scans and `most` site scans, of which each training takes the first; complete sets are kept."""
    for name, count, seed in ((TEST, TEST_SCANS, TEST_SEED), (SITE, most, SITE_SEED)):
        if count and not (folder / name / ANNOTATIONS).is_file():
            with atomic_directory(folder / name) as temporary:
                write_scans(temporary, count, seed)


def first_scans(folder: Path, count: int, into: Path) -> None:
    """Link the first `count` subjects of a set into another dataset, with their rows of annotations.csv."""
    into.mkdir(parents=True)
    chosen = [f"sub-{n + 1:03d}" for n in range(count)]
    for subject in chosen:
        (into / subject).symlink_to((folder / subject).resolve(), target_is_directory=True)
    header, *rows = (folder / ANNOTATIONS).read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if row.split(",")[0] in chosen]
    (into / ANNOTATIONS).write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")


def settings(params: Params, start: str) -> Params:
    """params.yaml for a start from "base", from "random" or from a bundle folder, by networks of one size; nothing is tuned."""
    changes = params.model_dump(mode="json")
    for name in ("tune_unet", "tune_cnn"):
        changes[name] |= {"trials": 1, "parallel_trials": 1, "steps": 4}
    changes["split"] |= {"folds": FOLDS}
    changes["train"] |= {"init_from": start}
    recipe = {name: own | {"channels": CHANNELS} for name, own in RANDOM_START.items()} if start == "random" else RELEASE_START
    for name, own in recipe.items():
        changes[name] |= own
        search = changes[f"tune_{name}"]["search"]
        search |= {key: [min(*search[key], own[key]), max(*search[key], own[key])] for key in own if search.get(key)}
    return Params.model_validate(changes)


def trained(sets: Path, workspace: Path, count: int, start: str, params: Params) -> Path:
    """The bundle of a release trained on the first `count` site scans; one that is complete is kept."""
    bundle = workspace / "models/bundle"
    if not bundle.is_dir():
        raw = workspace / "data/raw"
        if not (raw / TEST).exists():
            first_scans(sets / TEST, TEST_SCANS, raw / TEST)
            first_scans(sets / SITE, count, raw / SITE)
            create_workspace(workspace, settings(params, start), TEST)
        list(run_stages(workspace))
    return bundle


def as_it_is(start: str) -> Path:
    """The bundle that a training would start from."""
    return base_bundle() if start == BASE else Path(start)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder for scans and workspaces.")],
    start: Annotated[list[str], typer.Option(help="base, random or a bundle folder; repeatable.")],
    scans: Annotated[list[int], typer.Option(min=0, help="Site scans; repeatable. 0: the start as it is.")],
    out: Annotated[Path, typer.Option(help="JSON file to add to.")] = OUT,
    params_file: Annotated[Path, typer.Option("--params")] = ROOT / "params.yaml",
) -> None:
    """Train and evaluate every combination."""
    params, folder = load_params(params_file), folder.resolve()
    raw = folder / "raw"
    write_sets(raw, max(scans))
    done = {(f["start"], f["scans"]) for f in read_json(out)["figures"]} if out.is_file() else set()
    asked = [(name, count) for name in start for count in scans if count or name != "random"]
    for name, count in asked:
        if (name, count) in done:
            continue
        bundle = trained(raw, folder / f"{Path(name).name}-{count}", count, name, params) if count else as_it_is(name)
        figures = {"start": name, "scans": count} | sensitivity_at(score(BundleDetector(bundle), raw, TEST), RATES, params)
        add(out, figures)
        print(figures)


def add(out: Path, figures: dict) -> None:
    """Add a combination's figures to the JSON, in place of earlier ones of the same combination."""
    found = read_json(out)["figures"] if out.is_file() else []
    others = [f for f in found if (f["start"], f["scans"]) != (figures["start"], figures["scans"])]
    write_json(out, {"figures": sorted([*others, figures], key=lambda f: (f["start"], f["scans"]))})


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")

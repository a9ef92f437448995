"""Compare the phantom with real slices: darkness and width of microbleeds, texture, and a two-sample test.

    python -m research.real_planes FOLDER [--scans 10] [--generation 1 --generation 2]

FOLDER holds planes.npz, planes.csv and axial/; only figures of it are written. Simulated scans are kept in research/.cache.
"""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from cmb_models.files import write_json
from cmb_models.machine import cores
from research.real_planes.images import Planes, Slice, patches, read_real, simulated
from research.real_planes.measures import lesion_figures, texture_figures
from research.real_planes.two_sample import real_vs_phantom_auc
from research.stages import ROOT

SLICES, PATCHES, PATCH_MM = 4, 20, 48.0  # of each simulated scan, of each slice, and a patch's side
CACHE = ROOT / "research/.cache/real_planes"


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the real planes.")],
    scans: Annotated[int, typer.Option(help="Simulated subjects for each generation.")] = 10,
    generation: Annotated[list[int] | None, typer.Option(help="PhantomConfig.generation; repeatable.")] = None,
    tag: Annotated[str, typer.Option(help="Part of the cache's file names: another one simulates again.")] = "",
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = ROOT / "research/results/real_planes.json",
) -> None:
    """Measure real and simulated images by the same rules."""
    slices, planes = read_real(folder)
    rng = np.random.default_rng(0)
    real = list(patches(slices, rng, PATCHES, PATCH_MM))
    cmbs = [p for p in planes if p.kind == "cmb"]
    result: dict = {"real": {"lesions": lesion_figures(cmbs), "texture": texture_figures(slices)}}
    for kind in generation or [1, 2]:
        own_slices, own_planes = _scans(kind, scans, tag)
        own = list(patches(own_slices, rng, PATCHES, PATCH_MM))
        result[f"generation {kind}"] = own_figures = {
            "lesions": lesion_figures(own_planes),
            "texture": texture_figures(own_slices),
            "real_vs_phantom_auc": real_vs_phantom_auc(real, own),
        }
        print(kind, own_figures["real_vs_phantom_auc"])
    write_json(out, result)


def _scans(kind: int, count: int, tag: str) -> tuple[list[Slice], list[Planes]]:
    CACHE.mkdir(parents=True, exist_ok=True)
    files = [CACHE / f"generation{kind}{tag}-{seed}.pickle" for seed in range(count)]
    with ProcessPoolExecutor(min(2, cores())) as pool:
        list(pool.map(_keep, files, [kind] * count, range(count)))
    made = [pickle.loads(f.read_bytes()) for f in files]
    return [s for slices, _ in made for s in slices], [p for _, planes in made for p in planes]


def _keep(file: Path, kind: int, seed: int) -> None:
    if not file.is_file():
        file.write_bytes(pickle.dumps(simulated(900 + seed, kind, SLICES)))


if __name__ == "__main__":
    typer.run(main)

"""The benchmark's scans: a pool to train on and a test set, simulated once, and which of the pool each draw gets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cmb_models.config.params import Params, Split
from cmb_models.dataset.index import index_datasets
from cmb_models.dataset.split import split_subjects
from cmb_models.errors import InputError
from cmb_models.files import atomic_directory, read_json, sha256_of, write_json
from cmb_models.phantom import write_dataset
from cmb_models.phantom.presets import MIXED
from cmb_models.training.data.preparation import prepare_training

ROOT = Path(__file__).resolve().parents[2]
POOL, TEST = "pool", "test"
POOL_CMBS, TEST_CMBS = 40 / 15, 2.5  # a scan: as many as in the paper's training set; 75 in 30 test scans
TEST_FREE = 8 / 30  # share of test scans without a microbleed, where only false positives can be found


@dataclass(frozen=True)
class ScanRequest:
    """Number of scans in the pool and in the test set, their protocols, and the seed of the pool; the test set has the next one."""

    pool: int = 60
    test: int = 30
    presets: tuple[str, ...] = MIXED
    seed: int = 740  # 700's test scans were looked at before stage 2 had filters, 720's when its weight was chosen


@dataclass(frozen=True)
class Scans:
    """raw: holds the datasets `pool` and `test`. index: their scans (io.index). name: changes with any of their bytes."""

    raw: Path
    index: tuple[dict, ...]
    name: str

    def subjects(self, dataset: str) -> list[str]:
        return sorted({e["subject"] for e in self.index if e["dataset"] == dataset})


def simulate(cache: Path, wanted: ScanRequest, workers: int) -> Scans:
    """Write the scans below `cache`, or find them there; a killed run continues where it stopped."""
    folder = cache / f"scans-{short_hash(asdict(wanted))}"
    sets = {POOL: (wanted.pool, POOL_CMBS, 0), TEST: (wanted.test, TEST_CMBS, round(TEST_FREE * wanted.test))}
    for n, (name, (scans, cmbs, free)) in enumerate(sets.items()):
        many, out = round(cmbs * scans), folder / "raw" / name
        write_dataset(out, scans, many, wanted.seed + n, free, workers, wanted.presets, progress=True)
    if not (folder / "index.json").is_file():
        write_json(folder / "index.json", index_datasets(folder / "raw")["scans"])
    index = read_json(folder / "index.json")
    return Scans(folder / "raw", tuple(index), short_hash([e["sha256"] for e in index]))


def split_of(scans: Scans, subjects: Sequence[str], settings: Split) -> dict:
    """Folds of these pool subjects by the site's own rule, all test subjects locked."""
    chosen = {*subjects, *scans.subjects(TEST)}
    settings = settings.model_copy(update={"locked_datasets": (TEST,), "locked_fraction": 0.0})
    return split_subjects([e for e in scans.index if e["subject"] in chosen], settings, min_scans=1)


def prepare(cache: Path, scans: Scans, params: Params) -> Path:
    """The pool on the networks' grid, prepared once for these settings and this code; the folder."""
    code = code_hash(["cmb_models/detect", "cmb_models/phantom", "cmb_models/training"])
    settings = [getattr(params, name).model_dump(mode="json") for name in ("preprocess", "lesion_bank")]
    folder = cache / f"prepared-{short_hash([scans.name, settings, code])}"
    if not folder.is_dir():
        split = split_of(scans, scans.subjects(POOL), params.split)
        with atomic_directory(folder) as temporary:
            prepare_training(scans.raw, list(scans.index), split, params.preprocess, params.lesion_bank, temporary)
    return folder


def draw(subjects: Sequence[str], size: int, number: int, seed: int) -> list[str]:
    """The first `size` subjects of draw `number`'s order: within a draw a smaller set lies in every larger one."""
    if not 1 <= size <= len(subjects):
        raise InputError(
            "setting-invalid", "sizes", f"1 to {len(subjects)}, the scans of the pool", str(size), "ask for fewer, or a larger pool"
        )
    order = np.random.default_rng([seed, number]).permutation(sorted(subjects))
    return sorted(order[:size].tolist())


@contextlib.contextmanager
def only(prepared: Path, keys: Sequence[str]) -> Iterator[Path]:
    """A folder with these prepared scans alone, and what belongs to no scan, as links; removed afterwards."""
    scans = {p.stem for p in prepared.glob("*.json")}
    with tempfile.TemporaryDirectory() as folder:
        for file in prepared.iterdir():
            key = file.name.partition(".")[0]  # of <key>.npy and <key>.brain.npy alike
            if key in keys or key not in scans:
                (Path(folder) / file.name).symlink_to(file.resolve())
        yield Path(folder)


def short_hash(value: object) -> str:
    """12 hexadecimal digits of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def code_hash(places: Sequence[str]) -> str:
    """Hash of the Python files at these places of the repository, so that a result of other code is never taken for this one's."""
    files = sorted(f for p in places for f in ([ROOT / p] if p.endswith(".py") else (ROOT / p).rglob("*.py")))
    return short_hash({f.relative_to(ROOT).as_posix(): sha256_of(f) for f in files})

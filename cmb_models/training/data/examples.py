"""A prepared scan with what is marked in it, as training and cross-validation hold it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_models.dataset.entries import SubjectSplit
from cmb_models.dataset.leakage import keep_apart
from cmb_models.detect.preprocess import Prepared
from cmb_models.errors import InputError
from cmb_models.files import atomic_write, read_json, write_json
from cmb_models.io.annotations import Annotation
from cmb_models.training.data.brain_mask import BrainMask, find_brain_mask
from cmb_models.training.synthesis.insertion import LESION_BANK_FILES, LesionBank, read_lesion_bank

PHASE_ENDING = ".phase.npy"
BRAIN_ENDING = ".brain.npy"


@dataclass(frozen=True)
class Example:
    """One training scan on the working grid. `source_affine` is the stored scan's, for reporting in its own space.

    sha256, content_sha256: of the stored scan's file and voxels, which identify the scan whatever its name. lesion_bank: lesions
    simulated for its voxel size; None where none are inserted. phase_sha256: of the phase image's file, "" where phase is not used.
    brain: where they may be inserted; None in one made by hand, where samplers look for it themselves.
    """

    key: str
    subject: str
    prepared: Prepared
    annotations: tuple[Annotation, ...]
    source_affine: np.ndarray
    sha256: str
    lesion_bank: LesionBank | None = None
    phase_sha256: str = ""
    brain: BrainMask | None = None
    content_sha256: str = ""

    def centres_mm(self, label: str) -> np.ndarray:
        """Centres (N, 3) of the annotations of one label ("cmb", "possible"); (0, 3) for none."""
        return np.array([a.centre_mm for a in self.annotations if a.label == label]).reshape(-1, 3)


def save_example(folder: Path, example: Example, lesion_bank_file: str = "") -> None:
    """Write a prepared scan, with its brain mask, as files named by its key.

    <key>.npy is the image (can be memory-mapped), <key>.phase.npy the phase if there is one, <key>.brain.npy the mask, <key>.json
    all else. The JSON file is written last and marks a complete set.

    Args:
        folder: Folder to write to.
        example: The scan.
        lesion_bank_file: Name of the file in `folder` with synthetic lesions for this scan (write_lesion_bank); "" for none.
    """
    prepared = example.prepared
    brain = find_brain_mask(prepared.image, prepared.spacing_mm, prepared.air)
    arrays = {".npy": prepared.image, PHASE_ENDING: prepared.phase, BRAIN_ENDING: brain.bits}
    for ending, array in arrays.items():
        if array is not None:
            with atomic_write(folder / f"{example.key}{ending}") as temporary:
                np.save(temporary, array)
    about = {
        "subject": example.subject,
        "sha256": example.sha256,
        "content_sha256": example.content_sha256,
        "affine": prepared.affine.tolist(),
        "shape": list(prepared.shape),
        "source_affine": example.source_affine.tolist(),
        "annotations": [vars(a) for a in example.annotations],
        "lesion_bank": lesion_bank_file,
    }
    write_json(folder / f"{example.key}.json", about | ({"phase_sha256": example.phase_sha256} if example.phase_sha256 else {}))


def load_examples(folder: Path) -> list[Example]:
    """All examples of a folder by key, images memory-mapped: a hundred scans cost no more memory than is touched.

    [] for an empty folder. Training uses `load_training`, which rejects locked ones. Raises InputError for a scan
    that an earlier version prepared.
    """
    found, lesion_bank = [], {"": None} | {p.name: read_lesion_bank(p) for p in Path(folder).glob(LESION_BANK_FILES)}
    for file in sorted(Path(folder).glob("*.json")):
        about = read_json(file)
        if not file.with_suffix(BRAIN_ENDING).is_file():
            raise InputError(
                "prepared-outdated",
                file,
                f"{file.stem}{BRAIN_ENDING} next to it",
                "none",
                "remove data/prepared and run `dvc repro`",
            )
        image, bits = (np.load(file.with_suffix(ending), mmap_mode="r") for ending in (".npy", BRAIN_ENDING))
        phase = np.load(file.with_suffix(PHASE_ENDING), mmap_mode="r") if "phase_sha256" in about else None
        prepared = Prepared(image, np.array(about["affine"]), tuple(about["shape"]), phase)
        marked = tuple(Annotation(**a) for a in about["annotations"])
        source, inserted = np.array(about["source_affine"]), lesion_bank[about["lesion_bank"]]
        sha256, phase_sha256 = about["sha256"], about.get("phase_sha256", "")
        more = (sha256, inserted, phase_sha256, BrainMask(bits), about.get("content_sha256", ""))
        found.append(Example(file.stem, about["subject"], prepared, marked, source, *more))
    return found


def load_training(folder: Path, split: SubjectSplit) -> list[Example]:
    """The examples of the subjects in the split's folds, by key, once all in the folder are known to be no locked ones.

    split: split.json, or the part of it that nested cross-validation works on (validation.jobs.inner_split), whose `held_out`
    subjects are left out. Raises InputError for a scan that is locked, by subject or by content, or in no fold, and
    for no scans at all.
    """
    remedy = "remove data/prepared and run `dvc repro`"
    examples = load_examples(folder)
    keep_apart("training folds", split["folds"], [*split["locked"], *split.get("held_out", ())], "run the split stage again")
    keep_apart("training data", (e.subject for e in examples), split["locked"], remedy)
    locked = set(split["locked_sha256"])
    if same := [e.key for e in examples if locked & {e.sha256, e.content_sha256, e.phase_sha256}]:
        raise InputError(
            "leakage", "training data", "no scan of the locked set", f"{', '.join(same)}, the same file as a locked one", remedy
        )
    known = {*split["folds"], *split.get("held_out", ())}
    if strays := sorted({e.subject for e in examples} - known):
        raise InputError(
            "split-incomplete", "training data", "subjects that split.json puts in a fold", f"{', '.join(strays)}", remedy
        )
    training = [e for e in examples if e.subject in split["folds"]]
    if not training:
        raise InputError("prepared-missing", folder, "prepared training scans", "none", "run `dvc repro`")
    with_cmbs = {split["folds"][e.subject] for e in training if len(e.centres_mm("cmb"))}
    if bare := sorted(set(split["folds"].values()) - with_cmbs):
        got = f"none in fold {bare[0] + 1}: it has no sensitivity, and tuning nothing to go by"
        raise InputError(
            "training-too-few", "split.json", "a marked CMB in every fold", got, "run the split stage again, with fewer folds"
        )
    return training

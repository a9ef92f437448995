"""A prepared scan with what is marked in it, as training and cross-validation hold it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_models.detect.preprocess import Prepared
from cmb_models.files import read_json, replacing, write_json
from cmb_models.io.annotations import Annotation


@dataclass(frozen=True)
class Example:
    """One training scan on the working grid. `source_affine` is the stored scan's, for reporting in its own space."""

    key: str
    subject: str
    prepared: Prepared
    annotations: tuple[Annotation, ...]
    source_affine: np.ndarray

    def centres_mm(self, label: str) -> np.ndarray:
        """Centres (N, 3) of the annotations of one label ("cmb", "possible"); (0, 3) for none."""
        return np.array([a.centre_mm for a in self.annotations if a.label == label]).reshape(-1, 3)


def save_example(folder: Path, example: Example) -> None:
    """Write <key>.npy (the image, which can be memory-mapped) and <key>.json (all else); the JSON last, it marks a whole pair."""
    with replacing(folder / f"{example.key}.npy") as temporary:
        np.save(temporary, example.prepared.image)
    about = {
        "subject": example.subject,
        "affine": example.prepared.affine.tolist(),
        "shape": list(example.prepared.shape),
        "source_affine": example.source_affine.tolist(),
        "annotations": [vars(a) for a in example.annotations],
    }
    write_json(folder / f"{example.key}.json", about)


def load_examples(folder: Path) -> list[Example]:
    """All examples of a folder by key, images memory-mapped: a hundred scans cost no more memory than is touched."""
    found = []
    for file in sorted(Path(folder).glob("*.json")):
        about = read_json(file)
        image = np.load(file.with_suffix(".npy"), mmap_mode="r")
        prepared = Prepared(image, np.array(about["affine"]), tuple(about["shape"]))
        marked = tuple(Annotation(**a) for a in about["annotations"])
        found.append(Example(file.stem, about["subject"], prepared, marked, np.array(about["source_affine"])))
    return found

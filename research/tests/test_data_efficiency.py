"""The study of site scans needed, with the scans of two subjects made by hand."""

from __future__ import annotations

import numpy as np

from cmb_models.config.params import load_params
from cmb_models.dataset.layout import find_scans
from cmb_models.files import read_json
from cmb_models.io.annotations import Annotation, EmptyReading, write_annotations
from cmb_models.io.nifti import write_volume
from cmb_models.volume import Volume
from research import data_efficiency as study
from research.stages import RANDOM_START
from tests.support.imports import ROOT

PARAMS = load_params(ROOT / "params.yaml")


def test_a_training_sees_the_first_scans_with_their_marks(tmp_path):
    raw = tmp_path / "site"
    for n in range(1, 4):
        file = raw / f"sub-{n:03d}/swi/sub-{n:03d}_swi.nii.gz"
        file.parent.mkdir(parents=True)
        write_volume(file, Volume(np.full((4, 5, 6), n, np.float32), np.eye(4)))
    marks = [Annotation(f"sub-{n:03d}", "", float(n), 0.0, 0.0, 3.0, "cmb", "r") for n in (1, 3)]
    write_annotations(raw / "annotations.csv", marks, [EmptyReading("sub-002", "", "r")])
    study.first_scans(raw, 2, tmp_path / "some/site")
    found = find_scans(tmp_path / "some/site")
    assert [(s.subject, [a.x_mm for a in s.annotations]) for s in found] == [("sub-001", [1.0]), ("sub-002", [])]


def test_nothing_is_tuned_and_a_random_start_has_its_own_recipe():
    random, other = (study.settings(PARAMS, start) for start in ("random", "some/bundle"))
    assert (random.train.init_from, other.train.init_from) == ("random", "some/bundle")
    assert random.tune_unet.trials == other.tune_cnn.trials == 1
    assert random.unet.steps == RANDOM_START["unet"]["steps"]
    assert other.unet.steps == study.RELEASE_START["unet"]["steps"]
    assert list(other.unet.channels) == list(random.unet.channels) == study.CHANNELS


def test_figures_of_a_combination_replace_earlier_ones(tmp_path):
    out = tmp_path / "figures.json"
    for start, scans, value in (("base", 3, 1), ("base", 0, 2), ("base", 3, 3)):
        study.add(out, {"start": start, "scans": scans, "value": value})
    assert [(f["scans"], f["value"]) for f in read_json(out)["figures"]] == [(0, 2), (3, 3)]

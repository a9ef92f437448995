"""Leaks on the way from a file to a prepared image: each inserted on purpose must be refused."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from cmb_models.config.params import Params, Preprocess, load_params
from cmb_models.dataset.index import index_datasets
from cmb_models.dataset.split import split_subjects
from cmb_models.detect.preprocess import Prepared, prepare
from cmb_models.evaluation.run import score_scans
from cmb_models.files import sha256_of
from cmb_models.io.nifti import write_volume
from cmb_models.release.bundle import BundleDetector
from cmb_models.training.data import preparation
from cmb_models.training.data.examples import load_training
from tests.support.bundles import head, head_phase, make_bundle
from tests.support.imports import ROOT
from tests.support.refused import refused

PARAMS = load_params(ROOT / "params.yaml")
NO_LESIONS = PARAMS.lesion_bank.model_copy(update={"lesions": 0})


@pytest.fixture
def site(tmp_path):
    """Three real files of two datasets with their index and split."""
    for dataset, subjects in (("s", ("sub-a", "sub-b")), ("l", ("sub-a",))):
        for n, subject in enumerate(subjects):
            scan = head(seed=n + 10 * len(subjects))
            write_volume(tmp_path / "raw" / dataset / subject / "swi" / f"{subject}_swi.nii.gz", scan)
        rows = "subject,session,x_mm,y_mm,z_mm,diameter_mm,label,rater\n" + "".join(f"{s},,-10,-5,0,3,cmb,r\n" for s in subjects)
        (tmp_path / "raw" / dataset / "annotations.csv").write_text(rows)
    index = index_datasets(tmp_path / "raw")["scans"]
    settings = PARAMS.split.model_copy(update={"folds": 2, "locked_datasets": ("l",), "locked_fraction": 0.0})
    return tmp_path, index, split_subjects(index, settings, 2)


def write_phase(folder, **how):
    """Phase images, as head_phase draws them, beside the three scans; their files by dataset and subject."""
    files = {}
    for dataset, subject, seed in (("s", "sub-a", 20), ("s", "sub-b", 21), ("l", "sub-a", 10)):
        files[dataset, subject] = folder / "raw" / dataset / subject / "swi" / f"{subject}_part-phase_swi.nii.gz"
        write_volume(files[dataset, subject], head_phase(seed=seed, **how))
    return files


def images(folder):
    return {p.name: sha256_of(p) for p in folder.glob("*.npy")}


def test_only_training_scans_are_prepared_and_each_as_if_it_were_alone(site):
    folder, index, split = site
    statistics = preparation.prepare_training(folder / "raw", index, split, PARAMS.preprocess, NO_LESIONS, folder / "all")
    assert statistics.keys() == {"s_sub-a", "s_sub-b"} and statistics["s_sub-a"]["slice_mm"] == 2.0
    assert 0 < statistics["s_sub-a"]["spread_to_median"] < 1 < statistics["s_sub-a"]["p99_to_median"]
    assert set(images(folder / "all")) == {f"s_sub-{s}{ending}" for s in "ab" for ending in (".npy", ".brain.npy")}
    examples = load_training(folder / "all", split)
    assert {e.key: e.sha256 for e in examples} == {e["key"]: e["sha256"] for e in index if e["dataset"] == "s"}
    alone = [e for e in index if e["subject"] != "s_sub-b"]
    shutil.rmtree(folder / "raw/s/sub-b")
    shutil.move(folder / "raw/l/annotations.csv", folder / "raw/s/annotations.csv")  # of the same place
    shutil.rmtree(folder / "raw/l")  # no locked scan either, from which something could have been taken
    split = {**split, "folds": {"s_sub-a": 0}}
    preparation.prepare_training(folder / "raw", alone, split, PARAMS.preprocess, NO_LESIONS, folder / "one")
    assert set(images(folder / "one")) == {"s_sub-a.npy", "s_sub-a.brain.npy"}
    assert images(folder / "one").items() < images(folder / "all").items()


def test_phase_is_prepared_from_the_file_that_was_checked(site):
    folder, _, split = site
    settings = PARAMS.preprocess.model_copy(update={"phase": True})
    files = write_phase(folder, sign=-1)
    index = index_datasets(folder / "raw", settings)["scans"]
    preparation.prepare_training(folder / "raw", index, split, settings, NO_LESIONS, folder / "both")
    assert set(images(folder / "both")) == {f"s_sub-{s}{ending}" for s in "ab" for ending in (".npy", ".phase.npy", ".brain.npy")}
    for scan in load_training(folder / "both", split):
        assert scan.phase_sha256 == sha256_of(files["s", scan.key.removeprefix("s_")])
        assert scan.prepared.phase[30, 35, 16] > 1 and abs(np.median(scan.prepared.phase)) < 0.1  # a spot's middle; all of the scan
    shutil.copy(files["s", "sub-a"], files["s", "sub-b"])
    with refused("scan-changed"):
        preparation.prepare_training(folder / "raw", index, split, settings, NO_LESIONS, folder / "again")


def test_normalisation_statistics_over_several_scans(site, monkeypatch):
    """A running mean over the scans seen so far, as an online normaliser keeps it."""
    folder, index, split = site
    seen = []

    def pooled(volume, settings, case, phase):
        own = prepare(volume, settings, case, phase)
        seen.append(float(volume.data.mean()))
        return Prepared((own.image - np.float32(np.mean(seen) - seen[0])), own.affine, own.shape)

    monkeypatch.setattr(preparation, "prepare", pooled)
    with refused("leakage"):
        preparation.prepare_training(folder / "raw", index, split, PARAMS.preprocess, NO_LESIONS, folder / "prepared")


def test_phase_statistics_over_several_scans(site, monkeypatch):
    """The same with phase alone: a drift from scan to scan."""
    folder, _, split = site
    settings, seen = PARAMS.preprocess.model_copy(update={"phase": True}), []
    write_phase(folder)
    index = index_datasets(folder / "raw", settings)["scans"]

    def drifting(volume, settings, case, phase):
        seen.append(case)
        own = prepare(volume, settings, case, phase)
        return replace(own, phase=own.phase + np.float32(len(seen)))

    monkeypatch.setattr(preparation, "prepare", drifting)
    with refused("leakage"):
        preparation.prepare_training(folder / "raw", index, split, settings, NO_LESIONS, folder / "prepared")


@pytest.mark.parametrize("statistic", ["mean", "std", "percentiles"])
def test_statistics_cannot_travel_in_the_settings(statistic):
    """The settings are what every scan is prepared with, in training and when served: no place for numbers of other scans."""
    with pytest.raises(ValueError, match=f"{statistic}\n  Extra inputs are not permitted"):
        Preprocess.model_validate({**PARAMS.preprocess.model_dump(), statistic: 1.0})
    assert Params.model_config["extra"] == "forbid"


def test_a_file_that_changed_since_it_was_checked_is_not_prepared(site):
    folder, index, split = site
    shutil.copy(folder / "raw/l/sub-a/swi/sub-a_swi.nii.gz", folder / "raw/s/sub-b/swi/sub-b_swi.nii.gz")
    with refused("scan-changed"):
        preparation.prepare_training(folder / "raw", index, split, PARAMS.preprocess, NO_LESIONS, folder / "prepared")


def test_a_held_out_scan_that_changed_since_it_was_checked_is_not_evaluated(site):
    folder, index, _ = site
    locked = [entry for entry in index if entry["dataset"] == "l"]
    shutil.copy(folder / "raw/s/sub-b/swi/sub-b_swi.nii.gz", folder / "raw/l/sub-a/swi/sub-a_swi.nii.gz")
    with refused("scan-changed", case="raw/l"):
        score_scans(BundleDetector(make_bundle(folder / "bundle")), folder / "raw", locked)


class OtherDisk:
    """Workers that do not share the workspace's storage: what they write lies in a folder of theirs."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, jobs, steps, description):
        return [function(replace(job, folder=self.folder)) for job in jobs]


def test_scans_that_workers_wrote_elsewhere_are_missed(site, monkeypatch):
    monkeypatch.setattr(preparation, "SEEN_S", 1)
    folder, index, split = site
    with refused("worker-inputs", case="prepared", got="no s_sub-a, s_sub-b"):
        preparation.prepare_training(
            folder / "raw", index, split, PARAMS.preprocess, NO_LESIONS, folder / "prepared", pool=OtherDisk(folder / "elsewhere")
        )


def test_a_scan_that_is_gone_is_named(site):
    folder, *_ = site
    scan = next(s for s in preparation.find_scans(folder / "raw/s"))
    scan.path.unlink()
    with refused("scan-not-found", case="sub-a_swi", got="no such file"):
        preparation.require_indexed(scan.path, "00")

"""Datasets of simulated scans: a site's layout, exact counts, safe to kill, and never over somebody's files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmb_models.dataset.check.frames import DARK, darkness
from cmb_models.dataset.layout import find_scans
from cmb_models.io.annotations import read_annotations
from cmb_models.io.nifti import read_volume
from cmb_models.phantom import write_dataset
from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.dataset import as_read, cmb_counts, new_counts
from cmb_models.phantom.scan import simulate_scan
from cmb_models.volume import index_from_world
from tests.support.refused import refused

ASKED = {"scans": 5, "cmbs": 9, "seed": 11, "cmb_free": 1, "presets": ("small",)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Five small scans, one without microbleeds, nine microbleeds in all, made in this process."""
    out = tmp_path_factory.mktemp("phantom") / "set"
    write_dataset(out, workers=1, **ASKED)
    return out


def test_dataset_holds_what_was_asked_for(dataset):
    scans = find_scans(dataset)
    counts = [sum(a.is_cmb for a in s.annotations) for s in scans]
    assert len(scans) == 5 and sum(counts) == 9 and counts.count(0) == 1
    for scan, count in zip(scans, counts, strict=True):
        name = scan.path.parent.parent.name
        image = read_volume(scan.path)
        beside = [scan.path.with_name(f"{name}_{part}.nii.gz") for part in ("part-phase_swi", "part-mag_swi", "minIP")]
        masks = [dataset / f"derivatives/masks/{name}/{name}_{kind}.nii.gz" for kind in ("brain", "cmb", "mimic", "vein")]
        for path in (*beside, *masks):
            other = read_volume(path)
            assert other.data.shape == image.data.shape == (96, 96, 40)
            np.testing.assert_allclose(other.affine, image.affine)
        assert image.spacing_mm == pytest.approx((1, 1, 2))
        assert image.data.min() >= 0 and image.data.max() <= 4095
        assert read_volume(masks[1]).data.max() == count


@pytest.mark.ci
def test_same_seed_same_bytes_whatever_the_workers(dataset, tmp_path):
    write_dataset(tmp_path / "set", workers=2, **ASKED)
    assert files_of(tmp_path / "set") == files_of(dataset)


def test_a_killed_run_continues_and_leaves_finished_scans_alone(dataset, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(dataset, out)
    before = files_of(out)
    (out / "annotations.csv").unlink()
    with refused("dataset-layout"):
        find_scans(out)  # half a dataset does not look like one
    (out / "derivatives/truth/sub-002/truth.json").unlink()  # its images were written, the kill came before the end
    (out / "sub-004/swi/sub-004_swi.nii.gz").unlink()
    (out / ".partial-x-annotations.csv").write_text("")
    touched = {p: p.stat().st_mtime_ns for p in out.rglob("sub-00[135]*.nii.gz")}
    assert len(touched) == 24
    write_dataset(out, workers=1, **ASKED)
    (out / ".partial-x-annotations.csv").unlink()
    assert files_of(out) == before
    assert touched == {p: p.stat().st_mtime_ns for p in touched}


@pytest.mark.ci
def test_a_run_killed_without_warning_is_finished_by_the_next(dataset, tmp_path):
    """SIGKILL after the first subject, whatever was being written; the same bytes in the end as without it."""
    out = tmp_path / "set"
    command = [str(Path(sys.executable).with_name("cmb")), "simulate", str(out), "--scans", "5", "--cmbs", "9", "--seed", "11"]
    command += ["--cmb-free", "1", "--preset", "small", "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("derivatives/truth/sub-001/truth.json")):
        assert process.poll() is None and time.monotonic() < deadline, "the run ended or hung before its first subject"
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (out / "annotations.csv").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    left = {name: content for name, content in files_of(out).items() if ".partial-" not in name}
    assert left == files_of(dataset)


def test_another_request_or_foreign_files_are_refused_untouched(dataset, tmp_path):
    before = files_of(dataset)
    with refused("folder-taken"):
        write_dataset(dataset, **(ASKED | {"seed": 12}))
    assert files_of(dataset) == before
    (tmp_path / "notes.txt").write_text("mine")
    with refused("folder-taken"):
        write_dataset(tmp_path, **ASKED)
    assert files_of(tmp_path) == {"notes.txt": b"mine"}
    with refused("folder-taken"):
        write_dataset(tmp_path / "notes.txt", **ASKED)
    with refused("folder-not-writable"):
        write_dataset(tmp_path / "notes.txt" / "set", **ASKED)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "phantom.json").write_text("{not json")
    with refused("folder-taken"):
        write_dataset(tmp_path / "other", **ASKED)
    assert (tmp_path / "other" / "phantom.json").read_text() == "{not json"


def test_a_dataset_that_is_mended_does_not_look_whole_meanwhile(dataset, tmp_path, monkeypatch):
    out = tmp_path / "set"
    shutil.copytree(dataset, out)
    (out / "derivatives/masks/sub-003/sub-003_vein.nii.gz").unlink()

    def no_room(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmb_models.phantom.dataset._write_scan", no_room)
    with refused("folder-not-writable"):
        write_dataset(out, workers=1, **ASKED)
    assert not (out / "annotations.csv").exists()


def test_what_does_not_fit_names_its_subject(tmp_path, monkeypatch):
    monkeypatch.setattr("cmb_models.phantom.lesions.placing.TRIES", 1)
    with refused("phantom-no-room"):
        write_dataset(tmp_path / "set", scans=2, cmbs=110, seed=0, workers=1, presets=("small",))


@pytest.mark.parametrize(
    ("numbers", "case", "got"),
    [
        ({"scans": 0}, "scans", "0"),
        ({"cmbs": 1}, "cmbs", "1"),
        ({"cmbs": 121}, "cmbs", "121"),
        ({"cmb_free": 3}, "cmb_free", "3"),
        ({"cmb_free": -1}, "cmb_free", "-1"),
        ({"cmb_free": 2, "cmbs": 1}, "cmbs", "1"),
        ({"seed": -1}, "seed", "-1"),
        ({"workers": 0}, "workers", "0"),
        ({"new_cmbs": -1}, "new_cmbs", "-1"),
        ({"new_cmbs": 116}, "new_cmbs", "116"),
        ({"calcifications": -1}, "calcifications", "-1"),
        ({"calcifications": 31}, "calcifications", "31"),
        ({"presets": ("ukb", "siemens")}, "preset", "^siemens$"),
        ({"presets": ()}, "preset", "none"),
        ({"changes": {"spacing_mm": (0.1, 1.0, 2.0)}}, "spacing_mm", "0.1, 1.0, 2.0"),
        ({"changes": {"spacing_mm": (0.4, 0.4, 0.4)}}, "spacing_mm", "106 million"),
        ({"changes": {"te_ms": 0.0}}, "te_ms", "0.0"),
    ],
    ids=str,
)
def test_numbers_that_cannot_be_met_are_refused(numbers, case, got, tmp_path):
    with refused("phantom-setting", case=f"phantom {case}$", got=got):
        write_dataset(tmp_path / "set", **({"scans": 2, "cmbs": 5, "seed": 0} | numbers))
    assert not (tmp_path / "set").exists()


def test_more_calcifications_leave_everything_else_where_it_is(dataset, tmp_path):
    write_dataset(tmp_path / "set", workers=1, **(ASKED | {"calcifications": 3}))
    lesions = {}
    for folder in (dataset, tmp_path / "set"):
        truths = [json.loads(p.read_text()) for p in sorted(folder.glob("derivatives/truth/*/truth.json"))]
        lesions[folder] = [t["lesions"] for t in truths]
        assert [t["request"].get("calcifications") for t in truths] == [None if folder == dataset else 3] * ASKED["scans"]
    for usual, more in zip(*lesions.values(), strict=True):
        added = more[len(usual) :]
        assert more[: len(usual)] == usual and len(added) == 3
        assert {lesion["label"] for lesion in added} == {"mimic:calcification"} and all(lesion["chi_ppm"] < 0 for lesion in added)
        assert {lesion["region"] for lesion in added} <= {"subcortical_white", "cortex_junction"}
    rows = [r for r in read_annotations(tmp_path / "set/annotations.csv") if r.label == "mimic:calcification"]
    assert len(rows) >= 3 * ASKED["scans"]


def test_microbleeds_that_no_reader_would_see_become_possible(tmp_path):
    """At an echo so short that some are not dark; images and other annotations stay."""
    faint = {"generation": 2, "field_t": 1.5, "te_ms": 8.0}
    scan = simulate_scan(3, 8, replace(PhantomConfig.small(), **faint))
    cmbs = [a for a in scan.annotations if a.is_cmb]
    dark = darkness(scan.swi, index_from_world(np.array([a.centre_mm for a in cmbs]), scan.swi.affine))
    read = as_read(scan)
    assert [a.is_cmb for a in read[: len(cmbs)]] == list(dark >= DARK)
    assert {a.label for a in read[: len(cmbs)]} == {"cmb", "possible"}
    assert read[len(cmbs) :] == scan.annotations[len(cmbs) :]
    assert [a.centre_mm for a in read] == [a.centre_mm for a in scan.annotations]

    request = {"scans": 1, "cmbs": 12, "seed": 3, "workers": 1, "presets": ("small",), "changes": faint}
    write_dataset(tmp_path / "as-drawn", **request)
    write_dataset(tmp_path / "as-read", **request, faint_as_possible=True)
    drawn, read = (read_annotations(tmp_path / name / "annotations.csv") for name in ("as-drawn", "as-read"))
    assert [a.centre_mm for a in drawn] == [a.centre_mm for a in read]
    assert {a.label for a in read} - {a.label for a in drawn} == {"possible"}
    swi = "sub-001/swi/sub-001_swi.nii.gz"
    assert (tmp_path / "as-drawn" / swi).read_bytes() == (tmp_path / "as-read" / swi).read_bytes()


def test_missing_nilearn_is_told_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused("package-missing"):
        write_dataset(tmp_path / "set", scans=1, cmbs=1, seed=0, presets=("small",))
    assert not (tmp_path / "set").exists()


def test_a_second_time_point_is_a_session_with_the_new_ones(tmp_path):
    write_dataset(tmp_path / "set", scans=2, cmbs=3, seed=4, presets=("small",), new_cmbs=3)
    scans = find_scans(tmp_path / "set")
    assert [s.session for s in scans] == ["ses-01", "ses-02"] * 2
    counts = np.array([sum(a.is_cmb for a in s.annotations) for s in scans]).reshape(2, 2)
    assert counts[:, 0].sum() == 3 and counts[:, 1].sum() == 6 and np.all(counts[:, 1] >= counts[:, 0])
    truth = json.loads((tmp_path / "set/derivatives/truth/sub-001/ses-02/truth.json").read_text())
    assert truth["request"]["new_cmbs"] == 3 and truth["preset"] == "small"
    rows = [r.label for r in read_annotations(tmp_path / "set/annotations.csv") if (r.subject, r.session) == ("sub-001", "ses-02")]
    assert [lesion["label"] for lesion in truth["lesions"]] == rows
    marked = [r for s in scans for r in s.annotations if (s.subject, s.session) == ("sub-001", "ses-02")]
    assert [lesion["region"] for lesion in truth["lesions"]] == [r.region for r in marked] and all(r.region for r in marked)


def test_counts_are_exact_and_heavy_tailed():
    """Of the positive scans 49 % have one, 28 % two to four, 10 % five to nine, 14 % more; 4.63 on average."""
    counts = cmb_counts(np.random.default_rng(0), 1200, 4630, 200)
    assert counts.sum() == 4630 and (counts == 0).sum() == 200
    positive = counts[counts > 0]
    shares = [np.mean((positive >= low) & (positive <= high)) for low, high in ((1, 1), (2, 4), (5, 9), (10, 60))]
    np.testing.assert_allclose(shares, [0.49, 0.28, 0.10, 0.13], atol=0.05)  # 1.6 % is one standard deviation; totals are forced
    few = cmb_counts(np.random.default_rng(0), 15, 40, 0)
    assert few.sum() == 40 and few.min() == 1


def test_new_counts_are_exact_and_never_too_many():
    counts = np.array([0, 1, 58, 60, 3])
    new = new_counts(np.random.default_rng(0), counts, 40)
    assert new.sum() == 40 and new.min() >= 0 and (counts + new).max() <= 60
    assert new_counts(np.random.default_rng(0), counts, 0).sum() == 0


def test_presets_are_shared_out_evenly(tmp_path):
    from cmb_models.phantom.dataset import _jobs, _request

    jobs = _jobs(tmp_path, _request(9, 20, 3, 1, ("ukb", "aibl", "clinical"), None, {}, 0))
    names = [j.preset for j in jobs]
    assert sorted(names) == sorted(("ukb", "aibl", "clinical") * 3) and names != sorted(names)
    assert sum(j.n_cmbs[0] for j in jobs) == 20


def test_help_names_every_preset():
    from cmb_models.cli.simulate import PRESET_HELP
    from cmb_models.phantom.presets import MIXED, PRESETS

    assert all(name in PRESET_HELP for name in PRESETS)
    assert f"[default: {', '.join(MIXED)}]" in PRESET_HELP

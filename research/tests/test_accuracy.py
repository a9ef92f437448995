"""The accuracy benchmark's draws and sums, on detections made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmb_models.config.params import load_params
from cmb_models.dataset.layout import ScanFile
from cmb_models.errors import InputError
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.io.annotations import Annotation, write_annotations
from research.accuracy.__main__ import listed, scaled
from research.accuracy.methods import OURS, RADIAL, Outcome, Task, total_steps
from research.accuracy.points import Point, load, path_of, save
from research.accuracy.report import Resampled, picture, table
from research.accuracy.scans import Scans, draw, only
from research.alternatives.radial_symmetry import FEATURES, GRID, Spots, choose, fit, out_of_fold
from tests.support.imports import ROOT

PARAMS = load_params(ROOT / "params.yaml")
LESIONS = (4, 0, 2, 2)  # microbleeds of each test scan


def scan(n: int, found: int, false: int = 0) -> ScoredScan:
    """Test scan `n`, 30 mm from one microbleed to the next, of which the first `found` were found, all with score .9."""
    subject = f"sub-{n}"
    marked = tuple(Annotation(subject, "", 30.0 * k, 0.0, 0.0, 3.0, "cmb", "r") for k in range(LESIONS[n]))
    centres = [(30.0 * k, 0.0, 0.0) for k in range(found)] + [(0.0, 30.0 * (k + 1), 0.0) for k in range(false)]
    return ScoredScan(f"test_{subject}", f"test_{subject}", marked, np.array(centres).reshape(-1, 3), np.full(found + false, 0.9))


def point(name: str, size: int, number: int, found=LESIONS, false=(0, 0, 0, 0)) -> Point:
    scans = [scan(n, f, x) for n, (f, x) in enumerate(zip(found, false, strict=True))]
    return Point(name, size, number, 12.5, 2, 100, {}, scans)


def test_draws_are_nested_seeded_and_different():
    pool = [f"s{n}" for n in range(40)]
    small, large, again, other = draw(pool, 3, 0, 7), draw(pool, 15, 0, 7), draw(pool[::-1], 3, 0, 7), draw(pool, 3, 1, 7)
    assert set(small) < set(large) and len(set(large)) == 15
    assert again == small != other
    with pytest.raises(InputError, match="1 to 40"):
        draw(pool, 41, 0, 7)


def test_only_the_wanted_scans_are_linked_and_what_belongs_to_none(tmp_path):
    for name in ("a.npy", "a.brain.npy", "a.json", "b.npy", "b.brain.npy", "b.json", "lesions_0.80x0.80.npz"):
        (tmp_path / name).write_text(name)
    with only(tmp_path, ["b"]) as folder:
        assert sorted(p.name for p in folder.iterdir()) == ["b.brain.npy", "b.json", "b.npy", "lesions_0.80x0.80.npz"]
        assert (folder / "b.json").read_text() == "b.json"
    assert not folder.exists() and (tmp_path / "b.json").is_file()


def test_sensitivity_and_difference_by_hand():
    # Ours finds all 8; the other 4 + 0 + 2 + 0 = 6 of 8 in draw 0 and 4 of 8 in draw 1: .75 and .5.
    other = [point(RADIAL, 3, 0, (4, 0, 2, 0)), point(RADIAL, 3, 1, (2, 0, 2, 0))]
    resampled = Resampled([*other, point(OURS, 3, 0), point(OURS, 3, 1)], PARAMS)
    ours, theirs = resampled.methods()
    assert (ours["name"], theirs["name"]) == (OURS, RADIAL)
    assert [p["sensitivity"] for p in theirs["points"]] == [0.75, 0.5]
    assert theirs["points"][0] | {"scans": 3, "draw": 0, "seconds": 12.5, "steps": 100} == theirs["points"][0]
    low, high = theirs["points"][0]["interval_95"]
    assert 0 <= low < 0.75 < high <= 1
    assert ours["points"][0]["interval_95"][0] < 0.7  # all 8 of 8 found is not certainty: Wilson's interval
    (difference,) = resampled.differences()
    assert difference["than"] == RADIAL and difference["draws"] == 2
    assert difference["mean"] == pytest.approx(0.375) and difference["each"] == pytest.approx([0.25, 0.5])
    assert 0 <= difference["interval_95"][0] < 0.375 < difference["interval_95"][1]
    assert {r["name"]: r["mean"] for r in resampled.means()} == {OURS: 1.0, RADIAL: pytest.approx(0.625)}


def test_only_draws_that_both_have_are_compared():
    resampled = Resampled([point(OURS, 3, 0), point(OURS, 5, 0), point(RADIAL, 3, 0), point(RADIAL, 3, 1)], PARAMS)
    (difference,) = resampled.differences()
    assert (difference["scans"], difference["draws"], difference["mean"]) == (3, 1, 0.0)


def test_sensitivity_is_read_at_one_false_positive_a_scan():
    # All scores are equal, so there is one threshold: 4 false positives in 4 scans pass, 5 do not.
    one, more = point(OURS, 3, 0, false=(1, 1, 1, 1)), point(OURS, 3, 1, false=(2, 1, 1, 1))
    first, second = Resampled([one, more], PARAMS).methods()[0]["points"]
    assert (first["sensitivity"], second["sensitivity"]) == (1.0, 0.0)


def test_table_and_picture_take_what_there_is(tmp_path):
    for points in ([], [point(OURS, 3, 0)], [point(OURS, 3, 0), point(RADIAL, 15, 0, (1, 0, 0, 0))]):
        resampled = Resampled(points, PARAMS)
        picture(resampled, "title", tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "0.12" in table(resampled) and "-" in table(resampled)


def test_points_survive_the_disk_and_are_found_by_what_they_depend_on(tmp_path):
    rows = [a for n in range(4) for a in scan(n, 0).annotations]
    write_annotations(tmp_path / "raw/test/annotations.csv", rows)
    for n in range(4):
        file = tmp_path / f"raw/test/sub-{n}/swi/sub-{n}_swi.nii.gz"
        file.parent.mkdir(parents=True)
        file.touch()
    split = {"folds": {"pool_a": 0, "pool_b": 1}, "locked": []}
    task = Task("radial", 3, 1, split, tmp_path / "raw", Path("prepared"), Path("extra"), PARAMS)
    scans = Scans(tmp_path / "raw", (), "name")
    path = path_of(tmp_path, task, scans)
    assert load(path, tmp_path / "raw/test") == []
    before = [scan(n, f, 1) for n, f in enumerate((1, 0, 2, 0))]
    save(path, task, [Outcome(RADIAL, before, 7, {"a": 1})], 3.5, 2)
    (after,) = load(path, tmp_path / "raw/test")
    assert (after.name, after.size, after.draw, after.seconds, after.steps, after.chosen) == (RADIAL, 3, 1, 3.5, 7, {"a": 1})
    assert [s.scores.tolist() for s in after.scans] == [s.scores.tolist() for s in before]
    assert [s.annotations for s in after.scans] == [s.annotations for s in before]
    others = [
        path_of(tmp_path, task, Scans(tmp_path, (), "other scans")),
        path_of(tmp_path, Task(**{**vars(task), "params": scaled(PARAMS, 0.5, 0)}), scans),
        path_of(tmp_path, Task(**{**vars(task), "split": {"folds": {"pool_a": 0, "pool_c": 1}}}), scans),
    ]
    assert len({path, *others}) == 4
    gate = PARAMS.gate.model_copy(update={"min_sensitivity": 0.123})
    assert path_of(tmp_path, Task(**{**vars(task), "params": PARAMS.model_copy(update={"gate": gate})}), scans) == path


def spotted(hits: list[int | None], features: np.ndarray) -> list[tuple[ScanFile, Spots]]:
    """Scans of the pool, each with candidates of these features (scans, candidates, F) and a microbleed at one of them or none."""
    centres = np.arange(3.0 * features.shape[1]).reshape(-1, 3) * 10
    marked = [[] if k is None else [Annotation(f"sub-{n}", "", *centres[k], 3.0, "cmb", "r")] for n, k in enumerate(hits)]
    scans = [ScanFile("pool", f"sub-{n}", "", Path("x"), tuple(own), True) for n, own in enumerate(marked)]
    return [(scan, Spots(centres, f)) for scan, f in zip(scans, features, strict=True)]


def test_radial_symmetry_is_judged_by_weights_of_the_other_folds():
    features = np.random.default_rng(0).normal(size=(3, 6, len(FEATURES)))
    own = spotted([0, 2, None], features)
    scores = {s.key: s.scores for s in out_of_fold(own, {"pool_sub-0": 0, "pool_sub-1": 1, "pool_sub-2": 1}, 3.0)}
    by_the_others = fit(np.concatenate(features[1:]), np.arange(12) == 2)
    assert scores["pool_sub-0"] == pytest.approx(by_the_others.score(features[0]))
    by_the_first = fit(features[0], np.arange(6) == 0)
    assert scores["pool_sub-2"] == pytest.approx(by_the_first.score(features[2]))
    assert len(scores) == 3


def test_radial_symmetrys_settings_are_those_that_carry_over():
    rng, hits = np.random.default_rng(1), [0, 1, 2, 3, 4, 5]
    noise = rng.normal(size=(len(GRID), len(hits), 8, len(FEATURES)))  # weights fitted on three hits tell them apart by chance
    noise[5, np.arange(len(hits)), hits, 2] += 6  # only these settings' candidates show what a microbleed is
    by_settings = [spotted(hits, f) for f in noise]
    training = [(scan, [own[n][1] for own in by_settings]) for n, (scan, _) in enumerate(by_settings[0])]
    assert choose(training, {f"pool_sub-{n}": n % 2 for n in hits}, 3.0, 2.0) == 5


def test_scaling_shortens_both_trainings_and_moves_the_seeds():
    half = scaled(PARAMS, 0.5, 2)
    assert half.unet.steps == round(PARAMS.unet.steps / 2) and half.cnn.steps == round(PARAMS.cnn.steps / 2)
    assert half.train.seed == PARAMS.train.seed + 2 and half.detect_candidates.seed == PARAMS.detect_candidates.seed + 2
    assert total_steps(half) == (PARAMS.split.folds + 1) * half.unet.steps + half.cnn.steps
    assert scaled(PARAMS, 1e-9, 0).cnn.steps == 4


def test_options_are_refused_by_name():
    assert listed("3, 15", "--sizes") == ["3", "15"]
    for wrong in ("", "3,three", "0", "3,3"):
        with pytest.raises(InputError, match="--sizes: expected a list of whole numbers"):
            listed(wrong, "--sizes")
    with pytest.raises(InputError, match="two-stage, radial"):
        listed("two-stage,yolo", "--methods", ("two-stage", "radial"))

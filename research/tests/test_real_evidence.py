"""One command for all figures of a release on real images, and the page of all releases."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cmb_models.errors import InputError
from cmb_models.files import read_json
from research.real_cubes import control
from research.real_evidence.__main__ import PAGE, RESULTS, main, with_row
from research.real_evidence.page import page
from research.stages import ROOT
from tests.support.bundles import make_bundle

DATA = Path(ROOT / "../shared/data")
needs_data = pytest.mark.skipif(not (DATA / "dou_planes").is_dir(), reason="the real files are not here")


def rows():
    return read_json(RESULTS)["releases"]


def test_the_page_is_that_of_the_json():
    assert PAGE.read_text(encoding="utf-8") == page(rows())


def test_a_changed_figure_changes_the_page():
    changed = copy.deepcopy(rows())
    changed[0]["cubes"]["real_cmb_found"]["count"] += 1
    changed[0]["backgrounds"]["gre_crop"]["untouched"]["false_positives"] += 1
    assert sum(a != b for a, b in zip(page(rows()).splitlines(), page(changed).splitlines(), strict=True)) == 2


def test_a_release_without_some_figures_has_a_row():
    row = copy.deepcopy(rows()[0]) | {"name": "with phase", "cubes": {"left_out": "no phase"}}
    for name in ("gbb7t mean_data", "gbb7t mean_epi"):
        row["backgrounds"][name] = {"left_out": "no phase"}
    line = next(x for x in page([row]).splitlines() if x.startswith("| with phase"))
    assert line.count("–  ") == 0 and line.split(" | ")[1:7] == ["–"] * 6 and "of" in line
    assert page([]).count("\n## Limits") == 1


def test_a_row_is_replaced_by_name():
    before = [{"name": "a", "x": 1}, {"name": "b", "x": 2}]
    assert with_row(before, {"name": "a", "x": 3}) == [{"name": "a", "x": 3}, {"name": "b", "x": 2}]
    assert with_row(before, {"name": "c", "x": 3}) == [*before, {"name": "c", "x": 3}]


@pytest.mark.parametrize("arguments", [{}, {"bundle": Path("x")}, {"bundle": Path("x"), "name": "n", "render": True}])
def test_unclear_options_are_refused(arguments):
    with pytest.raises(InputError) as error:
        main(**arguments)
    assert error.value.code == "options-conflict"


@needs_data
def test_one_command_measures_everything(tmp_path):
    bundle, results, document = make_bundle(tmp_path / "bundle", threshold=0.5), tmp_path / "r.json", tmp_path / "r.md"
    app = typer.Typer()
    app.command()(main)
    few = ["--data", str(DATA), "--lesions", "2", "--control-scans", "0", "--results", str(results), "--document", str(document)]
    done = CliRunner().invoke(app, [str(bundle), "--name", "hand-made", *few, "--pictures", str(tmp_path / "pictures")])
    assert done.exit_code == 0, done.output
    (row,) = read_json(results)["releases"]
    assert document.read_text(encoding="utf-8") == page([row]) and "| hand-made |" in page([row])
    pictures = len(list((tmp_path / "pictures").glob("*.png")))
    found = [s["untouched"] for s in row["backgrounds"].values()]
    assert pictures == sum(f["false_positives"] + f["outside_the_brain"] for f in found)
    for forbidden in (ROOT / "pictures", ROOT / "research/results"):
        done = CliRunner().invoke(app, [str(bundle), "--name", "x", *few, "--pictures", str(forbidden)])
        assert isinstance(done.exception, InputError) and done.exception.code == "setting-invalid"


def test_the_control_knows_the_cubes_of_all_lesions(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "CACHE", tmp_path)
    known = control.known_cubes(1, 1)
    assert known and {k.label == "cmb" for k in known} == {True, False}
    for one in known:
        assert one.cube.shape == (49, 49, 49)
        assert (abs(one.axial - one.cube[24, 24, 24]).min()) < 0.25 * one.axial.max()
    darkest = [k.cube[20:29, 20:29, 20:29].min() / k.axial[k.axial > 0].mean() for k in known if k.label == "cmb"]
    assert max(darkest) < 0.7
    assert len(control.known_cubes(1, 1)) == len(known)  # read back from the cache

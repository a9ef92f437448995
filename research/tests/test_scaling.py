"""The scaling study: a cell trains on the scans it names and adds its figures to the others' JSON."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from cmb_models.config.params import load_params
from cmb_models.files import read_json
from cmb_models.training.data.examples import save_example
from research.scaling import __main__ as command
from research.scaling.cells import Cell, run_cell
from research.scaling.sets import DEVELOPMENT, OOD, PHANTOMS
from tests.support.examples import UNET, example
from tests.support.imports import ROOT


@pytest.fixture
def folder(tmp_path):
    """Prepared scans of all three sets: three development scans with one, two and three microbleeds."""
    centres = [(10, 10, 10), (22, 8, 20), (8, 24, 16)]
    for name, counts in {DEVELOPMENT: (1, 2, 3), PHANTOMS: (2,), OOD: (3, 1)}.items():
        (tmp_path / "prepared" / name).mkdir(parents=True)
        for n, count in enumerate(counts):
            save_example(tmp_path / "prepared" / name, replace(example(centres[:count], key=f"sub-{n}"), subject=f"{name}-{n}"))
    return tmp_path


def params(steps):
    return load_params(ROOT / "params.yaml").model_copy(update={"unet": UNET.model_copy(update={"steps": steps})})


def test_a_cell_trains_on_the_first_scans_with_its_own_steps_and_channels(folder):
    measured = run_cell(folder, Cell(scans=2, steps=1.5, channels=4), params(4))
    assert (measured["scans"], measured["cmbs"], measured["optimizer_steps"]) == (2, 3, 6)
    assert {name: (measured[name]["scans"], measured[name]["cmbs"]) for name in (PHANTOMS, OOD)} == {PHANTOMS: (1, 2), OOD: (2, 4)}
    wide = run_cell(folder, Cell(scans=2, steps=1.5, channels=8), params(4))
    assert wide["parameters"] > 3 * measured["parameters"]
    assert len(list(folder.glob("*.pt"))) == 2


def test_a_network_that_learns_from_more_steps_finds_more(folder):
    few, many = (run_cell(folder, Cell(3, steps, 8), params(100)) for steps in (0.02, 1.2))
    assert many[OOD]["froc"][-1]["sensitivity"] > few[OOD]["froc"][-1]["sensitivity"]


def test_cells_are_added_to_the_json_and_measured_again_ones_replaced(folder, monkeypatch):
    monkeypatch.setattr(command, "recipe_from_random", lambda: params(4))
    out = folder / "scaling.json"
    for scans, steps in ((2, 1.0), (1, 1.0), (2, 1.0)):
        asked = ["cell", str(folder), "--scans", str(scans), "--steps", str(steps), "--channels", "4", "--out", str(out)]
        assert CliRunner().invoke(command.app, asked, catch_exceptions=False).exit_code == 0
    cells = read_json(out)["cells"]
    assert [c["scans"] for c in cells] == [1, 2]
    lines = CliRunner().invoke(command.app, ["table", "--out", str(out)]).output.splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1

"""A site's workspace: created whole, upgraded without losing what the site changed."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from cmb_models.config.params import load_params
from cmb_models.workspace import template as module
from cmb_models.workspace.code_lock import read_lock
from cmb_models.workspace.template import create, relock, template, upgrade
from tests.support.refused import refused


@pytest.fixture
def site(tmp_path):
    create(tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def newer(monkeypatch):
    """Makes the installed template a newer one: replaces `old` by `new` in a file."""
    current = template()

    def change(name, old, new):
        path = next(p for p in current if str(p) == name)
        assert old in current[path]
        current[path] = current[path].replace(old, new)
        monkeypatch.setattr(module, "template", lambda: current)

    return change


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_new_workspace_is_whole(site):
    load_params(site / "params.yaml")
    stages = yaml.safe_load((site / "dvc.yaml").read_text())["stages"]
    assert {p.stem for p in (site / "pipelines").glob("*.py")} == set(stages) == set(read_lock(site).stages)
    status = subprocess.run(["git", "status", "--porcelain"], cwd=site, check=True, capture_output=True, text=True).stdout
    assert all(line.startswith("A  ") for line in status.splitlines()), status
    assert "code.lock" in status and ".dvc/config" in status
    done = subprocess.run(["git", "check-ignore", "data/prepared", "mlflow.db"], cwd=site, capture_output=True, text=True)
    assert done.stdout.split() == ["data/prepared", "mlflow.db"]


def test_a_folder_with_data_in_it_becomes_a_workspace(tmp_path):
    (tmp_path / "data/raw/site").mkdir(parents=True)
    (tmp_path / "data/raw/site/annotations.csv").write_text("mine")
    (tmp_path / ".gitignore").write_text("/notes/\n")
    create(tmp_path)
    assert (tmp_path / "data/raw/site/annotations.csv").read_text() == "mine"
    assert (tmp_path / ".gitignore").read_text().startswith("/notes/\n__pycache__/")


def test_nothing_is_overwritten(site, tmp_path):
    with refused("folder-taken"):
        create(site)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/params.yaml").write_text("mine: 1")
    with refused("folder-taken"):
        create(tmp_path / "other")
    assert (tmp_path / "other/params.yaml").read_text() == "mine: 1" and not (tmp_path / "other/dvc.yaml").exists()


def test_an_upgrade_keeps_the_sites_values_and_takes_the_templates(site, newer):
    edit(site / "params.yaml", "steps: 1600", "steps: 800")
    edit(site / "params.yaml", "folds: 3", "folds: 5")
    newer("params.yaml", "folds: 3", "folds: 4")  # both changed it: the site's stays
    newer("params.yaml", "min_scans: 3", "min_scans: 5")
    done = upgrade(site)
    params = load_params(site / "params.yaml")
    assert (params.unet.steps, params.split.folds, params.ingest.min_scans) == (800, 5, 5)
    shown = "\n".join(done.differences.values())
    assert "+  min_scans: 5" in shown and "folds" not in shown.replace(" folds: 5", "")
    assert upgrade(site).differences == {}


def test_an_upgrade_that_clashes_in_code_changes_nothing(site, newer):
    edit(site / "pipelines/split.py", "def main() -> None:", "def main() -> None:  # ours")
    newer("pipelines/split.py", "def main() -> None:", "def main() -> None:  # theirs")
    newer("params.yaml", "min_scans: 3", "min_scans: 5")
    before = {p: p.read_bytes() for p in site.rglob("*") if p.is_file() and ".git/" not in str(p)}
    with refused("upgrade-conflict", got=r"pipelines/split\.py"):
        upgrade(site)
    assert {p: p.read_bytes() for p in site.rglob("*") if p.is_file() and ".git/" not in str(p)} == before


def test_a_script_that_the_template_no_longer_has_is_removed_unless_the_site_changed_it(site, monkeypatch):
    fewer = {name: text for name, text in template().items() if str(name) != "pipelines/report.py"}
    monkeypatch.setattr(module, "template", lambda: fewer)
    edit(site / "pipelines/report.py", "def main() -> None:", "def main() -> None:  # ours")
    with refused("upgrade-conflict", got=r"pipelines/report\.py"):
        upgrade(site)
    edit(site / "pipelines/report.py", "def main() -> None:  # ours", "def main() -> None:")
    assert "-def main() -> None:" in "\n".join(upgrade(site).differences.values())
    assert not (site / "pipelines/report.py").exists() and upgrade(site).differences == {}


def test_a_changed_value_of_a_renamed_key_is_named(site):
    """As if an older template had called it so, and the site had changed it."""
    edit(site / ".cmb/template/params.yaml", "min_scans: 3", "least_scans: 3")
    edit(site / "params.yaml", "min_scans: 3", "least_scans: 4")
    before = (site / "params.yaml").read_text()
    with refused("upgrade-conflict", case=r"params\.yaml", got="least_scans"):
        upgrade(site)
    assert (site / "params.yaml").read_text() == before


def test_an_upgrade_names_the_code_that_changed_and_the_stages_it_makes_stale(site):
    edit(site / "code.lock", f"split: {read_lock(site).stages['split']}", "split: 0123456789abcdef")
    edit(site / "code.lock", read_lock(site).modules["cmb_models.dataset.split"], "0" * 16)
    edit(site / "code.lock", "library: ", "library: 0.0.1+")
    done = upgrade(site)
    assert done.code.stages == ("split",) and done.code.modules == ("cmb_models.dataset.split",)
    assert done.library.startswith("0.0.1")
    assert not relock(site).code


def test_an_upgrade_outside_of_a_workspace_is_refused(tmp_path):
    with refused("code-lock-damaged"):
        upgrade(tmp_path)

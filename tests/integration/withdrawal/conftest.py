"""The data of `data.write_data` in a workspace with two releases, and in git alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmb_models.files import sha256_of
from cmb_models.registry.promote import promote
from cmb_models.registry.register import register
from tests.integration import registry_workspace
from tests.integration.registry_site import copy_site
from tests.integration.registry_workspace import GOOD, LINEAGE, begin, dvc, git, retrain
from tests.integration.withdrawal.data import swi, write_data


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Release 1, in production, was trained on sub-1 of site; release 2 on an earlier scan of that name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        for name in ("MLFLOW_TRACKING_URI", "CMB_SIGNING_KEY"):
            patch.delenv(name, raising=False)
        folder = tmp_path_factory.mktemp("withdraw") / "site"
        folder.mkdir()
        begin(folder)
        patch.chdir(folder)
        write_data()
        dvc(folder, "add", "data/raw/site", "data/raw/locked")
        trained = {"site_sub-1": sha256_of(swi("sub-1")), "site_sub-10": sha256_of(swi("sub-10"))}
        patch.setattr(registry_workspace, "LINEAGE", LINEAGE | {"training_scans": trained, "calibrated_on": ["site_sub-1"]})
        retrain(folder, GOOD)
        register(folder)
        promote("1", "first", folder)
        patch.setattr(registry_workspace, "LINEAGE", LINEAGE | {"training_scans": trained | {"site_sub-1": "0" * 64}})
        retrain(folder, GOOD | {"sensitivity": 0.9})
        register(folder)
        return folder


@pytest.fixture
def workspace(made, tmp_path, monkeypatch) -> Path:
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()  # MLflow remembers a run's place by its id, which all copies share
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = copy_site(made, tmp_path / "site")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The data of `write_data` in git alone: no DVC, no registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    git(tmp_path, "init", "-q")
    write_data()
    return tmp_path

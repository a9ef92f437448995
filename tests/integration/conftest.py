"""Workspaces with registered releases, made once a session and copied for every test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cmb_models import cli
from tests.integration.registry_site import copy_site, make_site


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """The template with releases 1 and 2, which pass the gate, and 3, which does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        return make_site(tmp_path_factory.mktemp("moves") / "site")


@pytest.fixture
def site(made, tmp_path, monkeypatch) -> Path:
    """A fresh copy of the workspace as the current directory."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()  # MLflow remembers a run's place by its id, which all copies share
    folder = copy_site(made, tmp_path / "site")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cmb(monkeypatch, capsys):
    """Run the command line; give its exit code, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cmb", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        report = capsys.readouterr()
        return ended.value.code or 0, report.out, report.err

    return run

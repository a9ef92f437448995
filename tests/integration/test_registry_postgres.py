"""The tests of moves against an MLflow server on PostgreSQL, reached by its address, with artifacts that pass through it."""

from __future__ import annotations

import shutil
from pathlib import Path

import psycopg2
import pytest

from cmb_models.registry.history.audit import audit_fault
from cmb_models.registry.mlflow.store import fetch_release, open_registry
from cmb_models.registry.promote import promote
from tests.integration.mlflow_server import mlflow_server, postgres
from tests.integration.registry_site import make_site
from tests.integration.test_moves import (  # noqa: F401 (collected here again, with the site below)
    test_a_challenger_need_not_pass_and_can_be_withdrawn,
    test_a_challenger_runs_beside_and_is_one_no_more_once_promoted,
    test_a_changed_tag_cannot_pass_off_another_bundle_as_production,
    test_a_log_cut_off_or_written_anew_is_noticed,
    test_a_rollback_to_the_challenger_ends_its_challenge,
    test_an_alias_moved_in_mlflow_is_noticed_not_followed_and_put_back,
    test_an_alias_set_without_any_promotion_is_no_production,
    test_deleting_everything_in_mlflow_does_not_orphan_production,
    test_entries_of_an_older_log_stay_valid,
    test_every_command_speaks_json,
    test_force_is_shouted_and_marked,
    test_what_was_promoted_is_kept_for_ever_with_its_report,
    test_who_registered_may_not_promote_where_the_site_says_so,
)

pytestmark = pytest.mark.ci
RESET = (  # what the tests change in MLflow, as it was after the registrations
    "DELETE FROM registered_model_aliases",
    "DELETE FROM registered_model_tags",
    "DELETE FROM model_versions",
    "INSERT INTO model_versions SELECT * FROM kept_versions",
    "INSERT INTO model_version_tags SELECT * FROM kept_tags",
    "UPDATE runs SET lifecycle_stage = 'active'",
)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Server, database and a workspace whose releases 1 to 3 are registered there."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch, postgres(folder / "postgres") as database:
        (folder / "log").mkdir()
        with mlflow_server(database, folder / "artifacts", folder / "log/server.txt") as url:
            patch.setenv("MLFLOW_TRACKING_URI", url)
            patch.setenv("DVC_SITE_CACHE_DIR", str(folder / "dvc"))
            made = make_site(folder / "site")
            _execute(database, "CREATE TABLE kept_versions AS SELECT * FROM model_versions",
                     "CREATE TABLE kept_tags AS SELECT * FROM model_version_tags")  # fmt: skip
            yield url, database, made, folder / "artifacts"


@pytest.fixture
def site(served, tmp_path, monkeypatch) -> Path:
    """A fresh copy of the workspace as the current directory, with the server as it was after the registrations."""
    url, database, made, artifacts = served
    _execute(database, "DELETE FROM model_version_tags", *RESET)
    for reports in artifacts.glob("**/artifacts/gate"):
        shutil.rmtree(reports)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    folder = tmp_path / "site"
    shutil.copytree(made, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def _execute(database: str, *statements: str) -> None:
    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


def test_nothing_of_the_registry_lies_in_the_workspace(site):
    promote("1", "first", site)
    assert not (site / "mlflow.db").exists() and not (site / "mlartifacts").exists()
    with open_registry(site) as registry:
        assert not registry.is_local
        assert registry.head().startswith("1 ")
        assert registry.client.get_experiment_by_name("cmb").artifact_location.startswith("mlflow-artifacts:/")


def test_files_come_through_the_server_and_are_verified(site, served):
    artifacts = served[3]
    assert fetch_release("1", site).release == 1
    shutil.rmtree(site / "serving-state")
    with open_registry(site) as registry:
        manifest = registry.resolve("1").tags["manifest_sha256"]
    from cmb_models.files import sha256_of

    (bundle,) = (p.parent for p in artifacts.glob("**/bundle/manifest.json") if sha256_of(p) == manifest)
    content = (bundle / "cnn.onnx").read_bytes()
    (bundle / "cnn.onnx").write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    with pytest.raises(ValueError, match=r"cnn\.onnx was changed"):
        promote("1", start=site)
    (bundle / "cnn.onnx").write_bytes(content)
    assert promote("1", start=site).moved
    assert audit_fault(site) == ""

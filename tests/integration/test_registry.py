"""From a workspace to a release, to production and back: real git, DVC and MLflow, the networks alone made by hand."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml

from cmb_models.files import write_json
from cmb_models.hash_chain import append_entry, first_fault, read_entries
from cmb_models.io.nifti import write_volume
from cmb_models.registry.mlflow.store import fetch_release, open_registry
from cmb_models.registry.mlflow.tracking import log_stage
from cmb_models.registry.promote import audit_fault, promote, rollback
from cmb_models.registry.register import register
from cmb_models.release.bundle import load_bundle, write_manifest
from tests.integration.registry_workspace import GOOD, git, retrain, start
from tests.support.bundles import BLOBS_MM, head
from tests.support.command_line import cmb
from tests.support.refused import refused


@pytest.fixture(scope="session", autouse=True)
def own_dvc_state(tmp_path_factory):
    """DVC keeps what it knows of files outside of a workspace: here in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        yield


@pytest.fixture(scope="session")
def template(own_dvc_state, tmp_path_factory) -> Path:
    """A committed workspace with run stages and an empty registry; copied for every test, since making it takes seconds."""
    return start(tmp_path_factory.mktemp("template"))


@pytest.fixture
def site(template, tmp_path, monkeypatch) -> Path:
    """A fresh copy of the workspace as the current directory."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "site"
    shutil.copytree(template, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def aliases(folder: Path) -> dict[str, int]:
    with open_registry(folder) as registry:
        return registry.aliases()


def register_two(folder: Path) -> None:
    """Register the workspace as it is, then retrained to a sensitivity of 0.9."""
    register(folder)
    retrain(folder, GOOD | {"sensitivity": 0.9})
    register(folder)


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_register_twice_gives_one_release_whose_tags_match_the_files(site):
    assert "release 1 registered" in cmb("release", "register").output
    assert cmb("release", "register").output.strip() == "release 1 is already registered"
    with open_registry(site) as registry:
        (release,) = registry.releases()
        report = registry.client.get_model_version("cmb-detector", "1").description
    assert report.startswith("Held-out test set: 95 % of 20 microbleeds in 5 scans detected, 0.50 false positives per scan.\n\n")
    assert "model card" in report
    data = yaml.safe_load((site / "data/raw/phantom.dvc").read_text())["outs"][0]["md5"]
    canonical = json.dumps({"data/raw/phantom": data}, separators=(",", ":"))
    expected = {
        "git_commit": git(site, "rev-parse", "HEAD"),
        "dvc_lock_sha256": file_sha256(site / "dvc.lock"),
        "params_sha256": file_sha256(site / "params.yaml"),
        "environment_sha256": file_sha256(site / "requirements.lock"),
        "data_sha256": hashlib.sha256(canonical.encode()).hexdigest(),
        "split_sha256": file_sha256(site / "data/split.json"),
        "export_sha256": file_sha256(site / "models/bundle/manifest.json"),
        "user": "Site Engineer <engineer@site.example>",
        "sensitivity": "0.95",
    }
    assert {k: release.tags[k] for k in expected} == expected
    bundle = load_bundle(fetch_release("1", site).bundle_dir)
    assert bundle.manifest_sha256 == release.tags["manifest_sha256"]
    assert bundle.lineage["studies"] == {"unet": {"study": "tune_unet-1", "trial": 3}}  # as the export stage wrote it
    assert release.tags["studies.unet.trial"] == "3"
    assert {k: bundle.lineage[k] for k in list(expected)[:8]} == dict(list(expected.items())[:8])
    assert bundle.metadata["metrics"]["cross_validate"]["sensitivity"] == 0.9
    assert "| sensitivity | 95 % | 90 % |" in (bundle.path / "model_card.md").read_text()
    assert git(site, "status", "--porcelain") == ""


def test_uncommitted_changes_are_refused_by_name(site):
    (site / "params.yaml").write_text((site / "params.yaml").read_text() + "\n")
    (site / "notes.txt").write_text("new")
    with refused("git-dirty"):
        register(site)


def test_a_changed_byte_in_the_bundle_is_refused_by_its_stage(site):
    file = site / "models/bundle/unet.onnx"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()  # DVC may have linked it to its cache
    file.write_bytes(content)
    with refused("outputs-outdated"):
        register(site)


def test_a_bundle_that_no_stage_wrote_is_refused(site):
    for name in ("dvc.yaml", "dvc.lock"):  # DVC itself finds nothing wrong then
        content = yaml.safe_load((site / name).read_text())
        del content["stages"]["export"]
        (site / name).write_text(yaml.safe_dump(content))
    git(site, "commit", "-qam", "no stage export")
    with refused("outputs-outdated"):
        register(site)


@pytest.mark.parametrize("part", ["sha256", "content_sha256"])
def test_a_release_from_a_withdrawn_scan_is_refused(site, part):
    """A merge of branches took the data and outputs of one and the withdrawals of the other: no stage reruns."""
    scan = {"path": "site/sub-00/swi/sub-00_swi.nii.gz", "sha256": "file", "content_sha256": "content"}
    write_json(site / "data/index.json", {"scans": [scan]})
    append_entry(site / "withdrawals.jsonl", scans=["content"] * (part != "sha256"), files=["file"] * (part == "sha256"))
    git(site, "add", "-Af", "data/index.json", "withdrawals.jsonl")
    git(site, "commit", "-qm", "Merge")
    with refused("scan-withdrawn", got="sub-00_swi"):
        register(site)


def test_mlflow_loads_a_release_and_finds_the_three_spots(site, tmp_path):
    register(site)
    write_volume(tmp_path / "sub-01_swi.nii.gz", head())
    with open_registry(site):
        model = mlflow.pyfunc.load_model("models:/cmb-detector/1")
    found = model.predict(pd.DataFrame({"path": [str(tmp_path / "sub-01_swi.nii.gz")]}))
    assert len(found) == 3
    for x, y, z in BLOBS_MM:
        squared = (found["x_mm"] - x) ** 2 + (found["y_mm"] - y) ** 2 + (found["z_mm"] - z) ** 2
        assert squared.min() < 2**2
    assert set(found["scan"]) == {"sub-01_swi"} and set(found["release"]) == {1}
    assert set(found["manifest_sha256"]) == {fetch_release("1", site).manifest_sha256}


def test_promote_and_rollback_move_the_aliases_and_are_logged(site):
    register_two(site)
    assert promote("1", "first", site).moved
    assert aliases(site) == {"production": 1}
    assert promote("latest", "better", site).before == 1
    assert aliases(site) == {"production": 2, "previous": 1}
    assert "release 2 is already production" in cmb("release", "promote", "production").output
    assert rollback("too many false alarms", site).release == 1
    assert aliases(site) == {"production": 1, "previous": 2}
    entries = read_entries(site / "audit.jsonl")
    assert [(e["action"], e["release"], e["reason"]) for e in entries] == [
        ("promote", 1, "first"),
        ("promote", 2, "better"),
        ("rollback", 1, "too many false alarms"),
    ]
    assert entries[2]["before"] == entries[1]["after"] == {"production": 2, "previous": 1}
    listed = json.loads(cmb("release", "list", "--json").output)
    assert [(r["release"], r["aliases"], r["sensitivity"]) for r in listed] == [
        (1, ["production"], "0.95"),
        (2, ["previous"], "0.9"),
    ]
    assert [e["reason"] for e in json.loads(cmb("release", "history", "--json").output)] == [
        "first",
        "better",
        "too many false alarms",
    ]
    assert "rollback" in cmb("release", "history").output
    assert git(site, "status", "--porcelain") == "?? audit.jsonl"  # which does not stop the next registration
    assert register(site).release == 2


def test_the_second_release_names_the_production_one_as_parent(site):
    register(site)
    promote("1", start=site)
    register_two(site)  # the first is registered already
    with open_registry(site) as registry:
        assert [r.tags.get("parent_release") for r in registry.releases()] == [None, "1"]


def test_a_failed_gate_leaves_aliases_and_log_untouched(site):
    retrain(site, GOOD | {"sensitivity": 0.5})
    register(site)
    result = cmb("release", "promote", "1")
    assert result.exit_code == 1
    assert "sensitivity on the held-out test set is 0.5, at least 0.8 is required" in result.output
    assert aliases(site) == {}
    assert not (site / "audit.jsonl").exists()


def test_rollback_without_an_earlier_release_is_refused(site):
    register(site)
    promote("1", start=site)
    with refused("role-empty"):
        rollback("back", site)


def test_unknown_releases_and_an_empty_registry_are_named(site):
    with refused("release-unknown"):
        fetch_release("production", site)
    register(site)
    with refused("release-unknown", case="release production"):
        fetch_release("production", site)
    with refused("release-unknown", case="release 7"):
        promote("7", start=site)


def test_a_release_whose_stored_files_were_changed_is_refused(site):
    register(site)
    (file,) = site.glob("mlartifacts/**/artifacts/bundle/pipeline.json")
    file.write_text(file.read_text().replace("0.99", "0.10"))
    with refused("bundle-changed"):
        fetch_release("1", site)
    write_manifest(file.parent)  # a forger who also writes a fitting manifest
    with refused("release-changed"):
        promote("1", start=site)
    assert not list((site / "serving-state/releases").glob("*"))


def test_a_damaged_cache_is_fetched_anew(site):
    register(site)
    first = fetch_release("1", site)
    assert first.bundle_dir == site / f"serving-state/releases/1-{first.manifest_sha256[:8]}"
    (first.bundle_dir / "pipeline.json").write_text("{}")
    assert fetch_release("latest", site) == first
    assert load_bundle(first.bundle_dir).manifest_sha256 == first.manifest_sha256


def test_audit_names_the_edited_line_and_moves_outside(site):
    register(site)
    promote("1", "kept", site)
    assert cmb("release", "verify").output.strip() == "the audit log holds"
    with open_registry(site) as registry:
        registry.client.delete_registered_model_alias("cmb-detector", "production")
    assert "the aliases are unset but audit.jsonl ends with production 1" in audit_fault(site)
    log = site / "audit.jsonl"
    log.write_text(log.read_text().replace("kept", "fine"))
    assert first_fault(site / "audit.jsonl") == "audit.jsonl line 1 was changed after it was written"
    assert cmb("release", "verify").exit_code == 1
    with refused("log-damaged"):
        promote("1", start=site)


def test_another_store_can_be_named_and_the_variable_stays(site, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'hospital.db'}"
    shutil.copy(site / "mlflow.db", tmp_path / "hospital.db")
    register(site)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with open_registry(site) as registry:
        assert (registry.uri, registry.releases()) == (uri, [])
    assert os.environ["MLFLOW_TRACKING_URI"] == uri
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with open_registry(site) as registry:
        assert [r.number for r in registry.releases()] == [1]
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_stage_logs_its_numbers_and_files(site):
    run_id = log_stage("train", {"unet": {"steps": 10}}, {"loss": 0.5, "undefined": None}, [site / "params.yaml"], workspace=site)
    with open_registry(site) as registry:
        run = registry.client.get_run(run_id)
        files = [f.path for f in registry.client.list_artifacts(run_id)]
    assert (run.data.params, run.data.metrics, files) == ({"unet.steps": "10"}, {"loss": 0.5}, ["params.yaml"])
    assert (run.info.run_name, run.info.status, run.data.tags["stage"]) == ("train", "FINISHED", "train")
    assert (site / "mlartifacts").is_dir() and not (site / "mlruns").exists()


def test_a_store_that_cannot_be_reached_costs_a_stage_its_log_not_its_work(site, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{site / 'params.yaml'}/mlflow.db")  # no folder, and none can be made
    assert log_stage("train", {}, {}) == ""
    assert "train was not logged to MLflow" in caplog.text

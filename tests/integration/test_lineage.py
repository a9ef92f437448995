"""Releases and where they come from: real git, DVC and MLflow, on the small workspace of registry_workspace.py."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from cmb_models.evaluation.rows import read_rows
from cmb_models.files import read_json, write_json
from cmb_models.registry.mlflow.store import fetch_release, open_registry
from cmb_models.registry.promote import promote
from cmb_models.registry.provenance.lineage import lineage_faults, read_lineage, require_lineage
from cmb_models.registry.provenance.reproduce import compare
from cmb_models.registry.register import register
from cmb_models.release.bundle import EVALUATION_DIR
from cmb_models.release.keys import new_keys, trusted_keys
from cmb_models.workspace.dvc_cache import cache_dir
from tests.integration.registry_workspace import GOOD, LINEAGE, dvc, git, retrain, start
from tests.support.command_line import cmb
from tests.support.refused import refused

TRAINED, LOCKED = LINEAGE["training_scans"]["site_sub-00"], LINEAGE["locked_scans"]["locked_sub-03"]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A workspace with two releases, the first in production when the second was registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        for name in ("MLFLOW_TRACKING_URI", "CMB_SIGNING_KEY", "CMB_PUBLIC_KEY"):
            patch.delenv(name, raising=False)
        folder = start(tmp_path_factory.mktemp("site"))
        register(folder)
        promote("1", "first", folder)
        retrain(folder, GOOD | {"sensitivity": 0.9})
        register(folder)
        patch.chdir(folder)
        yield folder


@pytest.fixture
def emptied(two) -> Path:
    """The same, with nothing of its releases kept beside the artifact store."""
    for name in ("lineage", "releases"):
        shutil.rmtree(two / "serving-state" / name, ignore_errors=True)
    return two


def of(folder: Path, ref: str) -> dict:
    with open_registry(folder) as registry:
        return read_lineage(registry, registry.resolve(ref))


def test_the_chain_goes_from_the_alias_to_every_scan_and_to_the_first_release(two):
    chain = json.loads(cmb("release", "lineage", "latest", "--json").output)
    assert (chain["release"], chain["git_commit"]) == (2, git(two, "rev-parse", "HEAD"))
    assert chain["dvc_lock_sha256"] == hashlib.sha256((two / "dvc.lock").read_bytes()).hexdigest()
    assert chain["data"] == {"data/raw/phantom": yaml.safe_load((two / "data/raw/phantom.dvc").read_text())["outs"][0]["md5"]}
    assert {k: chain[k] for k in LINEAGE} == LINEAGE
    assert chain["commit"]["subject"] == "retrained" and "engineer@site.example" in chain["commit"]["author"]
    assert [(p["release"], p["aliases"]) for p in chain["parents"]] == [(1, ["production"])]
    first = {"release": 1, "manifest_sha256": chain["parents"][0]["manifest_sha256"], "was": "production"}
    assert (chain["parent"], of(two, "1")["parent"]) == (first, {})
    assert "follows release 1, in production when" in cmb("release", "lineage", "latest").output
    shown = cmb("release", "lineage", "production").output
    wanted = ("release 1 (production)", "unsigned", "tune_unet-1, trial 3", TRAINED, LOCKED, "data/raw/phantom", "no release was")
    assert not [w for w in wanted if w not in shown]


def test_a_scan_is_followed_to_every_release_that_saw_it_and_how(two, tmp_path):
    seen = json.loads(cmb("release", "lineage", "--scan", TRAINED[:8], "--json").output)["seen_by"]
    assert [(s["release"], s["roles"], s["key"]) for s in seen] == [(n, ["training", "calibration"], "site_sub-00") for n in (1, 2)]
    uncalibrated = json.loads(cmb("release", "lineage", "--scan", LINEAGE["training_scans"]["site_sub-02"], "--json").output)[
        "seen_by"
    ]
    assert [s["roles"] for s in uncalibrated] == [["training"], ["training"]]
    (tmp_path / "scan.nii.gz").write_bytes(b"locked 3")  # whose hash the lineage has
    shown = cmb("release", "lineage", "--scan", str(tmp_path / "scan.nii.gz"))
    assert shown.exit_code == 0 and shown.output.count("locked test") == 2 and "training" not in shown.output
    assert "no release used scan 0123456789" in cmb("release", "lineage", "--scan", "0123456789").output


@pytest.mark.parametrize("scan", ["1234567", "sub-001.nii.gz", "g" * 64])
def test_what_is_neither_a_file_nor_a_hash_is_refused(two, scan):
    assert "8 to 64 hexadecimal digits" in str(cmb("release", "lineage", "--scan", scan).exception)


def test_no_bundle_is_downloaded_for_it(emptied):
    assert len(json.loads(cmb("release", "lineage", "--scan", TRAINED, "--json").output)["seen_by"]) == 2
    kept = {p.relative_to(emptied / "serving-state").as_posix() for p in (emptied / "serving-state").rglob("*.*")}
    assert {Path(k).name for k in kept if "lineage/" in k} == {"lineage.json", "manifest.json"}
    assert not (emptied / "serving-state/releases").exists()


def test_a_lineage_changed_in_the_cache_is_not_believed(two):
    before = of(two, "2")  # which was not promoted: of release 1 a copy is kept
    (file,) = (two / "serving-state/lineage").glob("2-*/lineage.json")
    write_json(file, before | {"training_scans": {}})
    assert of(two, "2") == before


def test_a_release_that_cannot_be_asked_is_never_passed_over(emptied):
    second = of(emptied, "2")  # which was not promoted: of release 1 a copy is kept
    (file,) = [f for f in emptied.glob("mlartifacts/**/artifacts/bundle/lineage.json") if read_json(f) == second]
    content = file.read_bytes()
    shutil.rmtree(emptied / "serving-state/lineage")
    file.write_bytes(content.replace(TRAINED.encode(), LOCKED.encode()))
    try:
        shown = cmb("release", "lineage", "--scan", TRAINED)
    finally:
        file.write_bytes(content)
    assert shown.exit_code == 1
    assert "unreadable: release 2: expected its lineage.json as registered" in shown.output and "training" in shown.output


def test_a_release_holds_the_rows_it_was_judged_by_and_a_card_with_intervals(two):
    bundle = fetch_release("2", two).bundle_dir
    saved = read_rows(bundle / EVALUATION_DIR)
    assert (len(saved.scans), sum(len(s.cmbs) for s in saved.scans), saved.threshold) == (5, 20, GOOD["threshold"])
    card = (bundle / "model_card.md").read_text()
    assert "it detects 18" not in card  # the small workspace's metrics have no hits, so nothing is said of them
    assert "| sensitivity | 90 % | 90 % |" in card and git(two, "rev-parse", "HEAD") in card
    changes = read_json(bundle / "metadata.json")["changelog"].values()
    assert any(c.startswith("retrained (") for c in changes)


def test_mlflow_shows_the_dataset_with_its_hash_and_use(two):
    with open_registry(two) as registry:
        (found,) = registry.client.get_run(registry.resolve("1").run_id).inputs.dataset_inputs
    assert found.dataset.digest == of(two, "1")["data"]["data/raw/phantom"]
    assert [t.value for t in found.tags if t.key == "mlflow.data.context"] == ["unused"]  # no scan of that name in its lineage


def test_a_lineage_holds_when_registered_and_each_lie_in_it_is_named(two):
    true = of(two, "1")
    assert lineage_faults(two, true) == []
    lies = {
        "dvc_lock_sha256": "dvc.lock at",
        "params_sha256": "params.yaml at",
        "environment_sha256": "requirements.lock at",
        "split_sha256": "data/split.json at",
        "data_sha256": "hash over all datasets",
        "git_commit": "is not in this repository",
    }
    for key, said in lies.items():
        (fault,) = lineage_faults(two, true | {key: "0" * len(true[key])})
        assert said in fault
    other = lineage_faults(two, true | {"data": {"data/raw/phantom": "0" * 32}})
    assert "dataset data/raw/phantom differs from its .dvc file" in other[0]


def test_a_split_is_found_in_a_cache_outside_the_workspace(two, tmp_path):
    true, site = of(two, "1"), tmp_path / "site"
    shutil.copytree(two, site, symlinks=True)
    (site / "data/split.json").write_text("{}")
    shutil.move(site / ".dvc/cache", tmp_path / "shared")
    assert "cannot be verified" in lineage_faults(site, true)[0]
    dvc(site, "cache", "dir", "--local", str(tmp_path / "shared"))
    cache_dir.cache_clear()
    assert lineage_faults(site, true) == []


def test_a_commit_that_no_branch_holds_is_told(two):
    lost = git(two, "commit-tree", "-m", "lost", git(two, "rev-parse", "HEAD^{tree}"))
    assert "is on no branch" in " ".join(lineage_faults(two, of(two, "2") | {"git_commit": lost}))


def test_a_tag_edited_in_mlflow_is_refused(two):
    bundle = fetch_release("2", two).bundle_dir
    with open_registry(two) as registry:
        tags = registry.resolve("2").tags
    require_lineage(two, bundle, tags)
    with refused("lineage-contradicted", got="the registry's tag git_commit is 1111, its lineage"):
        require_lineage(two, bundle, tags | {"git_commit": "1111"})


def test_a_release_comes_out_again_from_its_commit_and_data(two, tmp_path):
    before = git(two, "status", "--porcelain"), git(two, "rev-parse", "HEAD"), sorted((two / ".dvc/cache").rglob("*"))
    done = cmb("release", "reproduce", "1", "--folder", str(tmp_path / "again"), "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.output)
    rows = {r["what"]: r for r in answer["rows"]}
    assert answer["same"] and rows["unet.onnx"]["same"] and rows["evaluate: sensitivity"]["reproduced"] == "0.95"
    assert rows["exported manifest"]["registered"] == of(two, "1")["export_sha256"][:16]
    assert (tmp_path / "again/data/raw/phantom/annotations.csv").is_file()
    assert before == (git(two, "status", "--porcelain"), git(two, "rev-parse", "HEAD"), sorted((two / ".dvc/cache").rglob("*")))
    with refused("folder-taken"):
        raise cmb("release", "reproduce", "1", "--folder", str(tmp_path / "again")).exception
    metrics = tmp_path / "again/reports/evaluate/metrics.json"
    write_json(metrics, read_json(metrics) | {"sensitivity": 0.94})
    registered = read_json(fetch_release("1", two).bundle_dir / "metadata.json")
    differing = [r for r in compare(of(two, "1"), registered, tmp_path / "again") if not r.same]
    assert [(r.what, r.registered, r.reproduced) for r in differing] == [("evaluate: sensitivity", "0.95", "0.94")]


def test_a_workspace_that_commits_a_key_takes_and_gives_signed_releases_only(two, tmp_path, monkeypatch):
    from cmb_models.cli.detect import open_detector
    from cmb_models.serving.deploy.fleet import deploy_bundle

    unsigned = fetch_release("2", two).bundle_dir
    site = tmp_path / "site"
    shutil.copytree(two, site, symlinks=True)
    monkeypatch.chdir(site)
    key, _ = new_keys(site / "keys")
    git(site, "add", "-A")
    git(site, "commit", "-qm", "Releases are signed")
    for attempt in (
        lambda: fetch_release("2", site),
        lambda: deploy_bundle(unsigned, 2, tmp_path / "repository", "localhost:1", trusted_keys(site)),
        lambda: open_detector(None, unsigned),
    ):
        with refused("signature-missing"):
            attempt()
    assert git(site, "status", "--porcelain") == ""  # the private key is ignored
    retrain(site, GOOD | {"sensitivity": 0.92})
    key.rename(tmp_path / "release.key")
    with refused("key-missing"):
        register(site)
    monkeypatch.setenv("CMB_SIGNING_KEY", str(tmp_path / "release.key"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    number = str(register(site).release)
    signed = fetch_release(number, site).bundle_dir
    assert (signed / "model.sig").is_file() and open_detector(None, signed)
    with open_registry(site) as registry:
        assert registry.resolve(number).tags["signed_by"] == "keys/release.pub"
    (signed / "model.sig").unlink()
    with refused("signature-missing"):
        open_detector(None, signed)


def test_registering_without_the_evaluation_s_rows_is_refused(two, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(two, site, symlinks=True)
    for name in ("dvc.yaml", "dvc.lock"):
        content = yaml.safe_load((site / name).read_text())
        outs = content["stages"]["evaluate"]["outs"]
        outs[:] = [o for o in outs if "reports/evaluate/lesions.csv" not in (o, o["path"] if isinstance(o, dict) else o)]
        (site / name).write_text(yaml.safe_dump(content))
    git(site, "add", "-A")
    git(site, "commit", "-qm", "an older pipeline")
    with refused("outputs-outdated"):
        register(site)

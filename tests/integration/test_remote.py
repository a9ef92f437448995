"""Two machines, one result: data and outputs in a DVC remote on S3, releases in MLflow on PostgreSQL with its artifacts on S3.

The S3 server refuses requests that are not signed with the site's key. Git, that server and MLflow are all that the machines share:
each has its own home, workspace and DVC caches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cmb_models.files import sha256_of
from tests.integration.mlflow_server import mlflow_server, postgres
from tests.integration.object_store import ObjectStore, running_store
from tests.support.imports import ROOT
from tests.support.tiny import shrink

pytestmark = [pytest.mark.ci, pytest.mark.slow, pytest.mark.timeout(900)]

DATA, ARTIFACTS = "site-data", "site-mlflow"  # buckets
# What a machine must not have from the one that runs the tests.
FOREIGN = ("AWS_", "MLFLOW_", "DVC_", "GIT_", "CMB_SIGNING", "CMB_PUBLIC", "CMB_RELEASES", "XDG_")
WEIGHTS, MANIFEST = "models/weights", "models/bundle/manifest.json"


class Machine:
    """A computer with a home of its own; `run` runs commands in its workspace."""

    def __init__(self, home: Path, registry: str = "") -> None:
        home.mkdir()
        self.home, self.folder = home, home / "my-site"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        identity = {
            f"GIT_{who}_{what}": f"{home.name}@site.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        self.variables = kept | identity | {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DVC_SITE_CACHE_DIR": str(home / "dvc"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "MPLBACKEND": "Agg",
        }  # fmt: skip
        if registry:
            self.variables |= {"MLFLOW_TRACKING_URI": registry}

    def run(self, *command: str, folder: Path | None = None) -> str:
        """Output of a command that succeeds."""
        done = self.attempt(*command, folder=folder)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def attempt(self, *command: str, folder: Path | None = None) -> subprocess.CompletedProcess:
        place = folder or self.folder
        return subprocess.run(command, cwd=place, env=self.variables, text=True, capture_output=True, check=False)

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)
        self.run("git", "push", "-q", "-u", "origin", "HEAD")

    def sign_in(self, store: ObjectStore, secret: str = "") -> None:
        """Keep the key of the remote where git does not see it."""
        for name, value in {"access_key_id": store.key_id, "secret_access_key": secret or store.secret}.items():
            self.run("dvc", "remote", "modify", "-q", "--local", "store", name, value)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the manifest and of every file of weights."""
        files = [self.folder / MANIFEST, *(self.folder / WEIGHTS).rglob("*")]
        return {f.relative_to(self.folder).as_posix(): sha256_of(f) for f in files if f.is_file()}


@dataclass(frozen=True)
class Shared:
    """What the machines share."""

    store: ObjectStore
    registry: str
    hub: Path


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("shared")
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(folder / "my-site.git")], check=True)
    with running_store(folder, DATA, ARTIFACTS) as store, postgres(folder / "postgres") as database:
        variables = store.variables | {"MLFLOW_S3_ENDPOINT_URL": store.url}
        log, place = folder / "mlflow.txt", f"s3://{ARTIFACTS}/releases"
        with mlflow_server(database, place, log, variables=variables) as registry:
            yield Shared(store, registry, folder / "my-site.git")


@pytest.fixture(scope="module")
def first(shared, tmp_path_factory) -> Machine:
    """Simulated scans, trained networks and release 1, all of it pushed."""
    machine = Machine(tmp_path_factory.mktemp("first") / "home", shared.registry)
    machine.run("cmb", "init", "my-site", folder=machine.home)
    shrink(machine.folder, locked="locked")
    _shorten(machine.folder / "params.yaml")
    for name, scans, cmbs in (("site", "4", "10"), ("locked", "2", "4")):
        machine.run("cmb", "simulate", f"data/raw/{name}", "--scans", scans, "--cmbs", cmbs, "--seed", scans, "--preset", "small")
        machine.run("dvc", "add", "-q", f"data/raw/{name}")
    machine.run("dvc", "remote", "add", "-q", "-d", "store", f"s3://{DATA}/my-site")
    machine.run("dvc", "remote", "modify", "-q", "store", "endpointurl", shared.store.url)
    machine.sign_in(shared.store)
    machine.run("git", "remote", "add", "origin", str(shared.hub))
    machine.commit("Start")
    machine.run("dvc", "repro", "-q")
    machine.commit("Train")
    machine.run("dvc", "push", "-q")
    assert "release 1" in machine.run("cmb", "release", "register")
    return machine


def _shorten(path: Path) -> None:
    """As little as the stages accept: what is compared needs no good networks."""
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section in ("tune_unet", "tune_cnn"):
        params[section] |= {"trials": 1}
    path.write_text(yaml.safe_dump(params), encoding="utf-8")


def join(shared: Shared, home: Path) -> Machine:
    """A machine with nothing but a clone."""
    machine = Machine(home, shared.registry)
    machine.run("git", "clone", "-q", str(shared.hub), "my-site", folder=machine.home)
    return machine


@pytest.fixture(scope="module")
def second(shared, first, tmp_path_factory) -> Machine:
    return join(shared, tmp_path_factory.mktemp("second") / "home")


def test_keys_are_in_no_commit(first, shared):
    for secret in (shared.store.key_id, shared.store.secret):
        assert first.run("git", "log", "--all", "--oneline", f"-S{secret}") == ""
    assert first.run("git", "log", "--all", "--oneline", f"-S{DATA}") != ""


def test_a_clone_without_the_key_gets_nothing(second, shared):
    for secret in ("", "wrong"):
        if secret:
            second.sign_in(shared.store, secret)
        assert second.attempt("dvc", "pull", "-q").returncode != 0
        assert not (second.folder / "data/raw/site").exists() and not (second.folder / MANIFEST).exists()


def test_the_second_machine_has_the_same_release_after_a_pull_and_a_repro(first, second, shared):
    second.sign_in(shared.store)
    second.run("dvc", "pull", "-q")
    stages = yaml.safe_load((second.folder / "dvc.yaml").read_text())["stages"]
    assert second.run("dvc", "repro").count("didn't change, skipping") == len(stages) + 2  # and both datasets
    assert second.run("git", "status", "--porcelain") == ""
    assert second.hashes() == first.hashes()


def test_a_training_on_the_second_machine_gives_the_same_bytes(first, second):
    """Its weights from its own run: the times of the files say so."""
    before = {f: f.stat().st_mtime_ns for f in (second.folder / WEIGHTS).rglob("*") if f.is_file()}
    for stage in ("train", "export"):
        assert f"Running stage '{stage}'" in second.run("dvc", "repro", "--force", "--single-item", "--no-run-cache", stage)
    assert before and all(f.stat().st_mtime_ns > time for f, time in before.items())
    assert second.hashes() == first.hashes()
    assert second.run("git", "status", "--porcelain") == ""  # dvc.lock has the hashes of all outputs


def test_a_release_of_one_machine_is_promoted_on_the_other(first, second, shared):
    stored = shared.store.objects(ARTIFACTS)
    assert any(name.endswith("bundle/manifest.json") for name in stored) and not (first.folder / "mlartifacts").exists()
    second.run("git", "pull", "-q")
    assert "production" in second.run("cmb", "release", "promote", "1", "--reason", "seen on the second machine")
    assert list((second.folder / "releases").glob("*/manifest.json"))  # its files came through MLflow's server
    second.commit("Promote release 1")
    first.run("git", "pull", "-q")
    (listed,) = json.loads(first.run("cmb", "release", "list", "--json"))
    assert listed["release"] == 1 and listed["role"] == "production"
    chain = json.loads(first.run("cmb", "release", "lineage", "production", "--json"))
    assert chain["export_sha256"] == second.hashes()[MANIFEST]


def refused(done: subprocess.CompletedProcess) -> dict:
    """The error of a command with --json that was refused, without a traceback."""
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return json.loads(done.stdout)["error"]


def test_without_the_store_or_its_key_a_reproduction_is_refused(first, shared, tmp_path):
    """Last, since it ends the store."""
    third = join(shared, tmp_path / "home")
    third.sign_in(shared.store)
    third.run("dvc", "pull", "-q", "data/split.json")  # which the lineage is checked with
    third.sign_in(shared.store, "wrong")
    assert refused(third.attempt("cmb", "release", "reproduce", "1", "--json"))["code"] == "dvc-failed"
    shared.store.process.kill()
    shared.store.process.wait()
    third.sign_in(shared.store)
    assert refused(third.attempt("cmb", "release", "reproduce", "1", "--json"))["code"] == "dvc-failed"

"""The main job at a tiny scale with every real part: DVC, Optuna, MLflow on SQLite, a live tritonserver, and a site's commands."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cmb_models.hash_chain import read_entries
from cmb_models.workspace.template import create
from tests.support.tiny import shrink

pytestmark = [pytest.mark.serving, pytest.mark.slow, pytest.mark.timeout(1800)]

STAGES = 13


class Site:
    """A workspace with a copy of the checkout's files and the commands that a site runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
        self.env.pop("MLFLOW_TRACKING_URI", None)

    def run(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(command, cwd=self.folder, env=self.env, text=True, capture_output=True)
        assert not ok or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    """A workspace with data under DVC, before any stage ran."""
    folder = tmp_path_factory.mktemp("site")
    create(folder)
    shrink(folder, locked="locked")
    site = Site(folder)
    for name, scans, cmbs, seed in (("site", "4", "10", "1"), ("locked", "2", "4", "2")):
        site.run("cmb", "simulate", f"data/raw/{name}", "--scans", scans, "--cmbs", cmbs, "--seed", seed, "--preset", "small")
        site.run("dvc", "add", "-q", f"data/raw/{name}")
    site.commit("start")
    return site


@pytest.fixture(scope="module")
def trained(site) -> Site:
    """The same after a `dvc repro` that was killed when the stage after tuning began and run again, its lock committed."""
    killed = subprocess.Popen(
        ["dvc", "repro"], cwd=site.folder, env=site.env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in killed.stdout:
        if "detect_candidates" in line:  # tuning of stage 1 is done, the stage after it begins
            break
    killed.kill()
    killed.wait()
    # The stage too, and the shell that is about to start it; the helpers of Python's multiprocessing see it and take their
    # semaphores out of /dev/shm.
    until = time.monotonic() + 2
    while time.monotonic() < until:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == killed.pid and any(
                    "pipelines.detect_candidates" in part for part in process.cmdline()
                ):
                    process.kill()
        time.sleep(0.05)
    done = site.run("dvc", "repro")
    for stage in ("ingest", "split", "preprocess", "tune_unet"):
        assert f"Stage '{stage}' didn't change, skipping" in done.stdout, f"{stage} was redone after the kill:\n{done.stdout}"
    site.commit("trained")
    return site


def test_every_stage_leaves_real_outputs(trained):
    reports = trained.folder / "reports"
    for stage in ("cross_validate", "evaluate"):
        metrics = json.loads((reports / stage / "metrics.json").read_text())
        assert {"sensitivity", "fp_per_scan", "precision", "f1", "n_lesions", "n_scans", "threshold"} <= set(metrics)
        assert (metrics["n_lesions"], metrics["n_scans"]) == ((10, 4) if stage == "cross_validate" else (4, 2))
        assert (reports / stage / "froc.png").read_bytes().startswith(b"\x89PNG")
    for stage, name in (("detect_candidates", "sensitivity_at_1_fp"), ("calibrate", "ece_after")):
        metrics = json.loads((reports / stage / "metrics.json").read_text())
        low, high = metrics["intervals_95"][name]
        assert low <= metrics[name] <= high
    assert len(json.loads((trained.folder / "models/tuned/unet.json").read_text())["trials"]) == 2
    assert json.loads((reports / "export/metrics.json").read_text())["unet"] < 1e-3
    compute = json.loads((trained.folder / "models/bundle/lineage.json").read_text())["compute"]
    assert compute["device"] in ("cpu", "cuda") and compute["precision"] in ("float32", "bfloat16") and compute["processor"]


def test_the_release_joins_scores_as_they_were_joined_out_of_fold(trained):
    """Ten marked microbleeds: stage 2 counts half of 10 / 30 in the rows that threshold and calibration were fitted on."""
    decision = json.loads((trained.folder / "models/bundle/pipeline.json").read_text())["decision"]
    assert (decision["stage2_weight"], decision["joint_mean"]) == (pytest.approx(1 / 6), "log_odds")
    with (trained.folder / "reports/cross_validate/detections.csv").open() as stream:
        rows = [[float(r[f"{name}score"]) for name in ("stage1_", "stage2_", "")] for r in csv.DictReader(stream)]
    assert rows
    for stage1, stage2, joint in rows:
        one, other, both = (min(max(score, 1e-6), 1 - 1e-6) for score in (stage1, stage2, joint))
        log_odds = 5 / 6 * math.log(one / (1 - one)) + 1 / 6 * math.log(other / (1 - other))
        assert math.log(both / (1 - both)) == pytest.approx(log_odds, abs=1e-5)


def test_nothing_is_redone_when_nothing_changed(trained):
    done = trained.run("dvc", "repro")
    assert done.stdout.count("didn't change, skipping") == STAGES + 2  # and both datasets
    assert not trained.run("git", "status", "--porcelain").stdout


def test_an_unknown_parameter_stops_before_any_work(trained):
    path = trained.folder / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("\nsplit:", "\nsplit:\n  fold: 4", 1))
    try:
        done = trained.run("dvc", "repro", ok=False)
    finally:
        path.write_text(before)
    assert done.returncode != 0
    # DVC removes a stage's outputs before it runs it; with the settings put right they come back from its cache, nothing is run.
    assert "Running stage" not in trained.run("dvc", "repro").stdout
    assert (trained.folder / "data/split.json").is_file()
    assert "split.fold is not a known key" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_register_promote_serve_detect(trained):
    assert "release 1" in trained.run("cmb", "release", "register").stdout
    assert "already registered" in trained.run("cmb", "release", "register").stdout
    assert "production" in trained.run("cmb", "release", "promote", "1", "--reason", "test").stdout
    scans = [str(p) for p in sorted(trained.folder.glob("data/raw/locked/sub-*/swi/sub-???_swi.nii.gz"))]
    command = ["cmb", "server", "run", "--port", "0"]
    server = subprocess.Popen(
        command, cwd=trained.folder, env=trained.env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said = []
        for line in server.stdout:
            said.append(line)
            if line.startswith("serving"):
                break
        assert said[-1].startswith("serving"), "".join(said)
        url = json.loads((trained.folder / "serving-state/server.json").read_text())["grpc_url"]
        trained.run("cmb", "detect", *scans, "--server", url, "--out", "results/served", "--threshold", "0")
        bad = trained.run(
            "cmb", "detect", "missing.nii.gz", scans[0], "--server", url, "--out", "results/mixed", "--threshold", "0", ok=False
        )
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0
    trained.run("cmb", "detect", *scans, "--bundle", "models/bundle", "--out", "results/in-process", "--threshold", "0")
    served, local = (by_place(trained.folder / out / "detections.csv") for out in ("results/served", "results/in-process"))
    assert served, "not one candidate: nothing was compared"
    assert set(served) == set(local)
    for place, row in served.items():
        assert row["release"] == "1" and abs(float(row["score"]) - float(local[place]["score"])) < 1e-4
    assert bad.returncode != 0 and "missing.nii.gz" in bad.stderr and "Traceback" not in bad.stderr
    first = Path(scans[0]).name.removesuffix(".nii.gz")
    assert by_place(trained.folder / "results/mixed/detections.csv") == {p: r for p, r in served.items() if p[0] == first}
    assert all((trained.folder / "results/served" / f"{Path(s).name.removesuffix('.nii.gz')}.png").is_file() for s in scans)


@pytest.mark.ci
def test_retraining_with_a_second_site_and_without_a_patient(trained):
    """Site B has other voxels, contrast and field strength. Its release follows the first, and each scan leads to its releases."""
    trained.run("cmb", "release", "register")
    (release,) = json.loads(trained.run("cmb", "release", "list", "--json").stdout)
    if "production" not in release["aliases"]:  # unless the test before did it
        trained.run("cmb", "release", "promote", "1", "--reason", "test")
    scanner = ("--voxel-mm", "0.9", "0.9", "2.5", "--te-ms", "30", "--field-t", "1.5")
    trained.run("cmb", "simulate", "data/raw/b", "--scans", "2", "--cmbs", "4", "--preset", "small", *scanner, "--seed", "3")
    trained.run("dvc", "add", "-q", "data/raw/b")
    trained.commit("Add site B")
    changed = json.loads(trained.run("cmb", "data", "diff", "release:production", "--json").stdout)
    assert changed["datasets"] == {"added": ["b"], "removed": []} and not changed["marks"]
    assert [(s["kind"], s["after"]["subject"]) for s in changed["scans"]] == [("added", "sub-001"), ("added", "sub-002")]
    trained.run("dvc", "repro")
    trained.commit("Train on two sites")
    assert "release 2" in trained.run("cmb", "release", "register").stdout
    first, second = (json.loads(trained.run("cmb", "release", "lineage", n, "--json").stdout) for n in "12")
    assert {n: (d["scans"], d["cmbs"]) for n, d in second["datasets"].items()} == {"b": (2, 4), "locked": (2, 4), "site": (4, 10)}
    assert {n: d for n, d in second["datasets"].items() if n != "b"} == first["datasets"]
    assert second["parent"] == {"release": 1, "manifest_sha256": first["manifest_sha256"], "was": "production"}
    assert len(second["training_scans"]) == 6 and first["parent"] == {}
    compared = json.loads(trained.run("cmb", "release", "compare", "1", "2", "--json").stdout)
    assert compared["same_scans"] and compared["second"]["n_scans"] == 2
    withdrawn = trained.run("cmb", "data", "withdraw", "sub-002", "--dataset", "b").stdout
    assert "would" not in withdrawn and "could not be recomputed" not in withdrawn
    split = json.loads((trained.folder / "data/split.json").read_text())
    assert "b_sub-002" not in split["folds"] and "b_sub-001" in split["folds"]
    (entry,) = read_entries(trained.folder / "withdrawals.jsonl")
    assert [use["release"] for use in entry["releases"]] == [2]
    trained.commit("Withdraw a subject")
    outdated = trained.run("dvc", "status", "--json").stdout
    assert not {"ingest", "split"} & set(json.loads(outdated)) and "preprocess" in outdated


def by_place(path: Path) -> dict[tuple, dict]:
    """The rows of a detections.csv by scan and voxel: candidates of nearly equal score may stand in another order."""
    with path.open(newline="") as stream:
        return {(r["scan"], r["i"], r["j"], r["k"]): r for r in csv.DictReader(stream)}

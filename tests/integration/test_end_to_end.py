"""The main job at a tiny scale with every real part: DVC, Optuna, MLflow on SQLite, a live tritonserver, and a site's commands.

Everything is run by the installed wheel, outside of the checkout.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from cmb_models.config.params import Decision
from cmb_models.dataset.statistics import QUANTITIES
from cmb_models.detect.fusion import calibrated
from cmb_models.workspace.code_lock import read_lock
from cmb_models.workspace.template import create
from tests.support.imports import ROOT
from tests.support.installed import Installed
from tests.support.tiny import shrink

pytestmark = [pytest.mark.serving, pytest.mark.slow, pytest.mark.timeout(1800)]

STAGES = 13


class Site:
    """A workspace and the commands that a site runs in it, those of the installed wheel. `opened` as in Installed."""

    def __init__(self, installed: Installed) -> None:
        self.folder, self.opened = installed.folder / "site", installed.opened
        # The server's environment is set up in the checkout.
        server = os.environ.get("CMB_SERVER_ENV", str(ROOT / ".venv-server"))
        self.env = installed.variables | {"PYTHONUNBUFFERED": "1", "CMB_SERVER_ENV": server}

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
    installed = Installed(tmp_path_factory.mktemp("wheel"))
    installed.run("cmb", "init", "site")
    site = Site(installed)
    shrink(site.folder, locked="locked")
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


def test_the_bundle_has_the_statistics_of_all_training_scans(trained):
    """Four scans: quantities that `cmb cohort` compares, scores as they are in the out-of-fold rows after calibration."""
    training = json.loads((trained.folder / "models/bundle/metadata.json").read_text())["data"]["training"]
    known = training["statistics"]
    assert known.keys() == set(QUANTITIES) and {part["scans"] for part in known.values()} == {training["scans"]} == {4}
    sides = [voxel["mm"] for voxel in training["voxels"]]
    assert known["slice_mm"]["quantiles"][-1] == max(mm[-1] for mm in sides)
    assert known["in_plane_mm"]["quantiles"][0] == min(mm[0] for mm in sides)
    decision = Decision(**json.loads((trained.folder / "models/calibration.json").read_text())["decision"])
    with (trained.folder / "reports/cross_validate/detections.csv").open() as stream:
        best = max(float(row["score"]) for row in csv.DictReader(stream))
    assert known["best_score"]["quantiles"][-1] == pytest.approx(float(calibrated(best, decision)))


def test_no_process_opened_a_file_of_the_checkout(trained, tmp_path):
    stages = yaml.safe_load((trained.folder / "dvc.yaml").read_text())["stages"]
    assert len(stages) == STAGES and set(yaml.safe_load((trained.folder / "dvc.lock").read_text())["stages"]) == set(stages)
    assert trained.run("cmb", "lock").stdout.startswith("the code of all stages is the same")
    create(tmp_path / "site")  # by the checkout
    assert read_lock(trained.folder) == read_lock(tmp_path / "site"), "the wheel's code has other hashes than the checkout's"
    assert not trained.opened.exists(), f"files of the checkout were opened: {trained.opened.read_text()}"


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


def by_place(path: Path) -> dict[tuple, dict]:
    """The rows of a detections.csv by scan and voxel: candidates of nearly equal score may stand in another order."""
    with path.open(newline="") as stream:
        return {(r["scan"], r["i"], r["j"], r["k"]): r for r in csv.DictReader(stream)}

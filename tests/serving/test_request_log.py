"""What the server records of requests: a line each in its log, counts for Prometheus, and nothing of whose scan it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import struct
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc

from cmb_models.client.connection import connect
from cmb_models.client.contract import CHALLENGER, DETECTOR, OUTPUTS
from cmb_models.client.grpc import Client
from cmb_models.client.log_lines import read_lines
from cmb_models.errors import InputError
from cmb_models.release.bundle import CNN_FILE, load_bundle, verify_manifest, write_manifest
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import Server, running_server
from cmb_models.serving.triton.repository import ensemble_config
from cmb_models.volume import Volume
from tests.support.bundles import head, make_bundle

pytestmark = pytest.mark.serving
SCAN = head()
INVERTED = Volume(SCAN.data.max() - SCAN.data, SCAN.affine)
NOISE = Volume(np.random.default_rng(0).gamma(2, 100, SCAN.data.shape).astype(np.float32), SCAN.affine)
NAME = "Doe^Jane_1950-01-31"  # what a careless site calls its scans and its requests


@dataclass(frozen=True)
class Site:
    """A live server of this module's own with a bundle deployed as release 1, answering, and in its own shadow."""

    server: Server
    bundle: Path
    repository: Path

    @property
    def log(self) -> Path:
        return self.server.log.with_name("requests.jsonl")

    def lines(self) -> list[dict]:
        return list(read_lines(self.log)) if self.log.exists() else []

    def detect(self, scan: Volume, model: str = DETECTOR) -> list[dict]:
        """Send a scan; the lines that are logged of it."""
        before = len(self.lines())
        with Client(self.server.grpc_url, model=model) as client, contextlib.suppress(InputError):
            client.detect(scan, case=NAME)
        return self.lines()[before:]

    def metrics(self) -> Counter:
        """All numbers of ours by name and labels as Prometheus shows them."""
        time.sleep(1.2)  # Triton renders them once in 1 s at most, and counts are sent beside the answers
        with urllib.request.urlopen(f"http://{self.server.metrics_url}/metrics") as page:
            rows = re.findall(r"^(cmb_[^{ ]+(?:\{[^}]*\})?) (.+)$", page.read().decode(), re.MULTILINE)
        return Counter({name: float(value) for name, value in rows})


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("telling")
    bundle = make_bundle(folder / "bundle")
    repository = folder / "repository"
    with running_server(repository) as server:
        deploy_bundle(bundle, 1, repository, server.grpc_url)
        (repository / CHALLENGER / "1").mkdir(parents=True)
        admin = grpc.InferenceServerClient(server.grpc_url)
        admin.load_model(CHALLENGER, config=json.dumps(ensemble_config(CHALLENGER, 1, load_bundle(bundle))))
        yield Site(server, bundle, repository)


def test_an_answer_is_one_line_with_all_that_was_asked_for(site):
    (line,) = site.detect(SCAN)
    assert (line["outcome"], line["role"]) == ("ok", "production")
    assert (line["release"], line["manifest_sha256"]) == (1, verify_manifest(site.bundle))
    by_hand = struct.pack("<3q16d", 80, 80, 32, *SCAN.affine.ravel()) + struct.pack(f"<{80 * 80 * 32}f", *SCAN.data.ravel())
    assert line["input_sha256"] == hashlib.sha256(by_hand).hexdigest()
    assert (line["shape"], line["spacing_mm"]) == ([80, 80, 32], [1, 1, 2])
    assert (line["candidates"], line["detections"], line["threshold"]) == (40, 3, 0.99)
    assert list(line["seconds"]) == ["prepare", "unet", "candidates", "cnn", "decide"]
    assert all(s > 0 for s in line["seconds"].values())
    assert line["total_s"] == pytest.approx(sum(line["seconds"].values()), abs=1e-4)
    assert abs(datetime.fromisoformat(line["time"]).timestamp() - time.time()) < 60 and line["time"].endswith("Z")


def test_a_refusal_is_one_line_with_its_cause(site):
    (line,) = site.detect(INVERTED)
    assert (line["outcome"], line["cause"], line["role"]) == ("refused", "scan-contrast", "production")
    assert len(line["input_sha256"]) == 64 and list(line["seconds"]) == ["prepare"]
    assert line["input_sha256"] != site.detect(SCAN)[0]["input_sha256"]


def test_nothing_of_the_client_but_its_scans_content_gets_into_the_log(site):
    """The request's own id and parameters are free text of the client's."""
    with connect(site.server.grpc_url) as raw:
        inputs = [grpc.InferInput("volume", SCAN.data.shape, "FP32"), grpc.InferInput("affine", (4, 4), "FP64")]
        inputs[0].set_data_from_numpy(SCAN.data)
        inputs[1].set_data_from_numpy(SCAN.affine)
        wanted = [grpc.InferRequestedOutput(t.name) for t in OUTPUTS]
        raw.infer(DETECTOR, inputs, request_id=NAME, outputs=wanted, parameters={"patient": NAME})
    site.detect(INVERTED)
    text = site.log.read_text() + site.server.log.read_text()
    assert len(site.lines()) > 2 and "Doe" not in text and "1950-01-31" not in site.log.read_text()
    known = {"time", "request", "role", "release", "manifest_sha256", "input_sha256", "shape", "spacing_mm", "outcome"}
    known |= {"cause", "candidates", "detections", "threshold", "seconds", "total_s"}
    assert set().union(*site.lines()) == known


def test_deployments_own_requests_are_told_apart(site):
    """The golden scan went through cmb_probe and cmb_detector before anything else was sent; a client cannot call itself one."""
    assert next(line["role"] for line in site.lines()) == "probe"
    assert site.metrics()['cmb_probe_requests_total{outcome="ok",release="1"}'] == 2
    (line,) = site.detect(SCAN, CHALLENGER)
    assert (line["role"], line["outcome"], line["detections"]) == ("challenger", "ok", 3)


def test_prometheus_counts_what_was_sent(site):
    before = site.metrics()
    lines = [line for scan in (SCAN, SCAN, INVERTED, NOISE, SCAN) for line in site.detect(scan)]
    shadow = site.detect(SCAN, CHALLENGER)
    assert [line["outcome"] for line in lines] == ["ok", "ok", "refused", "refused", "ok"]
    more = site.metrics() - before

    def of(name: str, labels: str = "", role: str = "production") -> float:
        """`labels` in the order Prometheus shows them, release and role filled in."""
        return more[f'{name}{{{labels and labels + ","}release="1",role="{role}"}}']

    assert of("cmb_started_total") == 5 and of("cmb_started_total", role="challenger") == 1
    assert of("cmb_requests_total", 'outcome="ok"') == 3 and of("cmb_requests_total", 'outcome="refused"') == 2
    assert of("cmb_requests_total", 'outcome="ok"', "challenger") == 1
    assert of("cmb_refusals_total", 'cause="scan-contrast"') == of("cmb_refusals_total", 'cause="scan-no-head"') == 1
    assert (of("cmb_candidates_count"), of("cmb_candidates_sum")) == (3, 120)
    assert (of("cmb_detections_count"), of("cmb_detections_sum")) == (3, 9)
    assert (of("cmb_score_count"), of("cmb_score_count", role="challenger")) == (120, 40)
    ends = {le: more[f'cmb_detections_bucket{{release="1",role="production",le="{le}"}}'] for le in ("0", "2", "4", "99", "+Inf")}
    assert ends == {"0": 0, "2": 0, "4": 3, "99": 3, "+Inf": 3}
    for step in ("prepare", "unet", "candidates", "cnn", "decide"):
        report = [line["seconds"][step] for line in lines if line["outcome"] == "ok"]
        assert more[f'cmb_step_seconds_sum{{release="1",role="production",step="{step}"}}'] == pytest.approx(sum(report), abs=1e-5)
    assert of("cmb_request_seconds_sum", role="challenger") == pytest.approx(shadow[0]["total_s"], abs=1e-5)
    assert not any("probe" in name for name in more)


def test_two_releases_at_once_are_counted_apart_and_the_log_survives_a_switch(site, tmp_path):
    second = make_bundle(tmp_path / "second", threshold=0.9)
    lines = len(site.lines())
    deploy_bundle(second, 2, site.repository, site.server.grpc_url)
    (line,) = site.detect(SCAN)
    (other,) = site.detect(SCAN, CHALLENGER)
    assert (line["release"], other["release"], line["threshold"], other["threshold"]) == (2, 1, 0.9, 0.99)
    assert line["input_sha256"] == other["input_sha256"] and line["request"] != other["request"]
    assert [entry["role"] for entry in site.lines()[lines:]] == ["probe", "probe", "production", "challenger"]
    counted = site.metrics()
    assert counted['cmb_requests_total{outcome="ok",release="2",role="production"}'] == 1
    assert counted['cmb_requests_total{outcome="ok",release="1",role="challenger"}'] >= 1


def test_a_release_that_fails_on_its_golden_scan_is_told_of_too(site, tmp_path):
    """Stage 2 gives NaN: found in the last step, by an exception whose words stay out of the log."""
    broken = make_bundle(tmp_path / "broken")
    network = onnx.load(broken / CNN_FILE)
    (bias,) = (w for w in network.graph.initializer if w.name == "b")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.float32([np.nan]), "b"))
    onnx.save(network, broken / CNN_FILE)
    write_manifest(broken)
    before = site.metrics()
    with pytest.raises(RuntimeError, match="stage 2's scores: expected finite values"):
        deploy_bundle(broken, 7, site.repository, site.server.grpc_url)
    last = site.lines()[-1]
    assert (last["role"], last["release"], last["outcome"], last["cause"]) == ("probe", 7, "failed", "FloatingPointError")
    assert list(last["seconds"]) == ["prepare", "unet", "candidates", "cnn", "decide"]
    more = site.metrics() - before
    assert not {name for name in more if 'role="production"' in name}


def test_an_ensemble_from_before_there_were_traces_still_loads(site):
    """A server whose release was deployed by older software continues with it while the next one is deployed."""
    release = Client(site.server.grpc_url).serving().release
    config = ensemble_config("cmb_before", release, load_bundle(site.bundle))
    for step in config["ensemble_scheduling"]["step"]:
        for mapping in ("input_map", "output_map"):
            step[mapping] = {own: name for own, name in step[mapping].items() if name not in ("trace", "trace_found")}
    (site.repository / "cmb_before" / str(release)).mkdir(parents=True)
    admin = grpc.InferenceServerClient(site.server.grpc_url)
    admin.load_model("cmb_before", config=json.dumps(config))
    assert admin.is_model_ready("cmb_before")
    admin.unload_model("cmb_before")


def test_an_unwritable_log_costs_no_answer_and_is_told_once(site):
    """A folder in its place, which not even root can append to."""
    written = site.server.log.stat().st_size
    kept = site.log.rename(site.log.with_suffix(".kept"))
    site.log.mkdir()
    lost = site.metrics()
    try:
        with Client(site.server.grpc_url) as client:
            assert [len(client.detect(SCAN).detections) > 0 for _ in range(3)] == [True] * 3
        report = [row for row in site.server.log.read_text()[written:].splitlines() if "request log" in row]
        assert len(report) == 1 and "requests.jsonl cannot be written" in report[0]
        assert sum(n for name, n in (site.metrics() - lost).items() if name.startswith("cmb_request_log_lost_total")) == 3
    finally:
        site.log.rmdir()
        kept.rename(site.log)
    assert len(site.detect(SCAN)) == 1

"""`cmb detect --shadow` and its report at a live server; the server keeps no request log."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tritonclient.grpc as grpc

from cmb_models import cli
from cmb_models.client.contract import CHALLENGER, DETECTOR
from cmb_models.client.grpc import Client
from cmb_models.client.log_lines import read_lines
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.io.scan_id import scan_sha256
from cmb_models.release.bundle import load_bundle
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import running_server
from cmb_models.serving.triton.repository import ensemble_config
from tests.support.bundles import head, make_bundle

pytestmark = pytest.mark.serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shadow")


@pytest.fixture(scope="module")
def url(folder):
    """Release 2 (threshold .99) answers, release 1 (.9: more findings) is its challenger."""
    bundles = [make_bundle(folder / f"bundle-{t}", threshold=t) for t in (0.9, 0.99)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMB_REQUEST_LOG", "")
        with running_server(folder / "repository") as server:
            for release, bundle in enumerate(bundles, start=1):
                deploy_bundle(bundle, release, folder / "repository", server.grpc_url)
            (folder / "repository" / CHALLENGER / "1").mkdir(parents=True)
            set_challenger(server.grpc_url, bundles[0])
            yield server.grpc_url


def set_challenger(url: str, bundle: Path | None) -> None:
    admin = grpc.InferenceServerClient(url)
    if bundle is None:
        admin.unload_model(CHALLENGER)
    else:
        admin.load_model(CHALLENGER, config=json.dumps(ensemble_config(CHALLENGER, 1, load_bundle(bundle))))


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n in range(2):
        write_volume(tmp_path / f"scan-{n}.nii.gz", head(seed=n))
    return tmp_path


@pytest.fixture
def cmb(monkeypatch, capsys):
    """Run the command line; give its exit code and all that it printed."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cmb", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        result = capsys.readouterr()
        return ended.value.code or 0, result.out + result.err

    return run


def test_detect_then_report(url, work, folder, cmb):
    plain = ("detect", "scan-0.nii.gz", "scan-1.nii.gz", "--server", url, "--no-figures")
    assert cmb(*plain, "--out", "plain")[0] == 0
    code, result = cmb(*plain, "--out", "mirrored", "--shadow", "shadow.jsonl")
    assert code == 0 and "challenger: 2 of 2 scans compared" in result
    for name in ("detections.csv", "detections.json"):
        assert (work / "plain" / name).read_bytes() == (work / "mirrored" / name).read_bytes()
    first, second = read_lines(work / "shadow.jsonl")
    answers = {model: Client(url, model=model).detect(head(seed=0)) for model in (DETECTOR, CHALLENGER)}
    counts = {model: len(answer.detections) for model, answer in answers.items()}
    assert counts[DETECTOR] == 3 < counts[CHALLENGER]
    assert (first["scan"], second["scan"]) == ("scan-0", "scan-1")
    assert first["input_sha256"] == scan_sha256(read_volume(work / "scan-0.nii.gz"))
    assert [first[side]["release"] for side in ("production", "challenger")] == [2, 1]
    assert [len(first[k]) for k in ("both", "only_production", "only_challenger")] == [3, 0, counts[CHALLENGER] - 3]
    assert all(a == b for place in first["both"] for a, b in [place["scores"]])  # the same networks
    code, result = cmb("server", "shadow-report", "shadow.jsonl", "--html", "page.html")
    assert code == 0 and "release 1 shadowing release 2: 2 scans" in result and "page written to page.html" in result
    code, result = cmb("server", "shadow-report", "shadow.jsonl", "--json")
    assert json.loads(result)["pairs"][0]["both"] == 6
    assert not list(folder.rglob("requests.jsonl*"))


def test_answers_stand_without_a_challenger(url, work, folder, cmb):
    set_challenger(url, None)
    try:
        code, result = cmb("detect", "scan-0.nii.gz", "--server", url, "--no-figures", "--out", "o", "--shadow", "s.jsonl")
    finally:
        set_challenger(url, folder / "bundle-0.9")
    assert code == 0 and "a server with a release deployed" in result and "challenger: 0 of 1 scan compared" in result
    assert [e["outcome"] for e in read_lines(work / "s.jsonl")] == ["failed"]
    assert "no scans have been compared" in cmb("server", "shadow-report", "s.jsonl")[1]


def test_what_cannot_be_is_refused_in_words(work, cmb):
    assert "--shadow" in cmb("detect", "scan-0.nii.gz", "--bundle", "b", "--out", "o", "--shadow", "s.jsonl")[1]
    code, result = cmb("server", "shadow-report", "none.jsonl")
    assert code == 2 and "none.jsonl: expected a log of `cmb detect --shadow`" in result

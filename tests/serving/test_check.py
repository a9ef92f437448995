"""`cmb server check` passes at a good server, and names the check at servers that were made wrong on purpose."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc
from onnx import numpy_helper

from cmb_models.client.contract import CHALLENGER, DETECTOR, UNET
from cmb_models.files import read_json, write_json
from cmb_models.release.bundle import GOLDEN_ANSWER, UNET_FILE, Bundle, load_bundle, write_manifest
from cmb_models.serving.check import checks
from cmb_models.serving.check.command import main
from cmb_models.serving.check.scans import head, stored_as
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import running_server
from cmb_models.serving.triton.repository import ensemble_config
from tests.support.bundles import make_bundle

pytestmark = pytest.mark.serving


@dataclass(frozen=True)
class Site:
    """A server with two releases resident: 1 finds spots, 2 finds nothing. `serve` pins an ensemble to one, edited at will."""

    url: str
    repository: Path
    good: Bundle
    blind: Bundle

    def serve(self, release: int, name: str = DETECTOR, edit=lambda config: None) -> None:
        config = ensemble_config(name, release, {1: self.good, 2: self.blind}[release])
        edit(config)
        (self.repository / name / str(release)).mkdir(parents=True, exist_ok=True)
        with grpc.InferenceServerClient(self.url) as client:
            client.load_model(name, config=json.dumps(config))


def blind_bundle(folder: Path) -> Path:
    """A bundle in order, whose golden answer is its own, but which finds nothing anywhere."""
    make_bundle(folder)
    model = onnx.load(folder / UNET_FILE)
    bias = next(w for w in model.graph.initializer if w.name == "b")
    bias.CopyFrom(numpy_helper.from_array(np.float32([-60]), "b"))
    onnx.save(model, folder / UNET_FILE)
    write_json(folder / GOLDEN_ANSWER, {"candidates": [], "threshold": 0.99})
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    good, blind = make_bundle(folder / "good"), blind_bundle(folder / "blind")
    with running_server(folder / "repository") as server:
        deploy_bundle(good, 1, folder / "repository", server.grpc_url)
        deploy_bundle(blind, 2, folder / "repository", server.grpc_url)
        yield Site(server.grpc_url, folder / "repository", load_bundle(good), load_bundle(blind))


@pytest.fixture
def quickly(monkeypatch):
    """Fewer sizes and clients, for servers of which another check is to fail."""
    monkeypatch.setattr(checks, "SIZES", {"odd": checks.SIZES["odd"]})
    monkeypatch.setattr(checks, "ORDERS", {"LPS": checks.ORDERS["LPS"]})
    monkeypatch.setattr(checks, "REQUESTS_EACH", 1)


def smoked(capsys, *arguments) -> tuple[int, dict[str, str]]:
    """Exit code and each check's status, of the JSON form."""
    code = main([*map(str, arguments), "--quick", "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    return code, {(c["check"] if c["model"] == DETECTOR else f"{c['model']} {c['check']}"): c["status"] for c in checks}


def failed(statuses: dict[str, str]) -> list[str]:
    return [name for name, status in statuses.items() if status == "failed"]


def test_good_server_passes(site, capsys):
    site.serve(1)
    code, statuses = smoked(capsys, site.url, "--bundle", site.good.path)
    assert (code, failed(statuses)) == (0, [])
    assert list(statuses) == [
        "contract", "pins", "golden", "spots", "orientations", "zero candidates", "refusals", "together", "latency",
    ]  # fmt: skip
    assert set(statuses.values()) == {"passed"}


def test_table_tells_checks_and_times(site, capsys, quickly):
    site.serve(1)
    assert main([site.url, "--quick", "--scan", str(site.good.path / "golden" / "scan.nii.gz")]) == 0
    printed = capsys.readouterr().out
    for words in ("not shown", "no --bundle given", "median s", "1 sizes, each in 2 orders", "no check failed"):
        assert words in printed


def test_another_bundle_is_noticed_by_its_golden_scan(site, capsys, tmp_path, quickly):
    site.serve(1)
    other = make_bundle(tmp_path / "other", threshold=0.9)
    code, statuses = smoked(capsys, site.url, "--bundle", other)
    assert (code, failed(statuses)) == (1, ["golden"])


def test_wrong_golden_answer_is_told_in_numbers(site, capsys, tmp_path, quickly):
    site.serve(1)
    wrong = tmp_path / "wrong"
    shutil.copytree(site.good.path, wrong)
    answer = read_json(wrong / GOLDEN_ANSWER)
    answer["candidates"][0][0] += 1.5
    write_json(wrong / GOLDEN_ANSWER, answer)
    write_manifest(wrong)
    assert main([site.url, "--quick", "--bundle", str(wrong)]) == 1
    assert "positions up to 1.50 mm" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_release_that_finds_nothing_is_noticed_and_shows_what_zero_candidates_do(site, capsys, quickly):
    site.serve(2)
    code, statuses = smoked(capsys, site.url, "--bundle", site.blind.path)
    assert (code, failed(statuses)) == (1, ["spots"])
    assert (statuses["golden"], statuses["zero candidates"]) == ("passed", "passed")


def test_steps_of_two_releases_are_noticed(site, capsys, quickly):
    def mix(config):
        next(s for s in config["ensemble_scheduling"]["step"] if s["model_name"] == UNET)["model_version"] = 2

    site.serve(1, edit=mix)
    code, statuses = smoked(capsys, site.url)
    assert code == 1
    assert "pins" in failed(statuses)


def test_another_contract_ends_the_checks(site, capsys):
    def rename(config):
        config["input"][0]["name"] = "scan"
        for step in config["ensemble_scheduling"]["step"]:
            step["input_map"] = {k: "scan" if v == "volume" else v for k, v in step["input_map"].items()}

    site.serve(1, edit=rename)
    code, statuses = smoked(capsys, site.url)
    assert (code, statuses) == (1, {"contract": "failed"})


def test_challenger_is_checked_when_asked_for(site, capsys, quickly):
    site.serve(1)
    code, statuses = smoked(capsys, site.url, "--challenger")
    assert (code, failed(statuses)) == (1, [f"{CHALLENGER} contract"])
    site.serve(2, CHALLENGER)
    code, statuses = smoked(capsys, site.url, "--challenger-bundle", site.blind.path)
    assert failed(statuses) == [f"{CHALLENGER} spots"]
    assert statuses[f"{CHALLENGER} golden"] == "passed"


def test_server_that_cannot_be_asked_is_another_exit_code(site, capsys, tmp_path):
    assert main(["127.0.0.1:9"]) == 2
    assert "error: 127.0.0.1:9" in capsys.readouterr().err
    assert main(["--no-such-option"]) == 2


def test_made_head_is_the_same_head_however_it_is_stored():
    scan = head((20, 24, 16), (2.0, 1.5, 3.0)).volume
    for axes, signs in (((1, 2, 0), (-1, -1, 1)), ((0, 2, 1), (1, -1, -1))):
        back = stored_as(scan, axes, signs).to_ras()
        np.testing.assert_array_equal(back.data, scan.data)
        np.testing.assert_allclose(back.affine, scan.affine, atol=1e-12)

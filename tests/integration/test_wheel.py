"""What the wheel holds, and a client that has the client's packages only. A whole training by it: test_end_to_end.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cmb_models import __version__, load
from cmb_models.files import sha256_of
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import running_server
from tests.support.bundles import make_base, make_bundle
from tests.support.imports import ROOT
from tests.support.installed import Installed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Neither the client nor what a site runs on a workstation without training needs these.
HEAVY = ("torch", "monai", "mlflow", "dvc", "optuna", "onnx", "onnxruntime", "openvino", "nilearn", "jinja2", "model_signing")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """The wheel of this checkout in an environment of its own."""
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_the_package_is_the_wheels(installed):
    code = (
        "import cmb_models as c; from cmb_models.serving.triton.files import serving_files as s;"
        "from cmb_models.workspace.code_lock import PACKAGE as p; print(c.__file__, s(), p / 'template/dvc.yaml', sep='\\n')"
    )
    for path in installed.run("python", "-c", code).splitlines():
        assert Path(path).is_relative_to(installed.packages) and Path(path).exists()
    served = {p.relative_to(ROOT / "serving").as_posix() for p in (ROOT / "serving").rglob("*.*") if "__pycache__" not in p.parts}
    files = installed.packages / "cmb_models/serving/files"
    assert {p.relative_to(files).as_posix() for p in files.rglob("*.*") if "__pycache__" not in p.parts} == served
    assert installed.run("cmb", "--version").split() == ["cmb-models", __version__]


def test_the_base_release_is_in_the_wheel_as_in_the_checkout(installed):
    """Every byte, or no file besides the module where the checkout has none."""

    def contents(package: Path) -> dict[str, str]:
        folder = package / "cmb_models/base_release"
        files = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        return {p.relative_to(folder).as_posix(): sha256_of(p) for p in files}

    assert contents(installed.packages) == contents(ROOT)


def test_a_base_release_in_the_package_detects_with_the_packages_of_its_extra_alone(installed, tmp_path):
    """By the installed command, in a folder with nothing in it."""
    made, place = make_base(tmp_path / "made"), installed.packages / "cmb_models/base_release"
    shutil.copytree(place, tmp_path / "before")
    try:
        shutil.rmtree(place / "bundle", ignore_errors=True)
        shutil.copytree(made, place, dirs_exist_ok=True)
        hidden = " ".join({*HEAVY, "tritonclient"} - {"openvino", "model_signing"})
        shown = installed.run("cmb", "detect", str(made / "bundle/golden/scan.nii.gz"), "--out", "results", without=hidden)
    finally:
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "before", place)
    assert "base release 0.1.0, trained on simulated scans only" in " ".join(shown.split())
    (scan,) = json.loads((installed.folder / "results/detections.json").read_text())["scans"]
    assert scan["origin"].startswith("base release") and len(scan["detections"]) == 3


def test_reports_and_their_viewer_come_with_the_wheel(installed):
    """Byte for byte, and without the packages that a client does not have."""
    names = ("niivue/niivue.umd.js.gz", "niivue/LICENSES.txt")
    for name in (*names, "../templates/scan.html.j2", "../templates/scan.css.j2", "../templates/scan.js.j2"):
        place = f"cmb_models/report/scan/{name}"
        assert sha256_of(installed.packages / place) == sha256_of(ROOT / place)
    code = "import cmb_models.report.scan.page as p; p.environment().get_template(p.TEMPLATE); print(p.NIIVUE.is_file())"
    assert installed.run("python", "-c", code, without=" ".join({*HEAVY} - {"jinja2"})).split() == ["True"]


def test_a_client_needs_the_packages_of_its_extra_alone(installed):
    assert "--server" in installed.run("cmb", "detect", "--help", without=" ".join(HEAVY))
    assert installed.run("python", "-c", "import cmb_models.client.grpc as g; print(g.__name__)", without=" ".join(HEAVY))
    code = "import importlib.util as u\ntry:\n    import torch\nexcept ModuleNotFoundError: print('hidden')"
    assert installed.run("python", "-c", code, without=" ".join(HEAVY)).split() == ["hidden"]


@pytest.mark.ci
def test_the_client_extra_alone_detects_by_a_server(installed, tmp_path):
    """A new environment with what `pip install cmb-models[client]` brings, against a live server."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "client")], check=True)
    python = tmp_path / "client/bin/python"
    pins = ("-c", str(ROOT / "requirements.lock"))
    package = f"cmb-models[client] @ {installed.wheel.as_uri()}"
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *pins, package], check=True)
    packages = json.loads(subprocess.check_output([python, "-m", "pip", "list", "--format", "json"], text=True))
    assert not {p["name"] for p in packages} & set(HEAVY)

    bundle = make_bundle(tmp_path / "bundle")
    with running_server(tmp_path / "repository") as server:
        deploy_bundle(bundle, 1, tmp_path / "repository", server.grpc_url)
        scan, out = bundle / "golden/scan.nii.gz", tmp_path / "results"
        command = [tmp_path / "client/bin/cmb", "detect", scan, "--server", server.grpc_url, "--out", out, "--threshold", "0"]
        variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        subprocess.run(command, check=True, cwd=tmp_path, env=variables)
    with load(bundle) as detector:
        expected = detector.detect(scan)
    found = json.loads((out / "detections.json").read_text())["scans"][0]["detections"]
    assert len(found) == len(expected.candidates) > 0
    places = [d["world_mm"] for d in found]
    assert places == [pytest.approx(d.position_mm, abs=1e-3) for d in expected.candidates]
    assert [d["score"] for d in found] == pytest.approx([d.score for d in expected.candidates], abs=1e-4)

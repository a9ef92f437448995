"""What the wheel holds, and a client that has the client's packages only. A whole training by it: test_end_to_end.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
NOT_OF_THE_CLIENT = (*HEAVY, "matplotlib", "pandas", "scipy", "tritonclient", "ml_dtypes")
DISTRIBUTIONS = {str(canonicalize_name(name)) for name in NOT_OF_THE_CLIENT}  # of these modules
OF_ANALYSIS = {"jinja2", "matplotlib", "pandas", "scipy"}
MOST_CLIENT_MB, MOST_IMPORT_S = 150, 1.0


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
    assert installed.run("python", "-c", code, without=" ".join({*NOT_OF_THE_CLIENT} - OF_ANALYSIS)).split() == ["True"]


def test_a_client_detects_with_the_packages_of_its_extra_alone(installed, tmp_path):
    """Without pictures, which are drawn only where their packages are installed, and by the server's check."""
    hidden = " ".join(NOT_OF_THE_CLIENT)
    code = "import importlib.util as u\ntry:\n    import scipy\nexcept ModuleNotFoundError: print('hidden')"
    assert installed.run("python", "-c", code, without=hidden).split() == ["hidden"]
    assert "--server" in installed.run("cmb", "detect", "--help", without=hidden)
    bundle = make_bundle(tmp_path / "bundle")
    with running_server(tmp_path / "repository") as server:
        deploy_bundle(bundle, 1, tmp_path / "repository", server.grpc_url)
        scan = str(bundle / "golden/scan.nii.gz")
        installed.run("cmb", "detect", scan, "--server", server.grpc_url, "--out", "answers", without=hidden)
        assert "passed" in installed.run("cmb", "server", "check", server.grpc_url, without=hidden)
    assert {p.name for p in (installed.folder / "answers").iterdir()} == {"detections.csv", "detections.json"}
    (entry,) = json.loads((installed.folder / "answers/detections.json").read_text())["scans"]
    assert len(entry["detections"]) == 3


def requirements(name: str, extras: frozenset[str], found: set[str]) -> set[str]:
    """Names of the installed distributions that `name` with these extras needs, itself included, added to `found`."""
    found.add(canonicalize_name(name))
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        needed = requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ("", *extras))
        if needed and canonicalize_name(requirement.name) not in found:
            requirements(requirement.name, frozenset(requirement.extras), found)
    return found


def test_the_client_extra_stays_small(installed):
    """By the installed sizes, compiled modules included, of what the extra requires; the package itself is the wheel's."""
    (package,) = metadata.distributions(path=[str(installed.packages)], name="cmb-models")
    names: set[str] = set()
    for text in package.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": "client"}):
            requirements(requirement.name, frozenset(requirement.extras), names)
    assert {"grpcio", "numpy", "nibabel"} <= names and not names & DISTRIBUTIONS
    files = [file for name in names for file in (metadata.files(name) or ())] + [*(package.files or ())]
    size_mb = sum(file.locate().stat().st_size for file in files if file.locate().is_file()) / 1e6
    assert 100 < size_mb <= MOST_CLIENT_MB


def test_the_package_is_imported_fast(installed):
    """The best of five, since other processes take time too."""
    code = "import time; t = time.perf_counter(); import cmb_models; cmb_models.connect; print(time.perf_counter() - t)"
    hidden = " ".join(NOT_OF_THE_CLIENT)
    assert min(float(installed.run("python", "-c", code, without=hidden)) for _ in range(5)) <= MOST_IMPORT_S


@pytest.mark.ci
def test_the_client_extra_alone_detects_by_a_server(installed, tmp_path):
    """A new environment with what `pip install cmb-models[client]` brings, against a live server."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "client")], check=True)
    python = tmp_path / "client/bin/python"
    pins = ("-c", str(ROOT / "requirements.lock"))
    package = f"cmb-models[client] @ {installed.wheel.as_uri()}"
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *pins, package], check=True)
    packages = json.loads(subprocess.check_output([python, "-m", "pip", "list", "--format", "json"], text=True))
    assert not {canonicalize_name(p["name"]) for p in packages} & DISTRIBUTIONS
    folder = next((tmp_path / "client").glob("lib/python*/site-packages"))
    of_pip = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils")
    sizes = [f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.relative_to(folder).parts[0].startswith(of_pip)]
    assert sum(sizes) / 1e6 <= MOST_CLIENT_MB

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

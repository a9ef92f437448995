"""The wheel alone, outside of the checkout: a site's first commands, and a client that has the client's packages only.

The environment's packages are those of the running one, without its editable install of this project.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from cmb_models import __version__, load
from cmb_models.files import sha256_of
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import running_server
from cmb_models.workspace.code_lock import read_lock
from cmb_models.workspace.template import create
from tests.support.bundles import make_base, make_bundle
from tests.support.imports import ROOT
from tests.support.tiny import shrink

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Neither the client nor what a site runs on a workstation without training needs these.
HEAVY = ("torch", "monai", "mlflow", "dvc", "optuna", "onnx", "onnxruntime", "openvino", "nilearn", "jinja2", "model_signing")
# Every Python process of the environment logs which files of the checkout it opens, and finds no module named in WITHOUT.
SITECUSTOMIZE = """
import os, sys
CHECKOUT, PACKAGES, LOG = {checkout!r}, {packages!r}, {log!r}

def note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes)):
        path = os.path.join(os.path.abspath(os.fsdecode(arguments[0])), "")
        if path.startswith(CHECKOUT) and not path.startswith(PACKAGES):
            with open(LOG, "a") as stream:
                stream.write(path + chr(10))

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in os.environ["WITHOUT"].split():
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.addaudithook(note)
if "WITHOUT" in os.environ:
    sys.meta_path.insert(0, Without())
"""


class Installed:
    """An environment with the wheel, and an empty folder to work in."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.wheel = wheel
        self.environment, self.folder, self.opened = folder / "environment", folder / "work", folder / "opened.txt"
        self.folder.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.environment)], check=True)
        self.python = self.environment / "bin/python"
        install = ["install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
        subprocess.run([sys.executable, "-m", "pip", "--python", str(self.python), *install], check=True)
        (self.packages,) = self.environment.glob("lib/python*/site-packages")
        # A folder that a .pth file names comes after the environment's own, and its own .pth files are not read.
        borrowed = sysconfig.get_path("purelib")
        (self.packages / "borrowed.pth").write_text(f"{borrowed}\n")
        hooks = SITECUSTOMIZE.format(checkout=f"{ROOT}/", packages=f"{borrowed}/", log=str(self.opened))
        (self.packages / "sitecustomize.py").write_text(hooks)

    def run(self, *command: str, folder: str = ".", without: str = "") -> str:
        """Run a command below the empty folder; its output. without: names of modules that are hidden."""
        variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "MLFLOW_TRACKING_URI")}
        variables["PATH"] = f"{self.environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
        if without:
            variables["WITHOUT"] = without
        done = subprocess.run(command, cwd=self.folder / folder, env=variables, text=True, capture_output=True)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """The wheel of this checkout in an environment of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder / "dist"), str(ROOT)]
    done = subprocess.run(build, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    return Installed(folder, wheel)


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


@pytest.fixture(scope="module")
def site(installed) -> Path:
    """A workspace with simulated scans and tiny settings, made and committed by the installed commands."""
    installed.run("cmb", "init", "site")
    site = installed.folder / "site"
    for name, scans, cmbs, seed in (("site", "4", "10", "1"), ("locked", "2", "4", "2")):
        options = ("--scans", scans, "--cmbs", cmbs, "--seed", seed, "--preset", "small")
        installed.run("cmb", "simulate", f"site/data/raw/{name}", *options)
    shrink(site, locked="locked")
    installed.run("python", "-m", "dvc", "add", "-q", "data/raw/site", "data/raw/locked", folder="site")
    commit(installed, "Add scans")
    return site


def commit(installed: Installed, message: str) -> None:
    installed.run("git", "add", "-A", folder="site")
    installed.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message, folder="site")


def test_a_site_starts_outside_of_the_checkout(installed, site, tmp_path):
    output = installed.run("python", "-m", "dvc", "repro", "preprocess", folder="site")
    assert [f"Running stage '{stage}'" in output for stage in ("ingest", "split", "preprocess")] == [True] * 3
    assert any((site / "data/prepared").iterdir())
    assert installed.run("cmb", "lock", folder="site").startswith("the code of all stages is the same")
    create(tmp_path / "site")  # by the checkout
    assert read_lock(site) == read_lock(tmp_path / "site"), "the wheel's code has other hashes than the checkout's"
    assert not installed.opened.exists(), f"files of the checkout were opened: {installed.opened.read_text()}"


@pytest.mark.ci
def test_all_stages_run_from_the_wheel(installed, site):
    """From the scans to a registered release, with no file of the checkout opened by any process."""
    installed.run("python", "-m", "dvc", "repro", folder="site")
    commit(installed, "Train")
    assert "release 1" in installed.run("cmb", "release", "register", folder="site")
    stages = yaml.safe_load((site / "dvc.yaml").read_text())["stages"]
    assert set(yaml.safe_load((site / "dvc.lock").read_text())["stages"]) == set(stages)
    assert not installed.opened.exists(), f"files of the checkout were opened: {installed.opened.read_text()}"


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

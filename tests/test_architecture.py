"""Who may import whom (the README's map): pipelines and serving use the library, never back, never across; layers go down only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.imports import ROOT, imports_of, project_imports

# Each layer may import those before it and its own.
LAYERS = (
    (
        "cmb_models/__init__.py",
        "cmb_models/errors.py",
        "cmb_models/files.py",
        "cmb_models/cores.py",
        "cmb_models/system.py",
        "cmb_models/chain.py",
        "cmb_models/volume.py",
        "cmb_models/detection.py",
        "cmb_models/views.py",
    ),
    ("cmb_models/settings.py", "cmb_models/release_settings.py", "cmb_models/config.py"),
    ("cmb_models/io", "cmb_models/detect", "cmb_models/evaluation"),
    ("cmb_models/phantom", "cmb_models/inference"),
    ("cmb_models/networks", "cmb_models/bundle.py", "cmb_models/card.py"),
    ("cmb_models/training",),
    ("cmb_models/report",),
    ("cmb_models/client",),
    ("cmb_models/registry",),
    ("cmb_models/commands", "cmb_models/cli.py"),
)
# Heavy libraries and the only places that may import them (at any level of the file).
ONLY_IN = {
    "torch": ("cmb_models/networks", "cmb_models/training"),
    "monai": ("cmb_models/networks", "cmb_models/training"),
    "mlflow": ("cmb_models/registry",),
    "optuna": ("cmb_models/training", "pipelines"),
    "tritonclient": ("cmb_models/client", "serving"),
    "triton_python_backend_utils": ("serving",),
    "jinja2": ("cmb_models/report",),
    "dvc": (),
}
LIBRARY = sorted((ROOT / "cmb_models").rglob("*.py"))
ALL = [*LIBRARY, *sorted((ROOT / "pipelines").rglob("*.py")), *sorted((ROOT / "serving").rglob("*.py"))]


def relative(path) -> str:
    return path.relative_to(ROOT).as_posix()


def layer(name: str) -> int:
    found = [n for n, group in enumerate(LAYERS) if any(name == member or name.startswith(member + "/") for member in group)]
    assert len(found) == 1, f"{name} is in no layer: add its folder to LAYERS"
    return found[0]


@pytest.mark.parametrize("file", LIBRARY, ids=relative)
def test_library_imports_downwards_only(file):
    up = [
        relative(f)
        for f in project_imports(file)
        if not relative(f).startswith("cmb_models/") or layer(relative(f)) > layer(relative(file))
    ]
    assert not up, f"{relative(file)} imports upwards: {up}"


def test_pipelines_and_serving_do_not_import_each_other():
    for file in ALL:
        package = relative(file).split("/")[0]
        others = {"pipelines", "serving"} - {package}
        across = [relative(f) for f in project_imports(file) if relative(f).split("/")[0] in others]
        assert package == "cmb_models" or not across, f"{relative(file)} imports {across}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_library_stays_where_it_belongs(library):
    allowed = tuple(f"{folder}/" for folder in ONLY_IN[library])
    strays = [
        relative(f)
        for f in ALL
        if not relative(f).startswith(allowed or ("-",)) and any(n.split(".")[0] == library for n in imports_of(f))
    ]
    assert not strays, f"{library} is imported by {strays}"


def test_help_and_client_load_no_heavy_library():
    """What counts is what gets imported, so ask a fresh interpreter."""
    code = (
        "import sys, cmb_models.cli as c; c._add_commands(); import cmb_models.client.contract, cmb_models.detect.detector;"
        "print([m for m in ('torch','monai','mlflow','optuna','onnxruntime','matplotlib','dvc') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]", f"imported at start: {done.stdout}"


def test_modules_are_short():
    long = {relative(f): n for f in ALL if (n := len(f.read_text(encoding="utf-8").splitlines())) > 300}
    assert not long, f"over 300 lines: {long}"

"""Who may import whom: each layer imports those above it in the list and its own, without cycles."""

from __future__ import annotations

import graphlib
import subprocess
import sys

import pytest

from tests.support.imports import ROOT, imports_of, project_imports

LAYERS = (
    (
        "cmb_models/__init__.py",
        "cmb_models/errors.py",
        "cmb_models/files.py",
        "cmb_models/machine.py",
        "cmb_models/arrays.py",
        "cmb_models/hash_chain.py",
        "cmb_models/volume.py",
        "cmb_models/detection.py",
        "cmb_models/figures",
        "cmb_models/records.py",
        "cmb_models/base_release",
    ),
    ("cmb_models/config",),
    ("cmb_models/workspace",),
    ("cmb_models/io",),
    ("cmb_models/dataset", "cmb_models/detect", "cmb_models/evaluation", "cmb_models/registration"),
    ("cmb_models/networks", "cmb_models/runtime", "cmb_models/phantom", "cmb_models/importing", "cmb_models/regions"),
    ("cmb_models/training",),
    ("cmb_models/release",),
    (
        "cmb_models/registry",
        "cmb_models/report",
        "cmb_models/client",
        "cmb_models/outputs",
        "cmb_models/shadow",
        "cmb_models/followup",
    ),
    ("cmb_models/serving", "cmb_models/cohort"),
    ("cmb_models/api.py",),
    ("cmb_models/cli",),
)
# Heavy libraries and the only places that may import them (at any level of the file).
ONLY_IN = {
    "torch": (
        "cmb_models/networks",
        *(f"cmb_models/runtime/{name}.py" for name in ("torch", "onnx_torch", "cuda_torch", "torch_arrays")),
        "cmb_models/training",
        "cmb_models/release/export.py",
    ),
    "monai": ("cmb_models/networks", "cmb_models/training"),
    "mlflow": ("cmb_models/registry",),
    "optuna": ("cmb_models/training",),
    "tritonclient": ("cmb_models/client", "cmb_models/serving"),
    "triton_python_backend_utils": ("cmb_models/serving", "serving"),
    "jinja2": ("cmb_models/report",),
    "pyarrow": ("cmb_models/cohort",),
    "fsspec": ("cmb_models/cohort/objects.py",),
    "pydicom": ("cmb_models/importing", "cmb_models/outputs/dicom"),
    "highdicom": ("cmb_models/outputs/dicom", "cmb_models/followup/dicom.py"),
    "dcm2niix": ("cmb_models/importing",),
    "SimpleITK": ("cmb_models/io/formats.py", "cmb_models/importing", "cmb_models/registration", "cmb_models/regions"),
    "openpyxl": ("cmb_models/importing",),
    "dvc": (),
}
LIBRARY = sorted((ROOT / "cmb_models").rglob("*.py"))
SCRIPTS = [*sorted((ROOT / "pipelines").rglob("*.py")), *sorted((ROOT / "serving").rglob("*.py"))]
ALL = [*LIBRARY, *SCRIPTS]
# What must work without research/: the product, its tests and its benchmarks.
PRODUCT = [*ALL, *(f for folder in ("tests", "benchmarks", "scripts") for f in sorted((ROOT / folder).rglob("*.py")))]
MOST_LINES_OF_BENCHMARKS = 2250
MOST_MODULES, MOST_LINES = 9, 400


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


def test_no_import_cycle():
    graph = {relative(f): {relative(i) for i in project_imports(f) if i != f} for f in LIBRARY}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_scripts_use_the_library_alone():
    """Stages and served models run where no checkout is near."""
    for file in SCRIPTS:
        strays = [relative(f) for f in project_imports(file) if not relative(f).startswith("cmb_models/")]
        assert not strays, f"{relative(file)} imports {strays}"


def test_nothing_depends_on_research():
    strays = [relative(f) for f in PRODUCT if any(n.split(".")[0] == "research" for n in imports_of(f))]
    assert not strays, f"research is imported by {strays}"


def test_benchmarks_stay_few():
    lines = sum(len(f.read_text(encoding="utf-8").splitlines()) for f in (ROOT / "benchmarks").rglob("*.py"))
    assert lines <= MOST_LINES_OF_BENCHMARKS, f"benchmarks/ has {lines} lines: experiments belong in research/"


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_library_stays_where_it_belongs(library):
    allowed = ONLY_IN[library]
    strays = [
        relative(f)
        for f in ALL
        if not any(relative(f) == place or relative(f).startswith(f"{place}/") for place in allowed)
        and any(n.split(".")[0] == library for n in imports_of(f))
    ]
    assert not strays, f"{library} is imported by {strays}"


def test_help_and_client_load_no_heavy_library():
    """What counts is what gets imported, so ask a fresh interpreter."""
    code = (
        "import sys, cmb_models.cli as c; c.build_app();"
        "import cmb_models.api, cmb_models.client.contract, cmb_models.detect.detector;"
        "print([m for m in ('torch','monai','mlflow','optuna','onnxruntime','matplotlib','dvc') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]", f"imported at start: {done.stdout}"


def test_modules_are_short():
    long = {relative(f): n for f in ALL if (n := len(f.read_text(encoding="utf-8").splitlines())) > MOST_LINES}
    assert not long, f"over {MOST_LINES} lines: {long}"


def test_folders_hold_few_modules():
    folders = {f.parent for f in LIBRARY}
    full = {relative(d): n for d in folders if (n := sum(p.name != "__init__.py" for p in d.glob("*.py"))) > MOST_MODULES}
    assert not full, f"over {MOST_MODULES} modules: {full}"

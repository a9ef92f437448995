"""The Python interface: what it exports, what it imports, and a detection from the first line to the evaluation."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import nibabel as nib
import numpy as np
import pytest

import cmb_models
from cmb_models import api, base_release
from cmb_models.client.grpc import Client
from cmb_models.detection import Detection, DetectionResult, Detector
from cmb_models.errors import InputError
from cmb_models.io.annotations import Annotation, write_annotations
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.release.bundle import BundleDetector
from cmb_models.release.keys import new_keys
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE, MORE_MM, head, head_phase, make_base, make_bundle, spots_found
from tests.support.imports import ROOT
from tests.support.refused import refused

HEAVY = ("numpy", "torch", "mlflow", "openvino", "tritonclient", "pandas", "matplotlib", "nibabel", "scipy")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("api") / "bundle")


@pytest.fixture(scope="module")
def with_phase(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("api") / "with phase", phase=True)


@pytest.fixture(scope="module")
def detector(bundle):
    with cmb_models.load(bundle, threads=1) as opened:
        yield opened


def imported_by(code: str) -> list[str]:
    """Which of HEAVY a fresh interpreter has imported after `code`."""
    program = f"import sys; {code}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    return json.loads(done.stdout.replace("'", '"'))


def test_importing_the_package_imports_no_library():
    assert imported_by("import cmb_models") == []
    assert imported_by("import cmb_models; dir(cmb_models)") == []


def test_the_interface_imports_what_reads_scans_only():
    assert set(imported_by("import cmb_models; cmb_models.load, cmb_models.connect, cmb_models.Volume")) <= {
        "numpy",
        "nibabel",
        "scipy",
    }


def test_names_agree_in_the_package_its_types_and_the_interface():
    stub = (ROOT / "cmb_models/__init__.pyi").read_text(encoding="utf-8")
    assert (
        sorted(cmb_models.__all__)
        == sorted(api.__all__)
        == sorted(line.split()[-1] for line in stub.splitlines() if " as " in line)
    )
    assert set(api.__all__) < set(dir(cmb_models)) and "__version__" in dir(cmb_models)
    assert all(getattr(cmb_models, name) is getattr(api, name) for name in api.__all__)
    with pytest.raises(AttributeError, match="no attribute 'detect_all'"):
        cmb_models.detect_all  # noqa: B018


@pytest.mark.parametrize("kind", [BundleDetector, Client])
def test_both_detectors_implement_the_protocol(kind):
    assert isinstance(inspect.getattr_static(kind, "requires_phase"), property)
    assert inspect.signature(kind.detect) == inspect.signature(Detector.detect)
    assert {"__enter__", "__exit__"} <= set(dir(kind))


def test_every_kind_of_scan_gives_the_same_result(detector, tmp_path):
    path = tmp_path / "sub-01_swi.nii.gz"
    write_volume(path, head())
    expected = detector.detect(path)
    assert spots_found(expected) == 3 and expected.volume == head() and expected.release == 0
    assert expected.manifest_sha256 == detector.bundle.manifest_sha256
    assert detector.detect(str(path)) == detector.detect(nib.load(path)) == detector.detect(read_volume(path)) == expected


@pytest.mark.parametrize(
    ("scan", "case", "named"),
    [
        (lambda p: p, None, "sub-01_swi.nii"),
        (lambda p: p, "patient 7", "patient 7"),
        (nib.load, None, "sub-01_swi.nii"),
        (read_volume, None, "scan"),
        (read_volume, "patient 7", "patient 7"),
    ],
    ids=["path", "path and case", "image", "volume", "volume and case"],
)
def test_errors_name_the_case_or_else_the_file(detector, tmp_path, scan, case, named):
    write_volume(tmp_path / "sub-01_swi.nii", Volume(np.ones((40, 40, 20)), AFFINE))
    with refused("scan-constant", case=f"^{named}$"):
        detector.detect(scan(tmp_path / "sub-01_swi.nii"), case=case)


def test_what_is_no_scan_is_rejected(detector, tmp_path):
    with refused("file-not-found", case=r"absent\.nii\.gz"):
        detector.detect(tmp_path / "absent.nii.gz")
    with refused("scan-file", got="ndarray"):
        detector.detect(head().data)
    with refused("scan-geometry", got="20, 20, 20, 2"):
        detector.detect(nib.Nifti1Image(np.zeros((20, 20, 20, 2), np.float32), AFFINE))


def test_phase_is_given_or_read_from_the_file_next_to_the_scan(with_phase, tmp_path):
    scan, phase = tmp_path / "sub-01_swi.nii.gz", tmp_path / "sub-01_part-phase_swi.nii.gz"
    write_volume(scan, head(MORE_MM))
    with cmb_models.load(with_phase, threads=1) as detector:
        assert detector.requires_phase
        with refused("phase-missing", case=scan.name) as refusal:
            detector.detect(scan)
        assert str(phase) in refusal.value.expected
        with refused("phase-missing", case="^scan$"):
            detector.detect(head(MORE_MM))
        write_volume(phase, head_phase(MORE_MM))
        expected = detector.detect(head(MORE_MM), head_phase(MORE_MM))
        assert detector.detect(scan) == detector.detect(scan, phase) == detector.detect(head(MORE_MM), phase) == expected
        assert spots_found(expected, MORE_MM) == 5


def test_phase_that_is_not_required_is_not_opened(detector, tmp_path):
    assert detector.detect(head(), tmp_path / "absent.nii.gz") == detector.detect(head())


def test_a_closed_detector_says_so(bundle):
    with cmb_models.load(bundle, threads=1) as detector:
        pass
    with pytest.raises(ValueError, match="is closed"):
        detector.detect(head())


def test_required_signatures_are_verified_before_loading(bundle):
    with refused("signature-missing", case=str(bundle)):
        cmb_models.load(bundle, trusted_keys={"site.pub": b"-----BEGIN PUBLIC KEY-----"})
    with refused("key-missing", case=str(bundle)):
        cmb_models.load(bundle, trusted_keys={})


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A base release in the place of the package's."""
    monkeypatch.setattr(base_release, "FOLDER", make_base(tmp_path / "package"))
    return base_release.FOLDER


def test_without_a_path_the_base_release_is_loaded(base, bundle):
    for detector in (cmb_models.load(threads=1), cmb_models.load("base", threads=1)):
        with detector:
            result = detector.detect(head())
        assert detector.bundle.path == base / "bundle" and spots_found(result) == 3
        assert result.origin == "base release 0.1.0, trained on simulated scans only"
    with cmb_models.load(bundle, threads=1) as named:
        assert named.detect(head()).origin == ""
    shown = {text.get_text() for text in result.plot().texts}
    assert any("base release 0.1.0" in text for text in shown)


def test_a_folder_called_base_is_not_the_base_release(base, bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundle, "base")
    for folder in ("./base", Path("base")):
        with cmb_models.load(folder, threads=1) as detector:
            assert detector.bundle.path == Path("base") and detector.origin == ""


def test_a_build_without_base_release_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(base_release, "FOLDER", tmp_path)
    with refused("base-release-missing", got="none in this build") as refusal:
        cmb_models.load()
    assert "bundle folder" in refusal.value.remedy


def test_keys_that_are_passed_must_have_signed_the_base_release(base, tmp_path):
    _, other = new_keys(tmp_path / "site")
    with refused("signature-invalid", case="bundle"):
        cmb_models.load(trusted_keys={"site.pub": other.read_bytes()})
    with cmb_models.load(trusted_keys={"copy.pub": (base / "release.pub").read_bytes()}, threads=1) as detector:
        assert detector.origin


def test_a_missing_runtime_is_named_with_its_remedy(base, bundle, monkeypatch):
    for name in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    for folder in ("base", bundle):
        with refused("package-missing", got="openvino") as refusal:
            cmb_models.load(folder)
        assert "cmb-models[detect]" in refusal.value.remedy


@pytest.mark.parametrize(
    ("package", "call", "extra"),
    [
        ("pandas", "result.to_dataframe()", "analysis"),
        ("matplotlib", "result.plot(c.Volume(np.ones((20, 20, 20)), np.eye(4)))", "analysis"),
        ("scipy", "c.evaluate({'sub-01': result}, [], resamples=20)", "analysis"),
        ("scipy", "c.compare(result, result)", "compare"),
    ],
)
def test_a_missing_package_of_an_extra_is_named_with_its_remedy(package, call, extra):
    """In an interpreter of its own, since modules that were imported before keep their packages."""
    code = (
        f"import sys; sys.modules['{package}'] = None\nimport numpy as np, cmb_models as c\nresult = c.DetectionResult((), 0.5)\n"
        f"try:\n    {call}\nexcept c.InputError as e:\n    print(e.code, '|', e.got, '|', e.remedy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"package-missing | no {package} | run pip install 'cmb-models[{extra}]'"


def test_connecting_sends_nothing_and_an_absent_server_is_named():
    with cmb_models.connect("localhost:1", timeout_s=5) as client, pytest.raises(InputError) as error:
        client.detect(head())
    assert error.value.case == "localhost:1"


def found(x_mm: float, score: float) -> Detection:
    return Detection((x_mm, 0.0, 0.0), (1, 2, 3), 4.0, score, 0.6, 0.7)


RESULT = DetectionResult((found(0.0, 0.9), found(20.0, 0.4)), threshold=0.5)


def test_the_table_has_a_row_per_detection():
    table = RESULT.to_dataframe()
    assert list(table.columns) == ["x_mm", "y_mm", "z_mm", "i", "j", "k", "diameter_mm", "score", "stage1_score", "stage2_score"]
    assert table.values.tolist() == [[0.0, 0.0, 0.0, 1, 2, 3, 4.0, 0.9, 0.6, 0.7]]
    assert RESULT.to_dataframe(threshold=0.4)["x_mm"].tolist() == [0, 20]
    assert len(DetectionResult((), 0.5).to_dataframe()) == 0


def test_the_volume_is_for_the_figure_only():
    kept = DetectionResult(RESULT.candidates, 0.5, volume=head())
    assert kept == RESULT and hash(kept) == hash(RESULT) and "Volume" not in repr(kept)
    figure = kept.plot(title="sub-01")
    assert len(figure.axes) == 3 + 3  # three slabs, and three planes of the one finding
    assert len(RESULT.plot(head(), threshold=0.3).axes) == 3 + 6
    with refused("results-incomplete", case="plot"):
        RESULT.plot()


def mark(subject: str, x_mm: float, label: str = "cmb", session: str = "") -> Annotation:
    return Annotation(subject, session, x_mm, 0.0, 0.0, 4.0, label, "rater")


def test_evaluation_by_hand(tmp_path):
    """Two scans: at 0.5 one of two microbleeds is found with no false positive; at 0.4 there is one false positive in two scans."""
    results = {"sub-01_swi.nii.gz": RESULT, "site_sub-02": DetectionResult((), 0.5)}
    rows = [mark("sub-01", 1.0), mark("sub-02", 0.0), mark("sub-01", -40.0, "mimic:vein")]
    evaluation = cmb_models.evaluate(results, rows, resamples=50)
    assert evaluation.metrics["n_lesions"] == 2 and evaluation.metrics["sensitivity"] == 0.5
    assert evaluation.metrics["fp_per_scan"] == 0 and evaluation.threshold == 0.5
    assert cmb_models.evaluate(results, rows, threshold=0.4, resamples=50).metrics["fp_per_scan"] == 0.5
    sensitivity, low, high = evaluation.sensitivity_at(1)
    assert low <= sensitivity == 0.5 <= high
    assert evaluation.intervals_95["sensitivity"][0] <= 0.5
    assert cmb_models.evaluate(results, rows, tolerance_mm=0.5, resamples=50).metrics["hits"] == 1  # within the lesion's radius
    write_annotations(tmp_path / "annotations.csv", rows)
    again = cmb_models.evaluate(results, tmp_path / "annotations.csv", resamples=50)
    assert again.froc == evaluation.froc and again.metrics == evaluation.metrics
    table = evaluation.to_dataframe()
    assert (
        list(table.columns) == ["fp_per_scan", "sensitivity", "threshold", "low", "high"] and table["sensitivity"].iloc[-1] == 0.5
    )
    assert evaluation.plot().axes[0].get_title(loc="left") == "FROC: 2 microbleeds in 2 scans"


def test_sessions_are_scans_of_one_subject():
    rows = [mark("sub-01", 0.0, session="ses-02")]
    evaluation = cmb_models.evaluate({"sub-01_ses-01": DetectionResult((), 0.5), "sub-01_ses-02": RESULT}, rows, resamples=20)
    assert [(s.subject, len(s.cmbs)) for s in evaluation.scans] == [("sub-01", 0), ("sub-01", 1)]
    assert evaluation.metrics["sensitivity"] == 1


@pytest.mark.parametrize(
    ("results", "code", "got"),
    [
        ({}, "results-incomplete", "^none$"),
        ({"sub-01": RESULT}, "results-incomplete", "sub-02"),
        ({"sub-01": RESULT, "sub-02": DetectionResult((), 0.6)}, "results-mixed", "0.5, 0.6"),
        ({"sub-01": RESULT, "sub-01_swi": RESULT, "sub-02": RESULT}, "results-mixed", "sub-01, sub-01_swi"),
        ([RESULT], "results-incomplete", "^list$"),
        ({"sub-01": list(RESULT.candidates), "sub-02": RESULT}, "results-incomplete", "^list by str$"),
        ({1: RESULT}, "results-incomplete", "^DetectionResult by int$"),
    ],
    ids=["none", "annotated scan left out", "two releases", "one scan twice", "no mapping", "detections alone", "numbered"],
)
def test_evaluations_that_would_mislead_are_refused(results, code, got):
    with refused(code, got=got):
        cmb_models.evaluate(results, [mark("sub-01", 0.0), mark("sub-02", 0.0)])


def test_no_microbleeds_anywhere():
    evaluation = cmb_models.evaluate({"sub-01": RESULT}, [], resamples=20)
    assert evaluation.metrics["fp_per_scan"] == 1 and evaluation.sensitivity_at(1)[0] is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": True},
        {"n_microbleeds": 61},
        {"n_microbleeds": 1.5},
        {"n_microbleeds": "2"},
        {"protocol": "mars"},
        {"protocol": ["small"]},
    ],
    ids=str,
)
def test_impossible_simulations_are_refused(arguments):
    with pytest.raises(InputError):
        cmb_models.simulate(**{"protocol": "small"} | arguments)


@pytest.mark.slow
def test_the_notebook_runs():
    """Every cell of examples/detect.ipynb ends with a picture, when run and as committed."""
    path = ROOT / "examples/detect.ipynb"
    committed, run = (nbformat.read(path, as_version=4) for _ in range(2))
    nbclient.execute(run, cwd=str(path.parent), timeout=300)
    for notebook in (committed, run):
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert len(cells) == 10
        assert all("image/jpeg" in cell.outputs[-1].data for cell in cells)


@pytest.mark.parametrize("bundle", [5, None, b"bundle", ["bundle"]])
def test_what_is_no_bundle(bundle):
    with refused("setting-invalid", case="bundle"):
        cmb_models.load(bundle)


@pytest.mark.parametrize("threads", [-1, "2", 1.5, True, None])
def test_what_is_no_number_of_threads(bundle, threads):
    with refused("setting-invalid", case="threads"):
        cmb_models.load(bundle, threads=threads)


@pytest.mark.parametrize("address", [5, None, b"127.0.0.1:8001", "", " "])
def test_what_is_no_address(address):
    with refused("setting-invalid", case="address"):
        cmb_models.connect(address)

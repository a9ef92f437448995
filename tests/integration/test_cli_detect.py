"""`cmb detect` as a person runs it: what it writes, what it says, and how it ends."""

import csv
import os
import shutil
import sys
import types

import numpy as np
import pytest

from cmb_models import base_release
from cmb_models.cli.detect import TRAIN_HINT
from cmb_models.client.outputs import COLUMNS
from cmb_models.detection import Detection, DetectionResult
from cmb_models.errors import InputError
from cmb_models.files import read_json, sha256_of, write_json
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.io.scan_id import scan_sha256
from cmb_models.release.keys import new_keys
from cmb_models.volume import Volume
from tests.integration.registry_workspace import git
from tests.support.bundles import AFFINE, BLOBS_MM, altered, head, head_phase, make_base, make_bundle
from tests.support.unplaced import unplaced

FOUND = Detection((1.0, 2.0, 3.0), (4, 5, 6), 3.0, 0.9, 0.8, 0.7)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def work(tmp_path, tmp_path_factory, monkeypatch):
    """An empty working folder with two scans, one of them without spots; the package has no base release."""
    monkeypatch.setattr(base_release, "FOLDER", tmp_path_factory.mktemp("package"))
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path / "spots.nii.gz", head())
    write_volume(tmp_path / "clean.nii", head(blobs_mm=(), seed=2))
    return tmp_path


def rows(path) -> list[dict]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def fake_server(monkeypatch, answer):
    """Stand in for the gRPC client; `answer(volume, case)` is its detect."""
    addresses = []

    class Client:
        def __init__(self, url, *, timeout_s, tls, shared_memory):
            addresses.append((url, "shared memory") if shared_memory else url)

        requires_phase = False

        def detect(self, scan, phase=None, *, case=None):
            return answer(scan, case)

    monkeypatch.setitem(sys.modules, "cmb_models.client.grpc", types.SimpleNamespace(Client=Client))
    return addresses


def test_bundle_to_table_json_and_pictures(work, cmb, bundle):
    code, out, err = cmb("detect", "spots.nii.gz", "clean.nii", "--out", "results", "--bundle", bundle)
    assert (code, err) == (0, "")
    assert sorted(p.name for p in (work / "results").iterdir()) == ["clean.png", "detections.csv", "detections.json", "spots.png"]
    table = rows(work / "results/detections.csv")
    assert tuple(table[0]) == COLUMNS and {r["scan"] for r in table} == {"spots"}
    assert {s["scan"]: s["input_sha256"] for s in read_json(work / "results/detections.json")["scans"]} == {
        name: scan_sha256(read_volume(work / file)) for name, file in (("spots", "spots.nii.gz"), ("clean", "clean.nii"))
    }
    places = sorted(tuple(float(r[c]) for c in ("x_mm", "y_mm", "z_mm")) for r in table)
    np.testing.assert_allclose(places, sorted(BLOBS_MM), atol=1.5)
    summary = read_json(work / "results/detections.json")
    assert [s["scan"] for s in summary["scans"]] == ["spots", "clean"] and summary["refused"] == []
    assert [len(s["detections"]) for s in summary["scans"]] == [3, 0]
    assert "spots" in out and "clean" in out and "detections.csv" in out


def test_label_images_hold_each_detection_in_the_space_of_the_scan(work, cmb, bundle):
    code, out, _ = cmb("detect", "spots.nii.gz", "clean.nii", "--out", "results", "--bundle", bundle, "--labels", "--no-figures")
    assert code == 0 and "label images" in out
    image, scan = (read_volume(work / name) for name in ("results/spots_desc-cmb_dseg.nii.gz", "spots.nii.gz"))
    np.testing.assert_array_equal(image.affine, scan.affine)
    found = rows(work / "results/detections.csv")
    with (work / "results/spots_desc-cmb_dseg.tsv").open() as stream:
        table = list(csv.DictReader(stream, delimiter="\t"))
    assert [r["index"] for r in table] == ["1", "2", "3"] and [r["x_mm"] for r in table] == [r["x_mm"] for r in found]
    for row in table:
        place = tuple(int(found[int(row["index"]) - 1][axis]) for axis in "ijk")
        assert image.data[place] == int(row["index"])
        voxels = np.count_nonzero(image.data == int(row["index"]))
        assert float(row["volume_mm3"]) == pytest.approx(voxels * np.prod(scan.spacing_mm), abs=0.005) and voxels > 5
    shutil.copyfile(work / "spots.nii.gz", work / "spots_swi.nii.gz")
    code, _, err = cmb("detect", "spots.nii.gz", "spots_swi.nii.gz", "--out", "r", "--bundle", bundle, "--labels")
    assert code == 2 and "all `spots_desc-cmb_dseg`" in err
    assert not read_volume(work / "results/clean_desc-cmb_dseg.nii.gz").data.any()
    assert len((work / "results/clean_desc-cmb_dseg.tsv").read_text().splitlines()) == 1


def test_reports_are_pages_of_the_scans(work, cmb, bundle):
    """One per processed scan, with the release's comparison; none for a scan that has no place in the scanner."""
    unplaced(work / "nowhere.nii", head())
    words = (
        "detect",
        "spots.nii.gz",
        "clean.nii",
        "nowhere.nii",
        "--bundle",
        bundle,
        "--report",
        "--no-figures",
        "--out",
        "results",
    )
    code, out, _ = cmb(*words)
    assert code == 0 and "a report of each processed scan" in out
    pages = {p.name: p.read_text(encoding="utf-8") for p in (work / "results").glob("*.html")}
    assert set(pages) == {"spots.html", "clean.html"}
    summary = {s["scan"]: s for s in read_json(work / "results/detections.json")["scans"]}
    for scan, found in (("spots", 3), ("clean", 0)):
        page = pages[f"{scan}.html"]
        assert page.count('aria-label="Show finding ') == found and summary[scan]["manifest_sha256"] in page
        assert summary[scan]["input_sha256"] in page and "not used by this release" in page
    assert cmb("detect", "spots.nii.gz", "--bundle", bundle, "--out", "without")[0] == 0
    assert not list((work / "without").glob("*.html"))


def test_reports_of_a_release_that_uses_phase_say_so(work, cmb, tmp_path):
    write_volume(work / "spots_part-phase.nii.gz", head_phase())
    with_phase = make_bundle(tmp_path / "phase", phase=True)
    code, _, err = cmb("detect", "spots.nii.gz", "--bundle", with_phase, "--report", "--no-figures", "--out", "results")
    assert code == 0, err
    assert "<td>used by this release</td>" in (work / "results/spots.html").read_text(encoding="utf-8")


def test_the_threshold_of_a_rate_of_false_positives(work, cmb, tmp_path):
    """From the FROC table of the held-out test set that a registered release carries."""
    table = [{"fp_per_scan": rate, "sensitivity": 0.5, "threshold": threshold} for rate, threshold in ((0.5, 0.6), (1.0, 0.25))]
    registered = altered(
        make_bundle(tmp_path / "b"), tmp_path / "registered", lambda b: write_json(b / "evaluation/froc.json", table)
    )
    call = ("detect", "spots.nii.gz", "--no-figures", "--out", "r", "--bundle", registered)
    assert cmb(*call, "--fp-rate", "1")[0] == 0
    assert read_json(work / "r/detections.json")["scans"][0]["threshold"] == 0.25
    for more, words in (
        (("--fp-rate", "3"), "expected one of 0.5, 1, got 3"),
        (("--fp-rate", "1", "--threshold", "0.5"), "expected --fp-rate alone"),
    ):
        code, _, err = cmb(*call, *more)
        assert code == 2 and words in err
    code, _, err = cmb(*call[:-1], tmp_path / "b", "--fp-rate", "1")
    assert code == 2 and "a release with a held-out test set" in err
    code, _, err = cmb(*call[:-2], "--server", "127.0.0.1:9", "--fp-rate", "1")
    assert code == 2 and "--fp-rate with --bundle" in err


def test_all_candidates_are_written_where_asked_for(work, cmb, bundle):
    code, out, _ = cmb("detect", "spots.nii.gz", "--out", "r", "--bundle", bundle, "--all-candidates", "--no-figures")
    assert code == 0 and "candidates.csv" in out
    every, found = rows(work / "r/candidates.csv"), rows(work / "r/detections.csv")
    assert [r["score"] for r in every if r["detection"] == "1"] == [r["score"] for r in found]
    assert len(every) > len(found) == 3


@pytest.fixture(scope="module")
def phase_bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "p", phase=True)


def test_phase_is_found_beside_the_scan_or_named(work, cmb, phase_bundle):
    write_volume(work / "spots_part-phase.nii.gz", head_phase())
    call = ("detect", "spots.nii.gz", "--bundle", phase_bundle, "--no-figures", "--out")
    assert cmb(*call, "beside")[0] == 0
    write_volume(work / "elsewhere.nii.gz", head_phase(sign=-1))
    (work / "spots_part-phase.nii.gz").unlink()
    assert cmb(*call, "named", "--phase", "elsewhere.nii.gz")[0] == 0
    best = rows(work / "beside/detections.csv")[:3]
    np.testing.assert_allclose(
        sorted(tuple(float(r[c]) for c in ("x_mm", "y_mm", "z_mm")) for r in best), sorted(BLOBS_MM), atol=1.5
    )
    assert rows(work / "beside/detections.csv") == rows(work / "named/detections.csv")  # the sign as stored does not matter


def test_scans_without_their_phase_are_refused_and_the_others_go_on(work, cmb, phase_bundle):
    write_volume(work / "spots_part-phase.nii.gz", head_phase())
    write_volume(work / "thick.nii.gz", head(seed=3))
    (work / "thick_part-phase.nii.gz").write_bytes(b"no scan")
    code, _, err = cmb(
        "detect", "clean.nii", "thick.nii.gz", "spots.nii.gz", "--out", "r", "--bundle", phase_bundle, "--no-figures"
    )
    first, second = err.splitlines()
    report = "expected its phase image clean_part-phase.nii, got no such file; add the scan's phase series as that file"
    assert (
        code == 1 and first == f"error: clean.nii: {report}" and second.startswith("error: thick.nii.gz: expected its phase image ")
    )
    assert [s["scan"] for s in read_json(work / "r/detections.json")["scans"]] == ["spots"]


def test_phase_that_is_not_used_is_left_aside_and_told(work, cmb, bundle, caplog):
    assert cmb("detect", "spots.nii.gz", "--phase", "none.nii", "--out", "r", "--bundle", bundle, "--no-figures")[0] == 0
    assert "spots.nii.gz: the release does not use phase, none.nii is ignored" in caplog.text
    assert len(rows(work / "r/detections.csv")) == 3


def test_bad_scans_are_told_in_a_line_each_and_the_others_go_on(work, cmb, bundle):
    write_volume(work / "constant.nii.gz", Volume(np.ones((40, 40, 20), dtype=np.float32), AFFINE))
    broken = head().data.copy()
    broken[0, 0, 0] = np.nan
    write_volume(work / "nan.nii.gz", Volume(broken, AFFINE))
    (work / "cut.nii.gz").write_bytes((work / "spots.nii.gz").read_bytes()[:9000])
    (work / "photo.png").write_bytes(b"\x89PNG")
    (work / "folder").mkdir()
    bad = ["constant.nii.gz", "missing[a].nii", "nan.nii.gz", "cut.nii.gz", "photo.png", "folder"]
    code, _, err = cmb("detect", *bad, "spots.nii.gz", "--out", "results", "--bundle", bundle, "--no-figures")
    lines = err.splitlines()
    assert code == 1 and "Traceback" not in err
    assert [line.split(":")[1].strip() for line in lines] == bad
    assert all(line.startswith("error: ") and "expected" in line and "; " in line for line in lines)
    summary = read_json(work / "results/detections.json")
    assert [r["file"] for r in summary["refused"]] == bad and [s["scan"] for s in summary["scans"]] == ["spots"]
    assert len(rows(work / "results/detections.csv")) == 3
    assert not list((work / "results").glob("*.png"))


def test_all_scans_bad_still_writes_a_header_and_fails(work, cmb, bundle):
    code, _, _ = cmb("detect", "missing.nii", "--out", "results", "--bundle", bundle)
    assert code == 1 and (work / "results/detections.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_another_threshold(work, cmb, bundle):
    cmb("detect", "spots.nii.gz", "--out", "all", "--bundle", bundle, "--threshold", "0", "--no-figures")
    assert len(rows(work / "all/detections.csv")) == len(read_json(work / "all/detections.json")["scans"][0]["detections"]) > 3
    for impossible in ("1.5", "-0.1", "nan", "x"):
        code, _, err = cmb("detect", "spots.nii.gz", "--out", "none", "--bundle", bundle, "--threshold", impossible)
        assert code == 2 and "--threshold" in err and not (work / "none").exists()


def test_an_earlier_calls_results_are_replaced(work, cmb, bundle):
    for _ in range(2):
        assert cmb("detect", "spots.nii.gz", "--out", "results", "--bundle", bundle, "--no-figures")[0] == 0
    assert len(rows(work / "results/detections.csv")) == 3


def test_a_named_server_answers(work, cmb, monkeypatch):
    addresses = fake_server(monkeypatch, lambda volume, case: DetectionResult((FOUND,), 0.5, 12, "ab" * 32))
    code, out, _ = cmb("detect", "spots.nii.gz", "--out", "results", "--server", "gpu:8001", "--no-figures")
    assert code == 0 and addresses == ["gpu:8001"] and "12" in out
    assert rows(work / "results/detections.csv")[0]["release"] == "12"


def test_the_server_started_here_is_the_default(work, cmb, monkeypatch):
    write_json(work / "serving-state/server.json", {"grpc_url": "localhost:9001"})
    addresses = fake_server(monkeypatch, lambda volume, case: DetectionResult((), 0.5, 1))
    assert cmb("detect", "spots.nii.gz", "--out", "results", "--no-figures")[0] == 0
    assert addresses == ["localhost:9001"]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "package")


@pytest.fixture
def base(work, package, monkeypatch):
    """A base release in the place of the package's."""
    monkeypatch.setattr(base_release, "FOLDER", package)
    return package


ORIGIN = "base release 0.1.0, trained on simulated scans only"


@pytest.mark.parametrize("words", [(), ("--bundle", "base"), ("--device", "cpu")], ids=["alone", "named", "device"])
def test_without_a_server_or_bundle_the_base_release_detects_and_is_named(base, work, cmb, words):
    code, out, err = cmb("detect", "spots.nii.gz", "--out", "results", *words)
    assert (code, err) == (0, "")
    assert f"Microbleeds by {ORIGIN}" in " ".join(out.split()) and "device: cpu" in out
    assert out.splitlines()[-1] == TRAIN_HINT
    (scan,) = read_json(work / "results/detections.json")["scans"]
    assert scan["origin"] == ORIGIN and len(scan["detections"]) == 3 and (work / "results/spots.png").is_file()
    assert scan["manifest_sha256"] == sha256_of(base / "bundle/manifest.json")


def test_another_bundle_is_not_called_the_base_release(base, work, cmb, bundle):
    code, out, _ = cmb("detect", "spots.nii.gz", "--out", "results", "--bundle", bundle, "--no-figures")
    assert code == 0 and "base release" not in out and TRAIN_HINT not in out
    assert read_json(work / "results/detections.json")["scans"][0]["origin"] == ""


def test_a_server_started_here_comes_before_the_base_release(base, work, cmb, monkeypatch):
    write_json(work / "serving-state/server.json", {"grpc_url": "localhost:9001"})
    addresses = fake_server(monkeypatch, lambda volume, case: DetectionResult((), 0.5, 1))
    call = ("detect", "spots.nii.gz", "--out", "results", "--no-figures")
    code, out, _ = cmb(*call)
    assert code == 0 and addresses == ["localhost:9001"] and "base" not in out
    code, _, err = cmb(*call, "--device", "cpu")
    assert code == 2 and "--device without a server, got server localhost:9001" in err


@pytest.mark.parametrize("words", [("--shared-memory",), ("--shadow", "log.jsonl")], ids=["memory", "shadow"])
def test_what_needs_a_server_does_not_fall_back_to_the_base_release(base, work, cmb, words):
    code, _, err = cmb("detect", "spots.nii.gz", "--out", "results", *words)
    assert code == 2 and "expected a server or a bundle, got neither" in err


def test_a_damaged_base_release_is_refused(work, cmb, package, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("damaged") / "package"
    shutil.copytree(package, folder)
    with (folder / "bundle/unet.onnx").open("ab") as stream:
        stream.write(b"x")
    monkeypatch.setattr(base_release, "FOLDER", folder)
    code, _, err = cmb("detect", "spots.nii.gz", "--out", "results")
    assert code == 2 and "unet.onnx changed" in err


def test_a_workspace_that_requires_signatures_requires_its_keys_of_the_base_release_too(base, work, cmb):
    """A copy of the package's key among its own is enough."""
    git(work, "init", "-q")
    for name, value in (("user.name", "t"), ("user.email", "t@example.org")):
        git(work, "config", name, value)
    (work / ".gitignore").write_text("*.key\n")
    new_keys(work / "keys")
    git(work, "add", "keys")
    git(work, "commit", "-qm", "Releases are signed")
    call = ("detect", "spots.nii.gz", "--out", "results", "--no-figures")
    code, _, err = cmb(*call)
    assert code == 2 and "expected a signature by keys/release.pub, got one by another key" in err
    shutil.copyfile(base / "release.pub", work / "keys/base.pub")
    git(work, "add", "keys")
    git(work, "commit", "-qm", "Trust the base release")
    assert cmb(*call)[0] == 0


def test_memory_is_shared_with_a_server_alone(work, cmb, monkeypatch):
    addresses = fake_server(monkeypatch, lambda volume, case: DetectionResult((), 0.5, 1))
    call = ("detect", "spots.nii.gz", "--out", "results", "--no-figures", "--shared-memory")
    assert cmb(*call, "--server", "localhost:9001")[0] == 0
    assert addresses == [("localhost:9001", "shared memory")]
    code, _, err = cmb(*call, "--bundle", "bundle")
    assert code == 2 and "a server to share memory with, got --bundle" in err


def test_an_unreachable_server_is_told_once(work, cmb, monkeypatch):
    def gone(volume, case):
        raise InputError("server-unreachable", "gpu:8001", "a server that answers", "no connection", "start one")

    fake_server(monkeypatch, gone)
    code, _, err = cmb("detect", "spots.nii.gz", "clean.nii", "--out", "results", "--server", "gpu:8001")
    assert code == 2 and err == "error: gpu:8001: expected a server that answers, got no connection; start one\n"
    assert list((work / "results").iterdir()) == []


def test_a_real_client_without_a_server(work, cmb):
    code, _, err = cmb("detect", "spots.nii.gz", "--out", "results", "--server", "localhost:1")
    assert code == 2 and err.startswith("error: localhost:1: ") and err.count("\n") == 1


def test_a_server_that_goes_away_keeps_the_answers_so_far(work, cmb, monkeypatch):
    def once(volume, case):
        if case != "spots.nii.gz":
            raise InputError("server-unreachable", "gpu:8001", "a server that answers", "no connection", "start one")
        return DetectionResult((FOUND,), 0.5, 1)

    fake_server(monkeypatch, once)
    names = ["spots.nii.gz", "clean.nii", "third.nii"]
    code, _, err = cmb("detect", *names, "--out", "results", "--server", "gpu:8001", "--no-figures")
    assert code == 1 and err.count("no connection") == 1
    summary = read_json(work / "results/detections.json")
    assert [s["scan"] for s in summary["scans"]] == ["spots"]
    assert [(r["scan"], "no connection" in r["error"]) for r in summary["refused"]] == [("clean", True), ("third", True)]


def test_refusals_and_failures_of_the_server_are_the_scans(work, cmb, monkeypatch):
    def picky(volume, case):
        if case == "spots.nii.gz":
            raise InputError("scan-file", case, "a scan", "a cat", "pass a scan")
        raise RuntimeError(f"{case}: the server failed")

    fake_server(monkeypatch, picky)
    code, _, err = cmb("detect", "spots.nii.gz", "clean.nii", "--out", "results", "--server", "gpu:8001")
    assert code == 1
    assert err == "error: spots.nii.gz: expected a scan, got a cat; pass a scan\nerror: clean.nii: the server failed\n"


CANNOT_START = {
    "nowhere to run": (["spots.nii.gz", "--out", "r"], "--server HOST:PORT or --bundle DIR"),
    "two places to run": (["spots.nii.gz", "--out", "r", "--server", "a:1", "--bundle", "BUNDLE"], "expected either"),
    "no bundle there": (["spots.nii.gz", "--out", "r", "--bundle", "nothing"], "nothing: expected a bundle"),
    "same name twice": (
        ["spots.nii.gz", "other/spots.nii", "--out", "r", "--bundle", "BUNDLE"],
        "expected a different name for each, got spots.nii.gz, other/spots.nii",
    ),
    "out is a file": (
        ["spots.nii.gz", "--out", "file", "--bundle", "BUNDLE"],
        "file: expected a folder to write results into, got a file",
    ),
    "out below a file": (["spots.nii.gz", "--out", "file/r", "--bundle", "BUNDLE"], "file/r: expected a folder"),
    "no scans": (["--out", "r", "--bundle", "BUNDLE"], "Missing argument"),
    "one phase for two scans": (
        ["spots.nii.gz", "clean.nii", "--phase", "p.nii", "--out", "r", "--bundle", "BUNDLE"],
        "--phase: expected one for each of 2 scans, in their order, got 1",
    ),
}


@pytest.mark.parametrize("case", CANNOT_START)
def test_calls_that_cannot_start(work, cmb, bundle, case):
    (work / "file").touch()
    words, report = CANNOT_START[case]
    code, out, err = cmb("detect", *(bundle if w == "BUNDLE" else w for w in words))
    assert code == 2 and out == "" and "Traceback" not in err and report in err


def test_a_folder_that_may_not_be_written(work, cmb, bundle, monkeypatch):
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != "r" and access(path, mode))
    code, _, err = cmb("detect", "spots.nii.gz", "--out", "r", "--bundle", bundle)
    assert code == 2 and "r: expected a folder to write results into, got permission denied" in err


def test_a_damaged_server_state_is_told(work, cmb):
    (work / "serving-state").mkdir()
    for content in ("", "{}", "[]"):
        (work / "serving-state/server.json").write_text(content)
        code, _, err = cmb("detect", "spots.nii.gz", "--out", "r")
        assert code == 2 and "serving-state/server.json: expected a grpc_url" in err


def test_help_tells_the_exit_codes_and_the_use(work, cmb):
    code, out, _ = cmb("detect", "--help")
    assert code == 0 and "not a medical device" in " ".join(out.split()) and "1 some were rejected" in " ".join(out.split())

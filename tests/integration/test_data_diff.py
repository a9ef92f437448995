"""`cmb data diff` on a workspace with real git and DVC."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cmb_models.io.annotations import Annotation, EmptyReading, write_annotations
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.volume import Volume
from cmb_models.workspace.dvc_cache import cache_dir
from tests.integration.registry_workspace import dvc, git
from tests.support.command_line import cmb
from tests.support.refused import refused

SITE = Path("data/raw/site")


def swi(subject: str) -> Path:
    return SITE / subject / "swi" / f"{subject}_swi.nii.gz"


def write_scan(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_volume(file, Volume(np.random.default_rng(seed).uniform(0, 9, (4, 5, 6)).astype(np.float32), np.diag([1.0, 1, 2, 1])))


def mark(subject: str, x_mm: float, label: str = "cmb") -> Annotation:
    return Annotation(subject, "", x_mm, 0.0, 0.0, 3.0, label, "AB")


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Path:
    """A workspace whose tag v1 has sub-1 to sub-4 with a mark each, sub-4 an empty reading."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("diff")
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        patch.chdir(folder)
        git(folder, "init", "-q", "-b", "site")
        git(folder, "config", "user.name", "Engineer")
        git(folder, "config", "user.email", "engineer@site.example")
        dvc(folder, "init")
        for n in range(1, 5):
            write_scan(swi(f"sub-{n}"), n)
        shutil.copy(swi("sub-1"), swi("sub-1").with_name("sub-1_part-phase_swi.nii.gz"))
        rows = [mark(f"sub-{n}", 10.0 * n) for n in range(1, 4)]
        write_annotations(SITE / "annotations.csv", rows, [EmptyReading("sub-4", "", "AB")])
        dvc(folder, "add", "data/raw/site")
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", "Add scans")
        git(folder, "tag", "v1")
        return folder


@pytest.fixture
def workspace(committed, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "site"
    shutil.copytree(committed, folder, symlinks=True)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    monkeypatch.chdir(folder)
    return folder


def compare(*arguments: str) -> dict:
    result = cmb("data", "diff", *arguments, "--json")
    if result.exception:
        raise result.exception
    return json.loads(result.output)


def scans(found: dict) -> list[tuple]:
    return [(s["kind"], (s["before"] or {}).get("subject"), (s["after"] or {}).get("subject")) for s in found["scans"]]


def test_nothing_changed(workspace):
    found = compare("v1")
    assert found["before"] == found["after"] == {"site": {"scans": 4, "subjects": 4, "cmbs": 3}}
    assert not (found["scans"] or found["marks"] or found["readings"] or found["files"] or found["notes"])
    assert "no difference" in cmb("data", "diff", "v1").output


def change_everything() -> None:
    """sub-1 saved again, its phase gone; sub-2 other voxels; sub-3 renamed to sub-9, its mark moved; sub-4 reread; sub-5 new."""
    swi("sub-1").write_bytes(gzip.compress(gzip.decompress(swi("sub-1").read_bytes()), 1))
    swi("sub-1").with_name("sub-1_part-phase_swi.nii.gz").unlink()
    write_scan(swi("sub-2"), 22)
    swi("sub-9").parent.mkdir(parents=True)
    swi("sub-3").rename(swi("sub-9"))
    shutil.rmtree(SITE / "sub-3")
    write_scan(swi("sub-5"), 5)
    rows = [mark("sub-1", 10.0, "mimic:vein"), mark("sub-2", 20.0), mark("sub-9", 31.0), mark("sub-4", 40.0), mark("sub-5", 50.0)]
    write_annotations(SITE / "annotations.csv", rows)


@pytest.mark.parametrize("versions", ["tag to working tree", "tag to commit", "commit to tag"])
def test_each_change_is_named(workspace, versions):
    change_everything()
    if versions != "tag to working tree":
        dvc(workspace, "add", "data/raw/site")
        git(workspace, "add", "-A")
        git(workspace, "commit", "-qm", "Change")
        shutil.rmtree(SITE)  # everything comes from the cache
    arguments = {"tag to working tree": ["v1"], "tag to commit": ["v1", "HEAD"], "commit to tag": ["HEAD", "v1"]}[versions]
    found = compare(*arguments)
    assert not found["notes"]
    if versions == "commit to tag":
        assert found["subjects"] == {"added": [], "removed": [["site", "sub-5"]]}
        assert ("renamed", "sub-9", "sub-3") in scans(found) and ("removed", "sub-5", None) in scans(found)
        return
    assert scans(found) == [
        ("saved again", "sub-1", "sub-1"),
        ("voxels changed", "sub-2", "sub-2"),
        ("added", None, "sub-5"),
        ("renamed", "sub-3", "sub-9"),
    ]
    assert found["subjects"] == {"added": [["site", "sub-5"]], "removed": []}
    assert [(m["scan"][1], m["kinds"]) for m in found["marks"]] == [
        ("sub-1", ["relabelled"]),
        ("sub-4", ["added"]),
        ("sub-9", ["moved"]),
    ]
    assert [(r["scan"][1], r["kind"], r["rater"]) for r in found["readings"]] == [("sub-4", "removed", "AB")]
    assert found["files"] == [{"kind": "removed", "path": "site/sub-1/swi/sub-1_part-phase_swi.nii.gz"}]
    shown = cmb("data", "diff", *arguments, env={"COLUMNS": "200"}).output
    assert all(word in shown for word in ("was site/sub-3", "now mimic:vein", "by 1.0 mm", "other files"))


def test_a_scan_whose_position_alone_changed(workspace):
    volume = read_volume(swi("sub-1"))
    write_volume(swi("sub-1"), Volume(volume.data, volume.affine + _shift_mm(2.0)))
    assert scans(compare("v1")) == [("position changed", "sub-1", "sub-1")]


def _shift_mm(x_mm: float) -> np.ndarray:
    shift = np.zeros((4, 4))
    shift[0, 3] = x_mm
    return shift


def test_a_scan_that_was_saved_again_under_another_name_is_renamed(workspace):
    swi("sub-9").parent.mkdir(parents=True)
    swi("sub-9").write_bytes(gzip.compress(gzip.decompress(swi("sub-1").read_bytes()), 1))
    shutil.rmtree(SITE / "sub-1")
    assert scans(compare("v1")) == [("renamed", "sub-1", "sub-9")]


def test_datasets_added_and_compared_as_folders(workspace, tmp_path):
    shutil.copytree(SITE, tmp_path / "backup")
    shutil.copytree(SITE, "data/raw/second")
    write_scan(swi("sub-2"), 22)
    found = compare("v1")
    assert found["datasets"] == {"added": ["second"], "removed": []}
    assert scans(compare(str(tmp_path / "backup"), str(SITE))) == [("voxels changed", "sub-2", "sub-2")]
    assert scans(compare("v1", str(SITE))) == [("voxels changed", "sub-2", "sub-2")]
    with refused("data-version", case="backup|working tree", got="second, site"):
        compare(str(tmp_path / "backup"))


def test_a_listing_that_the_cache_lacks_is_one_sentence(workspace):
    (listing,) = cache_dir(workspace).rglob("*.dir")
    listing.unlink()
    with refused("data-missing", got=r"no listing of data/raw/site \(.*\.dir\)") as caught:
        compare("v1")
    assert "dvc fetch --all-commits data/raw/site.dvc" in caught.value.remedy


def test_a_listing_that_was_damaged_in_the_cache_is_named(workspace):
    (listing,) = cache_dir(workspace).rglob("*.dir")
    listing.chmod(0o644)
    listing.write_text(listing.read_text().replace("sub-1", "sub-9"))
    with refused("scan-changed", case=r"\.dir$"):
        compare("v1")


def test_annotations_that_the_cache_lacks_are_named(workspace):
    for file in cache_dir(workspace).rglob("*"):
        if file.is_file() and file.suffix != ".dir" and file.read_bytes().startswith(b"subject,"):
            file.unlink()
    with refused("data-missing", got=r"no annotations.csv of data/raw/site"):
        compare("v1")


def test_scans_that_the_cache_lacks_are_compared_by_file_with_a_note(workspace):
    for file in cache_dir(workspace).rglob("*"):
        if file.is_file() and file.read_bytes()[:2] == b"\x1f\x8b":
            file.unlink()
    swi("sub-1").write_bytes(gzip.compress(gzip.decompress(swi("sub-1").read_bytes()), 1))
    swi("sub-9").parent.mkdir(parents=True)
    swi("sub-3").rename(swi("sub-9"))
    found = compare("v1")
    assert scans(found) == [("file changed", "sub-1", "sub-1"), ("renamed", "sub-3", "sub-9")]
    assert "1 scan was compared by file alone" in found["notes"][0]


def test_a_dataset_without_annotations_is_not_taken_for_removed(workspace):
    (SITE / "annotations.csv").unlink()
    with refused("dataset-layout", got="none in site"):
        compare("v1")


def test_a_scan_that_cannot_be_read_any_more_is_changed(workspace):
    swi("sub-1").unlink()
    swi("sub-1").symlink_to("/nowhere")
    found = compare("v1")
    assert scans(found) == [("file changed", "sub-1", "sub-1")] and "cannot be read" in found["notes"][0]


def test_the_cache_may_be_elsewhere(workspace, tmp_path):
    shutil.move(".dvc/cache", tmp_path / "shared")
    dvc(workspace, "cache", "dir", "--local", str(tmp_path / "shared"))
    assert not compare("v1")["scans"]


@pytest.mark.parametrize("ref", ["v2", "data", "release:1"])
def test_what_is_no_version_is_refused(workspace, ref):
    with refused("release-unknown" if ref.startswith("release") else "data-version"):
        compare(ref)


def test_a_commit_before_any_dataset_is_refused(workspace):
    git(workspace, "rm", "-q", "--cached", "data/raw/site.dvc")
    git(workspace, "commit", "-qm", "No dataset")
    with refused("data-version", got="none at"):
        compare("HEAD")

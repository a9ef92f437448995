"""The report of a scan: what is on it, where its pictures are centred, what its viewer gets, how large it is."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from cmb_models.dataset.statistics import IN_PLANE, PROBABILITIES, SLICE
from cmb_models.figures.views import CROP_MM, View
from cmb_models.release.bundle import Bundle
from cmb_models.report.scan import page
from cmb_models.report.scan.embedded import embed
from cmb_models.report.scan.pictures import GAP_MM, PIXEL_MM, choose_slabs, draw_slabs, draw_triplet
from cmb_models.report.scan.quality import quality_notes
from cmb_models.report.scan.write import check_reporting, write_report_of, write_scan_report
from cmb_models.volume import Volume, index_from_world
from tests.support.bundles import AFFINE, BLOBS_MM, head, settings
from tests.support.refused import refused
from tests.support.scan_reports import CREATED, detection, report, scan_result

TILT = np.radians(14)
OBLIQUE = np.array([[np.cos(TILT), 0, np.sin(TILT)], [0, 1, 0], [-np.sin(TILT), 0, np.cos(TILT)]])


def placed(axes: np.ndarray, spacing, shape) -> np.ndarray:
    """An affine (4, 4) of axes (3, 3) with the middle of the volume at the origin."""
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


# How a scan may be stored: axes, spacing in mm, shape.
STORED = {
    "RAS": (np.eye(3), (1, 1, 2), (80, 80, 32)),
    "LPS": (np.diag([-1, -1, 1]), (1, 1, 2), (80, 80, 32)),
    "left-handed, upside down": (np.diag([1, 1, -1]), (1, 1, 2), (80, 80, 32)),
    "sagittal slices": (np.eye(3)[:, [2, 0, 1]], (2, 1, 1), (32, 80, 80)),
    "thick slices": (np.eye(3), (0.7, 0.7, 4), (112, 112, 16)),
    "oblique": (OBLIQUE, (0.8, 0.8, 1.5), (100, 100, 44)),
    "oblique and flipped": (OBLIQUE @ np.diag([-1, 1, -1]), (0.8, 0.8, 1.5), (100, 100, 44)),
}


def stored(name: str, blobs_mm=BLOBS_MM) -> Volume:
    axes, spacing, shape = STORED[name]
    return head(blobs_mm, placed(axes, spacing, shape), shape)


def panels(uri: str) -> list[np.ndarray]:
    """The three planes of a triplet as grey values in [0, 255]."""
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("L"), dtype=float)
    size, gap = round(CROP_MM / PIXEL_MM), round(GAP_MM / PIXEL_MM)
    return [grey[:, n * (size + gap) : n * (size + gap) + size] for n in range(3)]


def dark_centre_mm(panel: np.ndarray, around_mm=(CROP_MM / 2, CROP_MM / 2), reach_mm: float = 5.0) -> np.ndarray:
    """Centroid (x, y) of what is dark around a position of a panel, mm from its left and upper edges."""
    rows, columns = (np.indices(panel.shape) + 0.5) * PIXEL_MM
    near = np.hypot(columns - around_mm[0], rows - around_mm[1]) < reach_mm
    dark = near * np.clip(np.median(panel) * 0.75 - panel, 0, None)
    return np.array([(dark * columns).sum(), (dark * rows).sum()]) / dark.sum()


def bundle_of(metadata: dict | None = None, threshold: float = 0.5) -> Bundle:
    return Bundle(Path("bundle"), settings(threshold), "ab" * 32, {}, metadata or {})


def text_of(html: str) -> str:
    """The words of a page, without its scripts and styles."""
    plain = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", plain).split())


def test_a_report_names_what_was_found_and_by_what(tmp_path):
    volume = head()
    below = [detection(volume, (5, 5, 5), 0.2, 0.9, 0.3)]
    html = report(tmp_path / "a.html", volume, scan_result(volume, BLOBS_MM, below=below))
    text = text_of(html)
    assert "3 possible microbleeds Stratum 1–4" in text and "Release 3" in text and "Threshold 0.500" in text
    assert "not a medical device" in text and "2026-05-04 12:30 UTC" in text and "ab" * 32 in text and "cd" * 32 in text
    assert re.findall(r'<tbody class="finding" id="finding-(\d+)"', html) == ["1", "2", "3", "4"]
    first = text_of(re.search(r'<tbody class="finding" id="finding-1".*?</tr>', html, re.DOTALL)[0])
    assert first.startswith("1 0.990 4.0") and first.endswith("−10.0 −5.0 0.0")
    assert html.count("<svg") == 3 + 3 + 1  # slabs, findings and the viewer's circles
    assert "Copyright (c) 2021, Niivue" in text and "Copyright (c) 2020 Trevor Manz" in text, "the file holds a copy of the viewer"
    assert "1 candidate that was rejected" in text and "0.200 0.900 0.300 classifier" in text


@pytest.mark.parametrize(
    ("count", "stratum"), [(0, "0"), (1, "1–4"), (4, "1–4"), (5, "5–9"), (9, "5–9"), (10, "≥ 10"), (60, "≥ 10")]
)
def test_the_stratum_of_a_count(count, stratum, tmp_path):
    volume = head()
    places = np.random.default_rng(count).uniform(-20, 20, (count, 3))
    html = report(tmp_path / "a.html", volume, scan_result(volume, places))
    noun = "possible microbleed" if count == 1 else "possible microbleeds"
    assert f"{count} {noun} Stratum {stratum} of" in text_of(html)
    assert html.count('<tr class="picture">') == count and len(html.encode()) <= page.MOST_BYTES
    assert ("No candidate has a score at or above the threshold" in html) == (count == 0)
    numbers = {int(n) for n in re.findall(r'<g class="ring" data-number="(\d+)">', html)}
    assert numbers == set(range(1, count + 1)), "every finding is circled in a slab"


def test_hostile_names_are_text(tmp_path):
    name = "<script>alert(1)</script>\"'&\n\udcff{{ 7 * 7 }}"
    volume = head()
    result = replace(scan_result(volume, BLOBS_MM), scan=name, file=name, warning="<b>bold</b>")
    html = report(tmp_path / "a.html", volume, result)
    assert "<script>alert" not in html and "<b>bold" not in html and "49" not in re.search("<title>.*</title>", html)[0]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "\\n" in html and "\\udcff" in html


def test_nothing_on_a_page_comes_from_elsewhere(tmp_path):
    volume = head()
    html = report(tmp_path / "a.html", volume, scan_result(volume, BLOBS_MM))
    assert "default-src 'none'" in html and "connect-src" not in html
    links = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert links and {link.split(":")[0][:1] for link in links} <= {"#", "d"} and "url(" not in html.split("</style>")[0]


@pytest.mark.parametrize("name", STORED)
def test_a_findings_planes_are_centred_on_it(name):
    """To half a voxel, in every way in which a scan may be stored."""
    volume = stored(name)
    view = View(volume.to_ras())
    for blob in BLOBS_MM:
        found = detection(volume, blob)
        drawn = draw_triplet(view, found, 1)
        for panel, ring in zip(panels(drawn.uri), drawn.rings, strict=True):
            off = dark_centre_mm(panel) - CROP_MM / 2
            assert np.abs(off).max() < 0.5 * max(1.0, *volume.spacing_mm) * 0.75
            assert (ring.x % (CROP_MM + GAP_MM), ring.y) == pytest.approx((CROP_MM / 2, CROP_MM / 2))


@pytest.mark.parametrize("name", [n for n in STORED if "oblique" not in n])
def test_sides_of_a_findings_planes_are_right(name):
    """A second spot, 9 mm to the right, 7 mm to the front and 2 mm higher, lies on the left and on top."""
    centre = np.array([-6.0, -4.0, 0.0])
    volume = stored(name, (tuple(centre), tuple(centre + (9, 7, 0)), tuple(centre + (0, 0, 10))))
    axial, coronal, sagittal = panels(draw_triplet(View(volume.to_ras()), detection(volume, centre), 1).uri)
    middle = CROP_MM / 2
    np.testing.assert_allclose(dark_centre_mm(axial, (middle - 9, middle - 7), 3.5), (middle - 9, middle - 7), atol=0.8)
    for plane in (coronal, sagittal):
        np.testing.assert_allclose(dark_centre_mm(plane, (middle, middle - 10), 4), (middle, middle - 10), atol=1.2)
    letters = [letter.text for letter in draw_triplet(View(volume.to_ras()), detection(volume, centre), 1).letters]
    assert letters == ["R", "L", "axial", "R", "L", "coronal", "A", "P", "sagittal", "5 mm"]


@pytest.mark.parametrize("name", STORED)
def test_slabs_circle_the_dark_spots(name):
    volume = stored(name)
    view = View(volume.to_ras())
    slabs = draw_slabs(view, [detection(volume, blob) for blob in BLOBS_MM])
    assert [s.height_mm for s in slabs] == sorted((s.height_mm for s in slabs), reverse=True)
    for slab in slabs:
        d = slab.drawing
        grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(d.uri.split(",")[1]))).convert("L"), dtype=float)
        for ring in d.rings:
            column, row = int(ring.x / d.width * grey.shape[1]), int(ring.y / d.height * grey.shape[0])
            assert grey[row - 1 : row + 2, column - 1 : column + 2].mean() < 0.75 * np.median(grey[grey > 40])
    assert {n for s in slabs for n in s.numbers} == {1, 2, 3}


def test_slabs_hold_every_finding_wherever_it_lies():
    view = View(head())
    for seed in range(200):
        rng = np.random.default_rng(seed)
        heights = rng.uniform(0, 31, rng.integers(0, 40)).tolist()
        firsts, slices = choose_slabs(view, heights)
        assert len(firsts) >= 3 and all(0 <= first <= 32 - slices for first in firsts)
        assert all(any(first - 0.5 <= h <= first + slices - 0.5 for first in firsts) for h in heights)


def test_findings_of_one_height_need_one_slab():
    firsts, slices = choose_slabs(View(head()), [16.0, 16.4, 15.6])
    assert sum(first - 0.5 <= 16 <= first + slices - 0.5 for first in firsts) == 1


def unpacked(embedded) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(embedded.nifti)))


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("most_bytes", [10_000_000, 25_000], ids=["full", "reduced"])
def test_the_viewers_volume_has_the_spots_where_the_scan_has_them(name, most_bytes):
    volume = stored(name)
    view = View(volume.to_ras())
    embedded = embed(view, most_bytes)
    assert len(embedded.nifti) <= most_bytes and embedded.reduced == (most_bytes == 25_000)
    image = unpacked(embedded)
    assert image.get_data_dtype() == np.uint8 and image.shape == embedded.shape
    assert embedded.levels == (128 if embedded.reduced else 256) and len(np.unique(image.dataobj)) <= embedded.levels
    data = np.asarray(image.dataobj)
    for blob in BLOBS_MM:
        index = index_from_world(np.array([blob]), image.affine)[0]
        fraction = (index + 0.5) / data.shape
        assert embedded.fraction(view.voxel(blob)) == pytest.approx(fraction, abs=1e-4)
        near = tuple(slice(max(0, round(i) - 1), round(i) + 2) for i in index)
        assert data[near].min() < 0.75 * np.median(data[data > 40])


def test_grey_levels_become_fewer_before_voxels_larger():
    view = View(head().to_ras())
    full, coarse = embed(view, 10_000_000), embed(view, 60_000)
    assert (coarse.levels, coarse.reduced, coarse.shape) == (128, False, full.shape) and len(coarse.nifti) <= 60_000
    grey, fewer = (np.asarray(unpacked(e).dataobj).astype(int) for e in (full, coarse))
    visible = grey >= 0.08 * 255
    assert np.abs(grey - fewer)[visible].max() == 1 and not fewer[~visible].any()


def test_a_large_scan_is_reduced_in_plane_and_the_page_says_so(tmp_path):
    shape = (512, 448, 40)
    volume = Volume(np.random.default_rng(0).uniform(60, 90, shape), placed(np.eye(3), (0.45, 0.45, 2), shape))
    html = report(tmp_path / "a.html", volume, scan_result(volume, [(0, 0, 0)]))
    assert 0.9 * page.MOST_BYTES < len(html.encode()) <= page.MOST_BYTES
    assert re.search(r"the viewer shows the scan at 0\.\d+ × 0\.\d+ × 2\.0 mm, cropped to the head, with 128 grey levels", html)


def test_findings_beyond_the_room_for_pictures_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PICTURE_BYTES", 1)
    volume = head()
    html = report(tmp_path / "a.html", volume, scan_result(volume, BLOBS_MM))
    assert html.count('<tr class="picture">') == 1 and "2 findings without a picture" in html and 'id="finding-3"' in html


def test_the_network_that_rejected_a_candidate(tmp_path):
    """Without the release the lower score; with it, its weights count: here stage 2 has nine tenths of the fused score."""
    volume = head()
    below = [detection(volume, (5, 5, 5), 0.1, 0.05, 0.3), detection(volume, (5, 5, 0), 0.1, 0.9, 0.1)]
    result = scan_result(volume, [], below=below)
    rejected = re.compile(r'data-name="rejected by">([^<]*)<')
    assert rejected.findall(report(tmp_path / "a.html", volume, result)) == ["candidate network", "classifier"]
    config = settings(0.5)
    decision = config.decision.model_copy(update={"stage2_weight": 0.9, "joint_mean": "log_odds"})
    bundle = replace(bundle_of(), config=config.model_copy(update={"decision": decision}))
    assert rejected.findall(report(tmp_path / "a.html", volume, result, bundle=bundle)) == ["classifier", "classifier"]


def reference(low: float, high: float) -> dict:
    return {"scans": 20, "quantiles": np.linspace(low, high, len(PROBABILITIES)).tolist(), "at_most": [1.0] * len(PROBABILITIES)}


def test_a_scan_is_compared_with_the_training_data(tmp_path):
    volume = head()
    statistics = {IN_PLANE: reference(0.5, 0.9), SLICE: reference(1.0, 3.0)}
    bundle = bundle_of({"data": {"training": {"statistics": statistics}}})
    text = text_of(report(tmp_path / "a.html", volume, scan_result(volume, []), bundle=bundle))
    assert "Outside of the training data: shortest side of a voxel 1.00 mm; trained on 0.50 to 0.90 mm." in text
    assert "longest side of a voxel 2.00 mm 1.00 to 3.00 mm within" in text and "20 training scans" in text
    assert "does not describe its training data" in report(tmp_path / "a.html", volume, scan_result(volume, []), bundle=bundle_of())
    assert "files are not at hand" in report(tmp_path / "a.html", volume, scan_result(volume, []))


def test_quality_notes_warn_of_what_hides_microbleeds():
    def warned(volume: Volume, uses_phase: bool = False, warning: str = "") -> list[str]:
        return [n.name for n in quality_notes(volume, View(volume.to_ras()), uses_phase, warning) if n.warn]

    thick = head((), placed(np.eye(3), (1, 1, 5), (80, 80, 22)), (80, 80, 22))
    assert warned(thick) == ["slice thickness", "coverage from bottom to top"]
    tall = Volume(np.random.default_rng(0).uniform(50, 90, (60, 60, 70)), np.diag([2.5, 2.5, 2, 1]))
    assert warned(tall) == [] and warned(tall, uses_phase=True) == []
    assert warned(tall, warning="odd") == ["warning"]


def test_regions_are_a_column_if_they_are_given(tmp_path):
    volume = head()
    result = scan_result(volume, BLOBS_MM)
    assert "region</th>" not in report(tmp_path / "a.html", volume, result)
    html = report(tmp_path / "a.html", volume, result, regions=["lobar", "", "deep"])
    assert re.findall(r'data-name="region">([^<]*)<', html) == ["lobar", "–", "deep"]
    for regions in (["lobar"], ["lobar", "deep", "elsewhere"]):
        with pytest.raises(ValueError, match="3 findings"):
            write_scan_report(tmp_path / "b.html", result, volume, regions=regions)
    assert not (tmp_path / "b.html").exists()


def test_a_scan_without_a_place_gets_no_report(tmp_path):
    volume = replace(head(), in_scanner=False)
    result = scan_result(volume, BLOBS_MM)
    detector = SimpleNamespace(requires_phase=False)
    assert write_report_of(tmp_path, result, volume, detector) is None
    assert write_report_of(None, result, head(), detector) is None
    with refused("scan-space"):
        write_scan_report(tmp_path / "a.html", result, volume)
    with pytest.raises(ValueError, match="rejected: bad"):
        write_scan_report(tmp_path / "a.html", replace(result, answer=None, error="bad"), head())
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch):
    check_reporting(True)
    monkeypatch.setattr("cmb_models.report.scan.write.PACKAGES", {"no_such_module": "no-such-package"})
    check_reporting(False)
    with refused("package-missing"):
        check_reporting(True)


def test_the_same_result_gives_the_same_page(tmp_path):
    volume = head()
    result = scan_result(volume, BLOBS_MM)
    assert report(tmp_path / "a.html", volume, result) == report(tmp_path / "b.html", volume, result)
    write_scan_report(tmp_path / "now.html", result, volume)
    assert CREATED.strftime("%Y-%m-%d %H:%M") not in (tmp_path / "now.html").read_text()


def test_the_viewer_gets_the_places_as_json(tmp_path):
    volume = head()
    html = report(tmp_path / "a.html", volume, scan_result(volume, BLOBS_MM, below=[detection(volume, (0, 0, 0), 0.1)]))
    places = json.loads(re.search(r'id="places">(.*?)</script>', html)[1])
    assert [(p["number"], p["finding"]) for p in places["places"]] == [(1, True), (2, True), (3, True), (4, False)]
    image = unpacked(SimpleNamespace(nifti=re.search(r'id="volume">(.*?)</script>', html)[1]))
    assert places["extent"] == pytest.approx(np.multiply(image.shape, image.header.get_zooms()), abs=0.01)


def test_the_viewer_is_the_published_one():
    """NiiVue 0.69.0 as on npm, unchanged, with the licences of its parts."""
    packed = page.NIIVUE.read_bytes()
    assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
    assert len(packed) < 800_000
    licences = page.NIIVUE.with_name("LICENSES.txt").read_text(encoding="utf-8")
    assert licences.startswith("NiiVue 0.69.0") and "BSD 2-Clause License" in licences
    assert all(f"=== {name}" in licences for name in ("gl-matrix", "nifti-reader-js", "fflate", "numcodecs", "zarrita"))


def test_a_report_needs_no_heavy_library():
    code = (
        "import sys, cmb_models.report.scan.page;"
        "print([m for m in ('torch','monai','mlflow','optuna','onnxruntime','openvino','tritonclient','dvc') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_image_without_head_has_pictures_all_the_same(tmp_path):
    """`cmb detect` rejects it; the function does not fail."""
    volume = Volume(np.zeros((30, 30, 20)), AFFINE)
    html = report(tmp_path / "a.html", volume, scan_result(volume, [(-30, -30, -20)]))
    assert html.count("<svg") == 3 + 1 + 1

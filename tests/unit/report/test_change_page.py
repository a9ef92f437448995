"""The page of a comparison in a headless browser, as on a desktop and a phone, and on paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from cmb_models.client.outputs import ScanResult
from cmb_models.followup.compare import compare_results
from cmb_models.release.bundle import BundleDetector
from cmb_models.report.scan.change import write_change_page
from tests.support.browser import CHROMIUM, WIDTHS, overflow
from tests.support.bundles import make_bundle
from tests.support.visits import two_visits

LONG_NAME = "sub-" + "0123456789" * 8 + "_swi"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("change")
    baseline, followup, _ = two_visits()
    with BundleDetector(make_bundle(folder / "b")) as detector:
        answers = [detector.detect(volume) for volume in (baseline, followup)]
    comparison = compare_results(*answers)
    assert comparison.counts["new"] == comparison.counts["persisting"] == 2
    write_change_page(folder / "page.html", comparison, *(ScanResult(LONG_NAME, "f.nii.gz", answer) for answer in answers))
    return folder / "page.html"


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium")
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_fits_shows_each_lesion_twice_and_loads_nothing(page_file, width):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, faults = browser.new_page(viewport={"width": width, "height": 844}), []
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: faults.append(r.url) if not r.url.startswith(("data:", page_file.as_uri())) else None)
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(overflow("body *:not(svg *)")) == []
        pictures = page.locator("svg.drawing")
        assert pictures.count() == 8 and all((p.bounding_box() or {"width": 0})["width"] > 200 for p in pictures.all())
        assert faults == []
        browser.close()


def test_a_comparison_without_volumes_is_an_error(tmp_path):
    baseline, followup, _ = two_visits()
    with BundleDetector(make_bundle(tmp_path / "b")) as detector:
        comparison = compare_results(detector.detect(baseline), detector.detect(followup))
    without = replace(comparison, baseline=replace(comparison.baseline, volume=None))
    with pytest.raises(ValueError, match="with their volumes"):
        write_change_page(tmp_path / "p.html", without, ScanResult("a", "a"), ScanResult("b", "b"))
    assert not (tmp_path / "p.html").exists()

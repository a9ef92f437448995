"""The report of a scan in a headless browser, as on a desktop and a phone: its viewer, its keyboard, its layout, its requests."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Playwright, sync_playwright

from cmb_models.volume import Volume
from tests.support.browser import CHROMIUM, SOFTWARE_WEBGL, WIDTHS, overflow
from tests.support.bundles import head
from tests.support.scan_reports import detection, report, scan_result

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no chromium")]
PLACES = ((-10.0, -5.0, 0.0), (12.0, 8.0, 0.5), (0.0, 15.0, 8.0))  # the first two are seen in one axial slice
LONG_NAME = "sub-" + "0123456789" * 8 + "_swi"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Reports by what is special about them."""
    folder, volume = tmp_path_factory.mktemp("reports"), head(PLACES)
    below = [detection(volume, (5.0, -20.0, 0.0), 0.2, 0.9, 0.3)]
    flipped = Volume(volume.data[::-1], volume.affine @ np.array([[-1, 0, 0, 79], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    many = np.random.default_rng(1).uniform(-22, 22, (60, 3))
    results = {
        "three": (volume, scan_result(volume, PLACES, below=below), {"regions": ["lobar", "deep", "infratentorial"]}),
        "flipped": (flipped, scan_result(flipped, PLACES), {}),
        "none": (volume, scan_result(volume, []), {}),
        "many": (volume, scan_result(volume, many, LONG_NAME), {}),
    }
    for name, (scan, result, more) in results.items():
        report(folder / f"{name}.html", scan, result, **more)
    return {name: folder / f"{name}.html" for name in results}


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *SOFTWARE_WEBGL])
    yield browser
    browser.close()


def opened(browser: Browser, file: Path, width: int = 1280) -> tuple[Page, list[str]]:
    """The page once its viewer shows the scan, and what went wrong: script errors, and requests for anything but the file."""
    page, faults = browser.new_page(viewport={"width": width, "height": 844}), []
    page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
    page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type == "error" else None)
    allowed = ("", file.as_uri())
    page.on("request", lambda r: faults.append(r.url) if urlsplit(r.url).scheme != "data" and r.url not in allowed else None)
    page.goto(file.as_uri())
    page.locator("#status").filter(has_text="mm").wait_for(timeout=60_000)
    return page, faults


def grey(locator: Locator) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("L"), dtype=float)


def box(page: Page, selector: str) -> dict:
    found = page.locator(selector).bounding_box()
    assert found
    return found


def touch(page: Page, x: float, y: float) -> None:
    """A finger for a tenth of a second: `touchscreen.tap` is shorter than any finger's touch, and NiiVue waits a moment."""
    session = page.context.new_cdp_session(page)
    page.wait_for_timeout(600)  # sooner it would be the second touch of a double one
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    page.wait_for_timeout(100)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", ["three", "none", "many"])
def test_a_report_fits_shows_the_scan_and_stays_where_it_is(name, width, files, browser):
    page, faults = opened(browser, files[name], width)
    for summary in page.locator("details summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(overflow("body *:not(svg *)")) == []
    viewer, findings = box(page, "#viewer"), box(page, ".list")
    if name != "none":
        side_by_side = findings["x"] + findings["width"] <= viewer["x"]
        assert side_by_side if width == WIDTHS["desktop"] else viewer["y"] + viewer["height"] <= findings["y"]
    screen = grey(page.locator("#canvas"))
    assert (screen > 60).mean() > 0.05 and (screen < 10).mean() > 0.05
    assert faults == []
    page.close()


def test_text_of_tables_does_not_overlap(files, browser):
    """Cells of one row follow one another, on both devices."""
    page, _ = opened(browser, files["three"])
    cells = """[...document.querySelectorAll('#finding-1 tr:first-child td')].map(cell => {
        const r = cell.getBoundingClientRect();
        return [r.left, r.top, r.right, r.bottom];
    })"""
    for width in WIDTHS.values():
        page.set_viewport_size({"width": width, "height": 844})
        boxes = page.evaluate(cells)
        assert len(boxes) == 8
        for n, (left, top, _, _) in enumerate(boxes):
            for _, _, right, bottom in boxes[:n]:
                assert left >= right - 1 or top >= bottom - 1
    page.close()


@pytest.mark.parametrize("name", ["three", "flipped"])
def test_a_row_moves_the_crosshair_to_its_finding(name, files, browser):
    page, _ = opened(browser, files[name])
    assert page.inner_text("#status") == "Finding 1 of 3 · x −10.0, y −5.0, z 0.0 mm"
    page.locator("#finding-3 td").nth(1).click()
    assert page.inner_text("#status") == "Finding 3 of 3 · x 0.0, y 15.0, z 8.0 mm"
    assert page.locator("tbody.current").get_attribute("id") == "finding-3"
    page.close()


@pytest.mark.parametrize("name", ["three", "flipped"])
def test_circles_of_the_viewer_lie_around_the_dark_spots(name, files, browser):
    """In each of the three planes, by the pixels of the canvas; the patient's right is on the left."""
    page, _ = opened(browser, files[name])
    page.locator("#finding-2 button").click()
    centres = {n: page.locator(f"#overlay .ring[data-number='{n}'] circle") for n in (1, 2)}
    assert centres[2].count() == 3
    boxes = [circle.bounding_box() for circle in centres[2].all()]
    others = [circle.bounding_box() for circle in centres[1].all()]
    assert others and others[0]["x"] > boxes[0]["x"], "finding 1 lies on the patient's left"
    page.locator("#circles").click()
    page.locator("#overlay").evaluate("e => e.style.display = 'none'")
    screen, canvas = grey(page.locator("#canvas")), box(page, "#canvas")
    for circle in boxes:
        x, y = (int(circle[a] + circle[s] / 2 - canvas[a]) for a, s in (("x", "width"), ("y", "height")))
        inner, outer = screen[y - 2 : y + 3, x - 2 : x + 3], screen[y - 30 : y + 30, x - 30 : x + 30]
        assert inner.mean() < 0.6 * np.median(outer)
    page.close()


def test_a_click_on_a_point_highlights_its_row(files, browser):
    page, _ = opened(browser, files["three"])
    circle = page.locator("#overlay .ring[data-number='2'] circle").first
    place = {side: float(circle.get_attribute(f"c{side}") or 0) for side in "xy"}  # a pixel of the canvas is one of the page
    page.locator("#canvas").click(position=place)
    assert page.locator("tbody.current").get_attribute("id") == "finding-2"
    assert page.inner_text("#status").startswith("Finding 2 of 3")
    page.locator("#canvas").click(position={"x": place["x"], "y": place["y"] + 60})
    assert page.locator("tbody.current").count() == 0 and page.inner_text("#status").startswith("x ")
    page.close()


def test_on_a_phone_a_row_brings_the_viewer_into_sight_and_the_viewer_its_row(files, playwright):
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *SOFTWARE_WEBGL])
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, device_scale_factor=2)
    page = context.new_page()
    page.goto(files["many"].as_uri())
    page.locator("#status").filter(has_text="mm").wait_for(timeout=60_000)
    page.add_style_tag(content="html { scroll-behavior: auto !important }")
    page.locator("#finding-40 button").tap()
    assert page.inner_text("#status").startswith("Finding 40 of 60")
    canvas = box(page, "#canvas")
    assert canvas["y"] > 0 and canvas["y"] + canvas["height"] < 844
    circle = page.locator("#overlay .ring[data-number='40'] circle").first.bounding_box()
    touch(page, canvas["x"] + canvas["width"] * 0.5, canvas["y"] + canvas["height"] * 0.02)
    page.locator("#status").filter(has_text=re.compile("^x ")).wait_for(timeout=5000)
    touch(page, circle["x"] + circle["width"] / 2, circle["y"] + circle["height"] / 2)
    page.locator("#status").filter(has_text="Finding 40 of 60").wait_for(timeout=5000)
    page.locator("#status a").tap()
    row = box(page, "tbody.current")
    assert 0 < row["y"] < 844 - 40
    browser.close()


def test_a_circle_of_the_overview_leads_to_its_row(files, browser):
    page, _ = opened(browser, files["three"])
    page.locator(".slabs .ring[data-number='3'] text").first.click()
    assert page.locator("tbody.current").get_attribute("id") == "finding-3"
    page.close()


def test_a_rejected_candidate_is_shown_by_its_row_alone(files, browser):
    page, _ = opened(browser, files["three"])
    assert not page.locator("#below table").is_visible() and page.locator("#overlay .ring[data-number='4']").count() == 0
    page.locator("#below summary").click()
    page.locator("#below tbody button").click()
    assert page.inner_text("#status") == "Candidate 4, below the threshold · x 5.0, y −20.0, z 0.0 mm"
    assert page.locator("#overlay .ring[data-number='4']").count() == 3
    page.close()


def test_the_keyboard_is_enough(files, browser):
    """Tab reaches the findings through the viewer; Enter shows one; arrow keys move the crosshair."""
    page, _ = opened(browser, files["three"])
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#finding-2') !== null"):
            break
    page.keyboard.press("Enter")
    assert page.inner_text("#status").startswith("Finding 2 of 3 · x 12.0, y 8.0")
    assert page.locator("#finding-2 button").get_attribute("aria-current") == "true"
    page.locator("#canvas").focus()
    for key, place in (("ArrowRight", "x 11.0, y 8.0, z 0"), ("ArrowUp", "x 11.0, y 9.0, z 0"), ("PageUp", "x 11.0, y 9.0, z 2")):
        page.keyboard.press(key)
        assert place in page.inner_text("#status"), "one voxel on"
    page.locator("#next").focus()
    page.keyboard.press("Enter")
    assert page.inner_text("#status").startswith("Finding 3 of 3")
    page.keyboard.press("Enter")
    assert page.inner_text("#status").startswith("Finding 1 of 3")
    page.close()


def test_planes_and_enlargement(files, browser):
    page, faults = opened(browser, files["three"])
    circles = page.locator("#overlay .ring[data-number='1'] circle")
    small = circles.first.bounding_box()["width"]
    page.locator("#enlarge").click()
    assert circles.count() == 3 and circles.first.bounding_box()["width"] == pytest.approx(3 * small, rel=0.05)
    for name in ("axial", "coronal", "sagittal"):
        page.locator(f"[data-planes={name}]").click()
        assert circles.count() == 1 and page.locator("[aria-pressed=true]").first.get_attribute("data-planes") == name
        canvas, circle = box(page, "#canvas"), circles.first.bounding_box()
        for side, size in (("x", "width"), ("y", "height")):
            assert circle[side] + circle[size] / 2 == pytest.approx(canvas[side] + canvas[size] / 2, abs=3)
    assert faults == []
    page.close()


def test_circles_can_be_hidden(files, browser):
    page, _ = opened(browser, files["three"])
    assert page.locator(".slabs .ring").first.is_visible()
    page.locator("#circles").click()
    assert not any(ring.is_visible() for ring in page.locator(".ring").all())
    page.close()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_without_webgl_a_message_stands_in_place_of_the_volume(width, files, playwright):
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-3d-apis"])
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.goto(files["three"].as_uri())
    message = page.locator("#message").filter(has_text="WebGL2")
    message.wait_for(timeout=10_000)
    assert "pictures and tables are complete" in message.inner_text()
    assert box(page, "#message") == pytest.approx(box(page, ".screen"))
    page.locator("#finding-2 button").click()
    assert page.locator("tbody.current").get_attribute("id") == "finding-2"
    browser.close()


def test_without_scripts_the_page_says_so(files, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(files["three"].as_uri())
    assert (
        page.locator("#message").inner_text().startswith("The viewer needs JavaScript") and page.locator("#finding-3").is_visible()
    )
    context.close()


def test_printing_leaves_out_the_viewer(files, browser, tmp_path):
    page, _ = opened(browser, files["three"])
    page.emulate_media(media="print")
    assert not page.locator("#viewer").is_visible() and page.locator("#finding-3 svg").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 6
    page.close()

"""The documentation's pages in a headless browser, as on a desktop and a phone. Needs Debian's chromium, or what CHROMIUM names."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from cmb_models.dataset.check.overview import DataCheck
from cmb_models.errors import InputError
from cmb_models.report.dataset.page import render
from tests.support.browser import CHROMIUM, WIDTHS, overflow
from tests.support.imports import ROOT
from tests.support.site import build_site

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no chromium")]
OVERFLOW = overflow("article *")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """The address at which a folder is served while the block runs."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The built site behind a local web server."""
    with web_server(build_site(tmp_path_factory.mktemp("site"))) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def faults(page: Page, url: str) -> list[str]:
    """What is wrong with a page: requests that fail or leave the site, script errors, overflow, pictures without text or file.

    It is loaded once, at the larger width, and then made narrower: loading each page twice takes twice as long.
    """
    host, found = urlsplit(url).netloc, []
    page.on("request", lambda r: found.append(f"requests {r.url}") if urlsplit(r.url).netloc not in ("", host) else None)
    page.on("response", lambda r: found.append(f"{r.status} for {r.url}") if r.status >= 400 else None)
    page.on("pageerror", lambda error: found.append(f"script error: {error}"))
    page.set_viewport_size({"width": max(WIDTHS.values()), "height": 844})
    page.goto(url, wait_until="networkidle")
    for device, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 844})
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"the page scrolls sideways: {device}")
        found += [f"overflows: {device}: {html}" for html in page.evaluate(OVERFLOW)]
        for picture in page.locator("article img").all():
            if not (picture.get_attribute("alt") or "").strip():
                found.append(f"no alt text: {picture.get_attribute('src')}")
            if picture.is_visible() and not picture.evaluate("i => i.complete && i.naturalWidth > 0"):
                found.append(f"not shown: {picture.get_attribute('src')}")
    return found


PAGES = [p.relative_to(ROOT / "docs").with_suffix("").as_posix() for p in sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.ci
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole(name, address, browser):
    folder = Path(name).parent if Path(name).name == "index" else Path(name)
    with browser.new_context() as context:
        assert faults(context.new_page(), f"{address}/{folder.as_posix()}/".replace("/./", "/")) == []


def test_faults_are_noticed(tmp_path, browser):
    (tmp_path / "index.html").write_text(
        "<article><div style='width: 2000px'>wide</div><img src='gone.png'><img src='http://127.0.0.1:9/x.png' alt='x'></article>"
        "<script>missing()</script>"
    )
    with web_server(tmp_path) as url, browser.new_context() as context:
        found = {fault.split(":")[0].split(" for ")[0].split(" http")[0] for fault in faults(context.new_page(), f"{url}/")}
    expected = {"404", "requests", "script error", "the page scrolls sideways", "overflows", "no alt text", "not shown"}
    assert found == expected


@pytest.mark.parametrize(("width", "least"), [(1280, 150), (390, 300)], ids=WIDTHS)
def test_a_finding_of_a_check_can_be_read(width, least, tmp_path, browser):
    """On a phone the file's name once had a column of two letters."""
    warning = InputError("scan-unread", "data/raw/site/sub-f4pbghci/swi/sub-f4pbghci_swi.nii.gz", "rows", "none", "add marks " * 9)
    (tmp_path / "check.html").write_text(render(DataCheck([], [], [warning], []), []))
    with browser.new_context(viewport={"width": width, "height": 844}) as context:
        page = context.new_page()
        page.goto((tmp_path / "check.html").as_uri())
        assert page.evaluate("document.querySelector('td.name').getBoundingClientRect().width") > least
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_is_too_wide_for_a_phone_alone_is_noticed(tmp_path, browser):
    (tmp_path / "index.html").write_text(
        "<meta name='viewport' content='width=device-width'><style>@media (max-width: 600px) { p { width: 700px } }</style>"
        "<article><p>wide</p></article>"
    )
    with web_server(tmp_path) as url, browser.new_context() as context:
        found = faults(context.new_page(), f"{url}/")
    assert [f for f in found if "favicon" not in f] == ["the page scrolls sideways: phone", "overflows: phone: <p>wide</p>"]


def test_search_finds_a_page(address, browser):
    with browser.new_context(viewport={"width": 1280, "height": 844}) as context:
        page = context.new_page()
        page.goto(f"{address}/", wait_until="networkidle")
        page.locator("input.md-search__input").click()
        page.keyboard.type("withdraw", delay=50)
        result = page.locator("a.md-search-result__link").first
        result.wait_for()
        assert "withdraw-a-patient" in (result.get_attribute("href") or "")

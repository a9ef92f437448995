"""A headless browser for tests of pages. Needs Debian's chromium, or what CHROMIUM names."""

from __future__ import annotations

import os
import shutil

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = {"desktop": 1280, "phone": 390}
SOFTWARE_WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def overflow(selector: str) -> str:
    """JavaScript that lists the elements wider than the window, but for those inside a box that scrolls by itself."""
    return """() => [...document.querySelectorAll('SELECTOR')].filter(e => {
    if (e.getBoundingClientRect().right <= innerWidth + 1 || !e.getClientRects().length) return false;
    for (let p = e; p; p = p.parentElement) if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
    return true;
}).map(e => e.outerHTML.slice(0, 100))""".replace("SELECTOR", selector)

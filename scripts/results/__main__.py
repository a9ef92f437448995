"""`make results`: render the committed JSON into README, docs and plots. `--demo DIR` first collects a finished demo's figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from cmb_models.files import write_json, write_text
from scripts.results.blocks import BLOCKS, ROOT
from scripts.results.collect import collect
from scripts.results.plots import draw_all
from scripts.results.reference import PAGES

BLOCK = re.compile(r"(<!-- results:([a-z-]+) -->\n)(?:(?!<!--).)*?(<!-- /results -->)", re.DOTALL)


def documents() -> list[Path]:
    """The documents that may hold blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def rendered(text: str) -> str:
    """A document's text with all its blocks rendered from the JSON of today."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n\n{found[3]}", text)


def main(
    demo: Annotated[list[Path] | None, typer.Option(help="A finished demo, demo/ or demo-full/, to collect first.")] = None,
) -> None:
    """Write all blocks, plots and generated reference pages."""
    for workspace in demo or ():
        name = {"demo": "demo", "demo-full": "full-demo"}[workspace.resolve().name]
        write_json(ROOT / f"docs/results/{name}.json", collect(workspace))
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (new := rendered(text)) != text:
            write_text(path, new)
    for path, page in PAGES.items():
        write_text(ROOT / path, page())
    draw_all(ROOT / "docs/pictures")


if __name__ == "__main__":
    typer.run(main)

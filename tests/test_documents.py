"""Documents: links and pictures exist, commands parse, figures are those of the committed JSON, the site builds."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

from cmb_models.cli import build_app
from scripts.results import blocks
from scripts.results.__main__ import BLOCK as RESULTS
from scripts.results.__main__ import documents, rendered
from scripts.results.plots import draw_all
from scripts.results.reference import PAGES
from tests.support.imports import ROOT
from tests.support.site import build_site

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "research").glob("*.md"))]
INLINE = re.compile(r"`(cmb(?: [^`]+)?)`")
BLOCK = re.compile(r"^ *```(?:bash|sh|console)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: Path) -> list[str]:
    """Relative links of a document that lead nowhere."""
    found = []
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.removesuffix("#only-light").removesuffix("#only-dark").partition("#")
        file = (document.parent / name) if name else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            found.append(target)
    return found


def shown(document: Path) -> list[str]:
    """The `cmb` command lines of a document: those in code blocks and those in sentences."""
    text = document.read_text(encoding="utf-8")
    lines = []
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            lines += [part.strip() for part in re.split(r"&&|;|\|", line.split("  #")[0]) if part.strip().startswith("cmb ")]
    return lines + INLINE.findall(BLOCK.sub("", text))


def faults(line: str, app) -> str:
    """Why a command line does not parse, or ''. Options need not be complete: a sentence may leave out what is required."""
    try:
        words = shlex.split(line)[1:]
    except ValueError as error:
        return str(error)
    command = app
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        if name not in command.commands and (default := getattr(command, "default", None)):
            name, words = default, [name, *words]
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    unknown = [w for w in words if w.startswith("--") and w.split("=")[0].rstrip(",.:") not in known]
    return f"no option {', '.join(unknown)}" if unknown else ""


@pytest.fixture(scope="module")
def app():
    return typer.main.get_command(build_app())


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_relative_links_resolve(document):
    assert not broken(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_commands_exist(document, app):
    wrong = {line: fault for line in shown(document) if (fault := faults(line, app))}
    assert not wrong


def test_the_readers_of_documents_notice_faults(tmp_path, app):
    document = tmp_path / "page.md"
    document.write_text(
        "# A title: `x`\n[a](#a-title-x) [b](#b) [c](gone.png)\n`cmb release list --jsn` and `cmb models`\n"
        "```bash\ncd x && cmb init site   # a comment\ncmb serve --port 0\n```\n"
    )
    assert broken(document) == ["#b", "gone.png"]
    assert {line: faults(line, app) for line in shown(document)} == {
        "cmb init site": "",
        "cmb serve --port 0": "no command serve",
        "cmb release list --jsn": "no option --jsn",
        "cmb models": "no command models",
    }


VARIABLE = re.compile(r"\bCMB_[A-Z0-9_]+\b")
READERS = ("cmb_models", "serving", "pipelines", "scripts", "deploy", "examples", "Makefile", "Dockerfile")


def variables_in(file: Path) -> set[str]:
    """The CMB_* names in a file; in Python those of string literals, since constants may be called so too."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        literals = (n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and isinstance(n.value, str))
        text = "\n".join(literals)
    return set(VARIABLE.findall(text))


def test_every_environment_variable_is_documented():
    files = [f for name in READERS for f in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))]
    sources = [f for f in files if f.suffix in ("", ".py", ".yaml", ".ipynb") and f.is_file()]
    assert set().union(*map(variables_in, sources)) == variables_in(ROOT / "docs/reference/environment.md")


def test_constants_are_no_environment_variables(tmp_path):
    source = tmp_path / "module.py"
    source.write_text('CMB_MM = 1\nVALUE = environ.get("CMB_CORES")\n')
    assert variables_in(source) == {"CMB_CORES"}


def without_code(text: str) -> str:
    """A document's text without code and without generated blocks."""
    return re.sub(r"```.*?```|`[^`]*`", "", RESULTS.sub("", text), flags=re.DOTALL)


@pytest.mark.parametrize("document", documents(), ids=relative)
def test_measured_figures_are_those_of_the_json(document):
    text = document.read_text(encoding="utf-8")
    assert rendered(text) == text, "run `make results`"


@pytest.mark.parametrize("document", [d for d in documents() if d.parent.name not in ("explanation", "reference")], ids=relative)
def test_no_measured_figure_is_written_by_hand(document):
    """Shares, counts and scores stand in generated blocks; confidence levels and the stated aim are no measurements."""
    text = without_code(document.read_text(encoding="utf-8")).replace("95 %", "").replace("a sensitivity of 0.92 at", "")
    assert re.findall(r"\b\d+ of \d+\b|\b0\.\d\d+\b|\d+(?:\.\d+)? ?%", text) == []


def test_generated_pages_and_plots_are_current(tmp_path):
    for path, page in PAGES.items():
        assert page() == (ROOT / path).read_text(encoding="utf-8"), f"{path}: run `make results`"
    for plot in draw_all(tmp_path):
        assert plot.read_bytes() == (ROOT / "docs/pictures" / plot.name).read_bytes(), f"{plot.name}: run `make results`"


def test_a_changed_figure_is_noticed(monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    changed, load = blocks.load("docs/results/demo.json"), blocks.load
    changed["held_out"]["hits"] += 1
    monkeypatch.setattr(blocks, "load", lambda path: changed if path == "docs/results/demo.json" else load(path))
    assert rendered(text) != text


def test_every_block_of_figures_is_in_a_document():
    shown_blocks = {found[2] for d in documents() for found in RESULTS.finditer(d.read_text(encoding="utf-8"))}
    assert shown_blocks == set(blocks.BLOCKS)


@pytest.mark.parametrize("document", sorted((ROOT / "docs").rglob("*.md")), ids=relative)
def test_a_page_begins_with_its_readers(document):
    paragraphs = re.sub(r"<!--.*?-->", "", document.read_text(encoding="utf-8"), flags=re.DOTALL).strip().split("\n\n")
    assert paragraphs[0].startswith("# ") and "\n" not in paragraphs[0]
    assert next(p.strip() for p in paragraphs[1:] if p.strip()).startswith("*For ")


@pytest.mark.parametrize("document", documents(), ids=relative)
def test_every_picture_is_described(document):
    assert all(len(alt) > 20 for alt in re.findall(r"!\[(.*?)\]\(", document.read_text(encoding="utf-8")))


def test_readme_stays_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120 and len(text.split()) <= 900


def test_the_site_builds(tmp_path):
    """`mkdocs build --strict`: no broken link or anchor, every page in the navigation, every Python object found."""
    site = build_site(tmp_path / "site")
    assert "Load a release from its bundle" in (site / "reference/python/index.html").read_text(encoding="utf-8")
    pages = {p.relative_to(ROOT / "docs").with_suffix("") for p in (ROOT / "docs").rglob("*.md")}
    assert all((site / (p.parent if p.name == "index" else p) / "index.html").is_file() for p in pages)


# Of STYLE's list: words that this project used in a sense of its own.
HOME_MADE = re.compile(r"\b(told|anew|beside|whoever|look-alikes?|of another make|stands? off|planted|planting)\b", re.IGNORECASE)


def test_the_fields_own_terms_are_used():
    folders = ("cmb_models", "pipelines", "serving", "docs", "deploy")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".yaml", ".j2")]
    assert {relative(p): found for p in files if (found := HOME_MADE.findall(p.read_text(encoding="utf-8")))} == {}

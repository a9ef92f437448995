"""Documents: every relative link and picture is there, and every command line shown parses."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

from cmb_models.cli import build_app
from tests.support.imports import ROOT

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
        name, _, anchor = target.partition("#")
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

"""Research is written in the field's terms, too."""

from __future__ import annotations

from research.stages import ROOT
from tests.test_documents import HOME_MADE


def test_the_fields_own_terms_are_used():
    files = [p for p in (ROOT / "research").rglob("*") if p.suffix in (".py", ".md") and ".cache" not in p.parts]
    assert {str(p.relative_to(ROOT)): found for p in files if (found := HOME_MADE.findall(p.read_text(encoding="utf-8")))} == {}

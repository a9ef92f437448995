"""`cmb release export`: the audit package of a release for a quality system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmb_models.cli.terminal import AsJson, console, print_json


def export(
    ref: Annotated[str, typer.Argument(help="A release number, `latest`, or a role.")],
    out: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
    as_json: AsJson = False,
) -> None:
    """Write gate report, approval, lineage, SBOM, model card and audit extract of a release to a folder."""
    from cmb_models.registry.provenance.audit_package import export_evidence

    names = export_evidence(ref, out)
    if as_json:
        print_json({"folder": str(out), "files": names})
        return
    console().print(f"[bold]{out}[/]: {', '.join(names)}")

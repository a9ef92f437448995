"""`cmb compare-scans`: new microbleeds between two scans of a patient."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    from cmb_models.cli.followup import compare_scans

    app.command("compare-scans", epilog=compare_scans.EPILOG)(compare_scans.compare_scans)

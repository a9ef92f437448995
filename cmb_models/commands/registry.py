"""`cmb register` and `models`: releases of a workspace; moves, history and audit are added from their own files."""

from __future__ import annotations

import typer

from cmb_models.commands.terminal import AsJson, console, number, print_json, table


def register(as_json: AsJson = False) -> None:
    """Register this workspace's bundle as a release. Refuses uncommitted changes and outputs that differ from dvc.lock."""
    from cmb_models.registry.register import register as run

    done = run()
    if as_json:
        print_json({"release": done.release, "is_new": done.is_new, "metrics": done.metrics})
        return
    if not done.is_new:
        console().print(f"release {done.release} is already registered")
        return
    test = done.metrics["evaluate"]
    console().print(
        f"[bold]release {done.release}[/] registered: sensitivity {number(test.get('sensitivity'))} at "
        f"{number(test.get('fp_per_scan'))} false positives a scan on the locked test set; next: cmb promote {done.release}"
    )


def models(as_json: AsJson = False) -> None:
    """List the releases with their stage, their figures on the locked test set, their data, age and commit."""
    from cmb_models.registry.connection import without_password
    from cmb_models.registry.listing import COLUMNS, list_releases
    from cmb_models.registry.store import open_registry

    with open_registry() as registry:
        listed, uri = list_releases(registry), without_password(registry.uri)
    if as_json:
        print_json([release.as_dict() for release in listed])
        return
    out = console()
    out.print(table(*COLUMNS, rows=[release.row() for release in listed]) if listed else "no release yet")
    out.print(f"[dim]more: {uri if uri.startswith('http') else f'mlflow ui --backend-store-uri {uri}'}[/]")


def add_to(app: typer.Typer) -> None:
    from cmb_models.commands import audit, moves, release

    for command in (register, models):
        app.command()(command)
    moves.add_to(app)
    audit.add_to(app)
    release.add_to(app)

"""`cmb release register`, `list` and `show`."""

from __future__ import annotations

from typing import Annotated

import typer

from cmb_models.cli.terminal import AsJson, console, number, print_json, table


def register(as_json: AsJson = False) -> None:
    """Register this workspace's bundle as a release. Rejects uncommitted changes and outputs that differ from dvc.lock."""
    from cmb_models.registry.register import register as run

    registration = run()
    if as_json:
        print_json({"release": registration.release, "is_new": registration.is_new, "metrics": registration.metrics})
        return
    if not registration.is_new:
        console().print(f"release {registration.release} is already registered")
        return
    test = registration.metrics["evaluate"]
    console().print(
        f"[bold]release {registration.release}[/] registered: sensitivity {number(test.get('sensitivity'))} at "
        f"{number(test.get('fp_per_scan'))} false positives per scan on the held-out test set; "
        f"next: cmb release promote {registration.release}"
    )


def list_releases(as_json: AsJson = False) -> None:
    """List the releases with role, metrics on the held-out test set, data, age and commit."""
    from cmb_models.registry.mlflow.connection import without_password
    from cmb_models.registry.mlflow.listing import COLUMNS, listed_releases
    from cmb_models.registry.mlflow.store import open_registry

    with open_registry() as registry:
        listed, uri = listed_releases(registry), without_password(registry.uri)
        if as_json:
            print_json([release.as_dict() for release in listed])
            return
        out = console()
        out.print(table(*COLUMNS, rows=[release.row() for release in listed]) if listed else "no release yet")
        registry.require_history()
    out.print(f"[dim]more: {uri if uri.startswith('http') else f'mlflow ui --backend-store-uri {uri}'}[/]")


def show(
    ref: Annotated[str, typer.Argument(help="A release number, `latest`, or a role.")],
    as_json: AsJson = False,
) -> None:
    """Show a release: role, metrics on the held-out test set, data, commit, and its entries in the audit log."""
    from cmb_models.hash_chain import read_entries, with_merged
    from cmb_models.registry.mlflow.listing import COLUMNS, listed_releases
    from cmb_models.registry.mlflow.store import open_registry
    from cmb_models.workspace.paths import AUDIT_LOG

    with open_registry() as registry:
        number = registry.resolve(ref).number
        decisions = [e for e in with_merged(read_entries(registry.workspace / AUDIT_LOG)) if e.get("release") == number]
        found = next(release for release in listed_releases(registry) if release.number == number)
    if as_json:
        print_json({**found.as_dict(), "decisions": decisions})
        return
    console().print(table("", "", rows=list(zip(COLUMNS, found.row(), strict=True))))
    for entry in decisions:
        forced = " (gate overridden)" if entry.get("forced") else ""
        console().print(f"{entry['time']} {entry['action']}{forced} by {entry['user']}: {entry['reason'] or '-'}", markup=False)
    console().print(f"[dim]full lineage: cmb release lineage {number}[/]")

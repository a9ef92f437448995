"""`cmb register`, `promote`, `rollback`, `models`, `history` and `audit`: releases from a workspace to production."""

from __future__ import annotations

from typing import Annotated

import typer

Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]


def register() -> None:
    """Register this workspace's bundle as a release. Refuses uncommitted changes and outputs that differ from dvc.lock."""
    from cmb_models.registry.register import register as run

    done = run()
    if not done.is_new:
        _console().print(f"release {done.release} is already registered")
        return
    test = done.metrics["evaluate"]
    _console().print(
        f"[bold]release {done.release}[/] registered: sensitivity {_number(test.get('sensitivity'))} at "
        f"{_number(test.get('fp_per_scan'))} false positives a scan on the locked test set; next: cmb promote {done.release}"
    )


def promote(
    ref: Annotated[str, typer.Argument(help="A release number, `latest`, or an alias.")],
    reason: Reason = "",
) -> None:
    """Make a release production if it passes the gate; the one before becomes `previous`."""
    from cmb_models.registry.promote import promote as run

    console, move = _console(), run(ref, reason)
    if not move.checks:
        console.print(f"release {move.release} is already production")
        return
    _print_checks(console, move.release, move.checks)
    if move.failed:
        said = "; ".join(c.sentence() for c in move.failed)
        console.print(f"[bold red]release {move.release} was not promoted:[/] {said}")
        raise typer.Exit(1)
    console.print(f"[bold]release {move.release}[/] is production{f', {move.before} is previous' if move.before else ''}")


def rollback(reason: Reason = "") -> None:
    """Swap production and previous."""
    from cmb_models.registry.promote import rollback as run

    move = run(reason)
    _console().print(f"[bold]release {move.release}[/] is production again, {move.before} is previous")


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the releases with their aliases and figures on the locked test set."""
    from cmb_models.registry.store import open_registry

    with open_registry() as registry:
        releases, uri = registry.releases(), registry.uri
    keys = ("sensitivity", "fp_per_scan", "created", "git_commit", "manifest_sha256")
    if as_json:
        _print_json([{"release": r.number, "aliases": list(r.aliases), **{k: r.tags.get(k) for k in keys}} for r in releases])
        return
    rows = [
        (str(r.number), ", ".join(r.aliases), *(_number(r.tags.get(k)) for k in keys[:2]), r.tags.get("created", ""),
         r.tags.get("git_commit", "")[:8])
        for r in releases
    ]  # fmt: skip
    console = _console()
    console.print(
        _table("release", "aliases", "sensitivity", "FP/scan", "created", "commit", rows=rows) if rows else "no release yet"
    )
    console.print(f"[dim]more: mlflow ui --backend-store-uri {uri}[/]")


def history(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what was promoted and rolled back, when, by whom and why."""
    from pathlib import Path

    from cmb_models.chain import read_entries
    from cmb_models.registry.workspace import AUDIT_FILE, find_workspace

    entries = read_entries(find_workspace(Path(".")) / AUDIT_FILE)
    if as_json:
        _print_json(entries)
        return
    rows = [
        (
            e["time"],
            e["action"],
            f"{e['before'].get('production', '-')} to {e['after'].get('production', '-')}",
            e["user"],
            e["reason"],
        )
        for e in entries
    ]
    _console().print(_table("time", "action", "production", "user", "reason", rows=rows) if rows else "nothing promoted yet")


def audit_verify() -> None:
    """Check that no entry of the audit log was changed, removed or moved, and that it ends with the aliases as they are."""
    from cmb_models.registry.promote import audit_fault

    fault = audit_fault()
    if fault:
        _console().print(f"[bold red]the audit log does not hold:[/] {fault}")
        raise typer.Exit(1)
    _console().print("the audit log holds")


def add_to(app: typer.Typer) -> None:
    for command in (register, promote, rollback, models, history):
        app.command()(command)
    audit = typer.Typer(help="The hash-chained log of promotions.", no_args_is_help=True)
    audit.callback()(lambda: None)
    audit.command("verify")(audit_verify)
    app.add_typer(audit, name="audit")


def _console():
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False)


def _table(*columns: str, rows):
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")  # nothing is cut off in a narrow terminal
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _print_checks(console, release: int, checks) -> None:
    rows = [
        (c.name, "-" if c.measured is None else f"{c.measured:.4g}", f"{'≥' if c.bound == 'min' else '≤'} {c.limit:g}",
         "pass" if c.passed else "FAIL")
        for c in checks
    ]  # fmt: skip
    console.print(_table(f"gate of release {release}", "measured", "required", "", rows=rows))


def _print_json(value) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))


def _number(value) -> str:
    try:
        return f"{float(value):.3g}"
    except (TypeError, ValueError):
        return "-"

"""`cmb release history` and `cmb release verify`: the audit log and its verification."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cmb_models.cli.terminal import AsJson, console, print_json, table

SHORT = 8  # characters of a hash


def history(
    at: Annotated[str, typer.Option(help="The roles on a day (2026-01-31, UTC) or at a time (2026-01-31T12:00:00Z).")] = "",
    as_json: AsJson = False,
) -> None:
    """Show what was promoted and rolled back, when, by whom and why; with --at, the roles on a day.

    Entries of a merged git branch come before the one that merged them, which names the last entry of both.
    """
    from cmb_models.hash_chain import read_entries
    from cmb_models.workspace.paths import AUDIT_LOG
    from cmb_models.workspace.versioning import find_workspace

    entries = read_entries(find_workspace(Path(".")) / AUDIT_LOG)
    if at:
        _on_day(entries, at, as_json)
    elif as_json:
        print_json(entries)
    else:
        rows = list(_rows(entries))
        console().print(
            table("time (UTC)", "action", "moved", "user", "reason", "entry", rows=rows) if rows else "nothing promoted yet"
        )


def verify(as_json: AsJson = False) -> None:
    """Verify that no entry of the audit log was changed, removed or reordered, and that roles and archived files match it."""
    from rich.markup import escape

    from cmb_models.registry.history.audit import audit

    report = audit()
    if as_json:
        print_json({"holds": report.holds, "entries": report.entries, "faults": report.faults, "notes": report.notes})
    else:
        for fault in report.faults:
            console().print(f"[bold red]the audit log does not hold:[/] {escape(fault)}")
        for note in report.notes:
            console().print(f"[yellow]note:[/] {escape(note)}")
        if report.holds:
            console().print("the audit log holds")
    if not report.holds:
        raise typer.Exit(1)


def merge(as_json: AsJson = False) -> None:
    """Merge the audit, exposure and withdrawal logs of two git branches, which git cannot; run it when it reports a conflict.

    One entry holds those of the other branch and names both heads. The roles stay as the registry has them.
    """
    from cmb_models.registry.history.merge import merge_branches
    from cmb_models.registry.promote import resume

    merged = merge_branches()
    if not as_json:
        console().print("\n".join(merged) or "nothing to merge: the logs hold the entries of both branches")
    repairs = resume()
    if as_json:
        print_json({"done": [*merged, *repairs]})
    elif repairs:
        console().print("\n".join(repairs))


def _rows(entries, branch: str = "") -> Iterator[tuple[str, ...]]:
    """A row for each entry, of merged branches too. branch: what to add to the action of those."""
    for entry in entries:
        moves = _moves(entry)
        if "merged" in entry:
            yield from _rows(entry["merged"], " (other branch)")
            moves = (
                f"joins {entry['previous_sha256'][:SHORT] or 'no entry'} and {entry['merged_sha256'][:SHORT]} of the other branch"
            )
        yield _time(entry), _action(entry) + branch, moves, entry["user"], entry["reason"], entry["sha256"][:SHORT]


def _moves(entry) -> str:
    """The roles that an entry moved, one per line: `production 2 to 3`."""
    before, after = entry["before"], entry["after"]
    roles = [s for s in ("production", "previous", "challenger") if before.get(s) != after.get(s)]
    return "\n".join(f"{s} {before.get(s, '–')} to {after.get(s, '–')}" for s in roles)


def _action(entry) -> str:
    return f"{entry['action']}{' FORCED' if entry.get('forced') else ''}"


def _time(entry) -> str:
    return entry["time"].replace("T", " ").rstrip("Z")


def _on_day(entries, when: str, as_json: bool) -> None:
    from cmb_models.registry.history.state import state_at

    found = state_at(entries, when)
    if as_json:
        print_json({role: {"release": e["after"][role], "by": e} for role, e in found.items()})
        return
    rows = [(role, str(e["after"][role]), _time(e), _action(e), e["user"], e["reason"]) for role, e in found.items()]
    empty = f"nothing had been promoted by {when}"
    console().print(table(f"on {when} (UTC)", "release", "since", "by", "user", "reason", rows=rows) if rows else empty)

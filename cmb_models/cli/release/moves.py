"""`cmb release promote`, `rollback`, `challenge` and `repair`: assignment of roles."""

from __future__ import annotations

from typing import Annotated

import typer

from cmb_models.cli.terminal import AsJson, console, print_json

Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]
FORCED = "THE GATE FAILED AND WAS OVERRIDDEN"


def promote(
    ref: Annotated[str, typer.Argument(help="A release number, `latest`, or a role.")],
    reason: Reason = "",
    override_gate: Annotated[
        bool, typer.Option("--override-gate", help="Promote even if the gate fails; needs a reason, marked in the log.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a release production if it passes the gate; the one before becomes `previous`."""
    from cmb_models.registry.promote import promote as run

    move = run(ref, reason, force=override_gate)
    if as_json:
        _print_move(move)
    else:
        _print_promotion(move, reason)
    if move.failed and not move.forced:
        raise typer.Exit(1)


def rollback(reason: Reason = "", as_json: AsJson = False) -> None:
    """Swap production and previous. Needs a reason."""
    from cmb_models.registry.promote import rollback as run

    move = run(reason)
    if as_json:
        _print_move(move)
        return
    console().print(f"[bold]release {move.release}[/] is production again, {move.before} is previous")
    _print_notes(move)


def challenge(
    ref: Annotated[str, typer.Argument(help="A release number, `latest`, or a role.")] = "",
    reason: Reason = "",
    clear: Annotated[bool, typer.Option("--clear", help="Remove the challenger role.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a release the `challenger`, which runs in shadow mode next to production."""
    from cmb_models.registry import promote as moves

    if bool(ref) == clear:
        raise typer.BadParameter("name a release, or pass --clear without one")
    move = moves.withdraw_challenger(reason) if clear else moves.challenge(ref, reason)
    if as_json:
        _print_move(move)
        return
    outcome = "is no longer the challenger" if clear else "is the challenger" if move.moved else "is already the challenger"
    if move.checks:
        _print_checks(move)
    console().print(f"[bold]release {move.release}[/] {outcome}")
    if move.failed:
        console().print(f"[yellow]it could not be promoted:[/] {'; '.join(c.sentence() for c in move.failed)}")
    _print_notes(move)


def repair(as_json: AsJson = False) -> None:
    """Make the registry's roles agree with the audit log after a killed command."""
    from cmb_models.registry.promote import resume

    repairs = resume()
    if as_json:
        print_json({"done": repairs})
    else:
        console().print("\n".join(repairs) if repairs else "nothing to repair: the roles agree with the audit log")


def _print_promotion(move, reason: str) -> None:
    out = console()
    if not move.moved and not move.checks:
        out.print(f"release {move.release} is already production")
        return
    _print_checks(move)
    failed = "; ".join(c.sentence() for c in move.failed)
    if not move.moved:
        out.print(f"[bold red]release {move.release} was not promoted:[/] {failed}")
        return
    if move.forced:
        from rich.markup import escape

        out.print(f"[bold white on red] {FORCED} [/] [bold red]{escape(failed)}[/]")
        out.print(f"[bold red]reason given: {escape(reason)}; this is marked in the audit log[/]")
    out.print(f"[bold]release {move.release}[/] is production{f', {move.before} is previous' if move.before else ''}")
    _print_notes(move)


def _print_notes(move) -> None:
    from rich.markup import escape

    for note in move.notes:
        console().print(f"[yellow]note:[/] {escape(note)}")


COLOURS = {"pass": "green", "FAIL": "bold red", "not judged": "dim"}


def _print_checks(move) -> None:
    """Print one line per check, with its note unless it passed."""
    from rich.text import Text

    console().print(f"[bold]gate of release {move.release}[/]")
    for check in move.checks:
        result = "not judged" if check.insufficient_data and check.measured is None else "pass" if check.passed else "FAIL"
        note = f" ({check.note})" if check.note and result != "pass" else ""
        line = Text(f"  {result:>10}  ", style=COLOURS[result])
        console().print(line.append(f"{check.name}: {_measured(check)}{note}", style="default"))


def _measured(check) -> str:
    measured = "-" if check.measured is None else f"{check.measured:.4g}"
    if check.interval:
        measured += f" ({check.interval[0]:.3g} to {check.interval[1]:.3g})"
    return f"{measured}, required {'≥' if check.bound == 'min' else '≤'} {check.limit:g}"


def _print_move(move) -> None:
    fields = {k: getattr(move, k) for k in ("release", "before", "moved", "forced")}
    print_json({**fields, "checks": [c.as_dict() for c in move.checks], "notes": list(move.notes)})

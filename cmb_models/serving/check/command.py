"""Does a server do what it must? `cmb server check HOST:PORT`, or in the image `python -m cmb_models.serving.check.command`.

Needs what a client needs and no more. Imports wait until the command runs, so that `cmb --help` stays quick.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmb_models.errors import InputError

if TYPE_CHECKING:
    from cmb_models.serving.check.checks import Server

MARKS = {"passed": "[green]passed[/]", "failed": "[bold red]failed[/]", "not shown": "[yellow]not shown[/]"}


@dataclass(frozen=True)
class Result:
    """One check: what it is called, at which ensemble, how it went and what was seen."""

    model: str
    check: str
    status: str  # one of MARKS
    seen: str
    seconds: float


def check_server(
    url: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The server's gRPC address.", show_default=False)],
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="The bundle it should serve: its golden scan is sent.")] = None,
    scan: Annotated[Path | None, typer.Option(metavar="FILE", help="A scan of yours to send too.")] = None,
    challenger: Annotated[bool, typer.Option("--challenger", help="Check the challenger's ensemble as well.")] = False,
    challenger_bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="The bundle that the challenger should be.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Time no further sizes of scan.")] = False,
    large: Annotated[bool, typer.Option("--large", help="Time 512x448x80 too, 73 MB.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a server from outside: the contract, one release throughout, answers, refusals, many clients, times.

    Exit code: 0 no check failed, 1 one did, 2 the server could not be asked.
    """
    from cmb_models.client.contract import CHALLENGER, DETECTOR
    from cmb_models.client.grpc import Client
    from cmb_models.serving.check.checks import LARGE, TYPICAL, Server

    with Client(url, timeout_s=30) as client:
        client.serving()  # a server that cannot be reached is no failed check
    sizes = ({} if quick else {"197x233x94": TYPICAL}) | ({"512x448x80": LARGE} if large else {})
    servers = [Server(url, DETECTOR, bundle)]
    if challenger or challenger_bundle:
        servers.append(Server(url, CHALLENGER, challenger_bundle))
    results = [result for server in servers for result in run_checks(server, sizes)]
    if scan is not None:
        results.append(_send(servers[0], scan))
    (_print_json if as_json else _print)(url, servers, results)
    raise typer.Exit(1 if any(r.status == "failed" for r in results) else 0)


def run_checks(server: Server, sizes: dict[str, tuple]) -> list[Result]:
    """Run every check; one that fails does not keep the next from being run. sizes: further scans to time, name to (shape, mm)."""
    from cmb_models.serving.check.checks import checks

    results = []
    for name, check in checks(sizes).items():
        results.append(_result(server, name, lambda check=check: check(server)))
        if name == "contract" and results[-1].status == "failed":
            return results  # what is not deployed or speaks otherwise fails all the rest, which would only hide why
    return results


def _result(server: Server, name: str, check) -> Result:
    from tritonclient.utils import InferenceServerException

    from cmb_models.serving.check.checks import Failed, NotShown

    began = time.perf_counter()
    try:
        status, seen = "passed", check()
    except NotShown as why:
        status, seen = "not shown", str(why)
    except (Failed, InputError, RuntimeError, InferenceServerException) as why:
        status, seen = "failed", str(why)
    return Result(server.model, name, status, seen, time.perf_counter() - began)


def _send(server: Server, file: Path) -> Result:
    from cmb_models.client.grpc import Client
    from cmb_models.dataset.layout import read_phase
    from cmb_models.io.nifti import read_volume

    def check() -> str:
        with Client(server.url, model=server.model) as client:
            phase = read_phase(file) if client.requires_phase else None
        answer = server.detect(read_volume(file), str(file), phase)
        return f"{len(answer.detections)} of {len(answer.candidates)} candidates reach the threshold"

    return _result(server, str(file), check)


def _print(url: str, servers: Sequence[Server], results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from cmb_models.serving.check.checks import latencies

    console = Console(highlight=False)
    table = Table("check", "", "what was seen", "s", title=f"{url}", title_justify="left")
    several = len(servers) > 1
    for r in results:
        name = f"{r.model} {r.check}" if several else r.check
        table.add_row(escape(name), MARKS[r.status], escape(r.seen), f"{r.seconds:.1f}")
    console.print(table)
    for server in servers:
        times = Table("scan", "answers", "first s", "median s", "slowest s", title=server.model, title_justify="left")
        for row in latencies(server):
            times.add_row(row["size"], str(row["answers"]), *(f"{row[k]:.2f}" for k in ("first_s", "median_s", "slowest_s")))
        if times.rows:
            console.print(times)
    failed = [r.check for r in results if r.status == "failed"]
    console.print(f"[bold red]failed: {escape(', '.join(failed))}[/]" if failed else "[green]no check failed[/]")


def _print_json(url: str, servers: Sequence[Server], results: Sequence[Result]) -> None:
    import json

    from cmb_models.serving.check.checks import latencies

    times = {server.model: latencies(server) for server in servers}
    typer.echo(json.dumps({"url": url, "checks": [asdict(r) for r in results], "latency": times}, indent=2))


def main(arguments: Sequence[str]) -> int:
    """The command without `cmb`, for images and installs that lack it; returns the exit code."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(check_server)
    try:
        app(args=list(arguments), prog_name="check")
    except SystemExit as end:
        return int(end.code or 0)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`cmb server check HOST:PORT`, in the image `python -m cmb_models.serving.check.command`: checks of a running server.

Needs only the client's packages. Imports are deferred, so that `cmb --help` stays quick.
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
    """The result of one check of an ensemble."""

    model: str
    check: str
    status: str  # one of MARKS
    seen: str
    seconds: float


def check_server(
    url: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The server's gRPC address.", show_default=False)],
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="The bundle it should serve, for its golden scan.")] = None,
    scan: Annotated[Path | None, typer.Option(metavar="FILE", help="A further scan to send.")] = None,
    challenger: Annotated[bool, typer.Option("--challenger", help="Also check the challenger.")] = False,
    challenger_bundle: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The bundle that the challenger should serve.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Skip the timing of further sizes.")] = False,
    large: Annotated[bool, typer.Option("--large", help="Also time 512x448x80 (73 MB).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a server from outside: contract, pinned release, results, rejections, concurrency, latency.

    Exit code: 0 no check failed, 1 a check failed, 2 the server could not be reached.
    """
    from cmb_models.client.contract import CHALLENGER, DETECTOR
    from cmb_models.client.grpc import Client
    from cmb_models.serving.check.checks import LARGE, TYPICAL, Server

    with Client(url, timeout_s=30) as client:
        client.serving()  # an unreachable server is an error, not a failed check
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
    """Run every check, also after a failed one. sizes: further scans to time, name to (shape, mm)."""
    from cmb_models.serving.check.checks import checks

    results = []
    for name, check in checks(sizes).items():
        results.append(_result(server, name, lambda check=check: check(server)))
        if name == "contract" and results[-1].status == "failed":
            return results  # every further check would fail and hide the cause
    return results


def _result(server: Server, name: str, check) -> Result:
    from grpc import RpcError

    from cmb_models.serving.check.checks import Failed, Inconclusive

    start = time.perf_counter()
    try:
        status, observed = "passed", check()
    except Inconclusive as error:
        status, observed = "not shown", str(error)
    except RpcError as error:
        status, observed = "failed", f"{error.code().name}: {error.details()}"
    except (Failed, InputError, RuntimeError) as error:
        status, observed = "failed", str(error)
    return Result(server.model, name, status, observed, time.perf_counter() - start)


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
    table = Table("check", "", "observed", "s", title=f"{url}", title_justify="left")
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
    """The command for images and installs without `cmb`; returns the exit code."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(check_server)
    try:
        app(args=list(arguments), prog_name="check")
    except SystemExit as exit_:
        return int(exit_.code or 0)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

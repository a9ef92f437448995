"""`cmb serve` and `cmb deploy`. Imports wait until a command runs, so that `cmb --help` stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[Path, typer.Option(help="Folder for the model repository, the server's log and server.json.")]


def serve(
    state: State = Path("serving-state"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port on loopback; 0 takes a free one.")] = 8001,
    bundle: Annotated[Path | None, typer.Option(help="Serve this bundle folder as release 1, without a registry.")] = None,
) -> None:
    """Run the bundled Triton server in the foreground, with the release in production; Ctrl-C ends it."""
    import signal

    from serving.server import running_server
    from serving.state import LOG, REPOSITORY, announced, only_one

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop is a Ctrl-C
    try:
        with only_one(state), running_server(state / REPOSITORY, grpc_port=port, log=state / LOG) as server:
            with announced(state, server):
                typer.echo(f"gRPC {server.grpc_url}, HTTP {server.http_url}, log {server.log}")
                _deploy_first(state / REPOSITORY, server.grpc_url, bundle)
                typer.echo("serving; Ctrl-C ends it")
                server.wait()
            raise RuntimeError(f"the server ended by itself; see {server.log}")
    except KeyboardInterrupt:
        typer.echo("ended")


def _deploy_first(repository: Path, url: str, bundle: Path | None) -> None:
    """Deploy what a fresh server starts with. No release in production is no fault: one may be promoted later."""
    from cmb_models.errors import InputError
    from serving.deploy import deploy_bundle

    release = 1
    if bundle is None:
        from cmb_models.registry.store import fetch_release

        try:
            files = fetch_release("production")
        except InputError as error:
            typer.echo(f"nothing deployed: {error}")
            return
        bundle, release = files.bundle_dir, files.release
    typer.echo(deploy_bundle(bundle, release, repository, url))


def deploy(
    server: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of a server's gRPC, or HOST:PORT=FOLDER if it reads a repository of its own; repeat it."),
    ] = None,
    state: State = Path("serving-state"),
    repository: Annotated[Path | None, typer.Option(help="Model repository the servers read; else the one in --state.")] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Change nothing: registry and servers side by side; 1 if not alike.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: print JSON.")] = False,
    immutable: Annotated[Path | None, typer.Option(help="Write a read-only repository into this new folder instead.")] = None,
) -> None:
    """Make servers serve what the registry's aliases name. Nothing is done where it is served already."""
    from serving.deploy import Target, deploy_aliases
    from serving.state import REPOSITORY, running_url

    if as_json and not status:
        raise typer.BadParameter("--json goes with --status")
    if immutable:
        _write_immutable(immutable)
        return
    pairs = [one.partition("=") for one in server or [running_url(state)]]
    if status:
        _print_status([url for url, _, _ in pairs], as_json)
        return
    shared = repository or state / REPOSITORY
    deploy_aliases([Target(url, Path(own) if own else shared) for url, _, own in pairs], done=typer.echo)


def _write_immutable(folder: Path) -> None:
    from serving.immutable import write_immutable
    from serving.wanted import wanted_aliases

    told = write_immutable(folder, wanted_aliases(Path(".")))
    typer.echo(f"{folder}: {', '.join(f'{alias} is {pin}' for alias, pin in told.items())}")
    typer.echo("serve it by `cmb serve --immutable`, or tritonserver --model-control-mode=none; restart one server after the other")


def _print_status(urls: list[str], as_json: bool) -> None:
    from cmb_models.commands.terminal import console, print_json, table
    from serving.status import COLUMNS, status_of

    found = status_of(urls)
    if as_json:
        print_json(found.as_dict())
    else:
        console().print(table(*COLUMNS, rows=found.rows()))
        for difference in found.differences:
            typer.echo(difference)
        typer.echo("they differ: run `cmb deploy`" if found.differences else "registry and servers agree")
    if found.differences:
        raise typer.Exit(1)

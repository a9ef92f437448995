"""`cmb serve` and `cmb deploy`. Imports wait until a command runs, so that `cmb --help` stays quick."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

State = Annotated[Path, typer.Option(help="Folder for the model repository, the server's log and server.json.")]


def serve(
    state: State = Path("serving-state"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 takes a free one.")] = 8001,
    bundle: Annotated[Path | None, typer.Option(help="Serve this bundle folder as release 1, without a registry.")] = None,
    host: Annotated[str, typer.Option(help="Address gRPC listens on; other than loopback only with TLS.")] = "127.0.0.1",
    tls_cert: Annotated[Path | None, typer.Option(help="The server's certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="Ask clients for a certificate of this root, PEM.")] = None,
    metrics_host: Annotated[str, typer.Option(help="Address the metrics listen on, without TLS.")] = "127.0.0.1",
    immutable: Annotated[Path | None, typer.Option(help="Serve this folder, written by `cmb deploy --immutable`.")] = None,
) -> None:
    """Run the bundled Triton server in the foreground, with what the registry's aliases name; Ctrl-C ends it.

    A server that ends by itself is started again, as are steps that die; what was served is deployed anew.
    """
    import signal

    from serving.keeper import Keeper
    from serving.security import ADMIN_KEY, Security, state_key
    from serving.server import running_server
    from serving.state import LOG, REPOSITORY, announced, only_one

    if bundle and immutable:
        raise typer.BadParameter("--bundle and --immutable exclude each other")
    os.environ[ADMIN_KEY] = key = state_key(state)  # for what is deployed here below
    security = Security(host, key, tls_cert, tls_key, tls_client_ca, metrics_host)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop is a Ctrl-C
    repository = immutable or state / REPOSITORY
    arguments = ["--model-control-mode=none"] if immutable else []
    try:
        started = running_server(repository, grpc_port=port, log=state / LOG, security=security, arguments=arguments)
        with only_one(state), started as server, announced(state, server) as announce:
            typer.echo(f"gRPC {server.grpc_url}, HTTP {server.http_url}, log {server.log}")
            wanted = None if immutable else _Wants(bundle)
            if wanted:
                _deploy_first(repository, server.address, wanted)
            typer.echo("serving; Ctrl-C ends it")
            Keeper(server, repository, wanted, typer.echo).watch(announce)
            raise RuntimeError(f"the server keeps ending by itself; see {server.log}")
    except KeyboardInterrupt:
        typer.echo("ended")


class _Wants:
    """What a server is to serve: the bundle given, else what the aliases name now, or named last while they cannot be read."""

    def __init__(self, bundle: Path | None) -> None:
        self.bundle, self._last = bundle, None

    def __call__(self):
        from cmb_models.errors import InputError
        from serving.wanted import wanted_aliases, wanted_bundle

        try:
            self._last = wanted_bundle(self.bundle, 1, Path(".")) if self.bundle else wanted_aliases(Path("."))
        except InputError as error:
            if self._last is None:
                raise
            typer.echo(f"served as before, since {error}")
        return self._last


def _deploy_first(repository: Path, url: str, wanted: _Wants) -> None:
    """Deploy what a fresh server starts with. No release in production is no fault: one may be promoted later."""
    from cmb_models.client.contract import DETECTOR
    from cmb_models.errors import InputError
    from serving.admin import Admin
    from serving.deploy import Target, reconcile

    try:
        found = wanted()
    except InputError as error:
        if wanted.bundle:
            raise
        typer.echo(f"nothing deployed: {error}")
        return
    try:
        reconcile(found, [Target(url, repository)], done=typer.echo)
    except InputError as error:
        with Admin(url) as admin:
            if DETECTOR not in admin.actual().pins:
                raise
        typer.echo(f"production is served, but {error}")


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
    from serving.security import ADMIN_KEY, kept_key
    from serving.state import REPOSITORY, running_url

    if as_json and not status:
        raise typer.BadParameter("--json goes with --status")
    if immutable:
        _write_immutable(immutable)
        return
    if not server and (key := kept_key(state)):  # of the server here; another's is its own
        os.environ.setdefault(ADMIN_KEY, key)
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

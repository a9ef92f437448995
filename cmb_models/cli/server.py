"""`cmb server`: run the bundled Triton server, deploy to servers, check them. Imports are deferred."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cmb_models.cli.terminal import AsJson

Servers = Annotated[
    list[str] | None,
    typer.Option(help="HOST:PORT of a server's gRPC, or HOST:PORT=FOLDER with its model repository; repeatable."),
]
State = Annotated[Path, typer.Option(help="Folder for the model repository, the server's log and server.json.")]


def run(
    state_dir: State = Path("serving-state"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 takes a free one.")] = 8001,
    bundle: Annotated[Path | None, typer.Option(help="Serve this bundle folder as release 1, without a registry.")] = None,
    host: Annotated[str, typer.Option(help="Address for gRPC; other than loopback requires TLS.")] = "127.0.0.1",
    tls_cert: Annotated[Path | None, typer.Option(help="The server's certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="Require client certificates of this root, PEM.")] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for the metrics, without TLS.")] = "127.0.0.1",
    exported: Annotated[Path | None, typer.Option(help="Serve this folder, written by `cmb server export`.")] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="Of the networks: cpu, cuda, or auto for a CUDA device that works (default: auto)."),
    ] = None,
) -> None:
    """Run the bundled Triton server in the foreground with the releases of the registry's roles; Ctrl-C stops it.

    A server that exits is restarted and its releases are deployed again; served models that exit are restarted.
    """
    import signal

    from cmb_models.client.contract import ADMIN_KEY
    from cmb_models.serving.run.devices import set_device, step_devices
    from cmb_models.serving.run.settings import Security
    from cmb_models.serving.run.state_dir import LOG, REPOSITORY, announced, only_one, state_key
    from cmb_models.serving.run.triton_process import running_server
    from cmb_models.serving.run.watchdog import Watchdog

    if bundle and exported:
        raise typer.BadParameter("--bundle and --exported exclude each other")
    set_device(device)
    os.environ[ADMIN_KEY] = key = state_key(state_dir)  # for the deployment below
    security = Security(host, key, tls_cert, tls_key, tls_client_ca, metrics_host)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # handle a service manager's stop as Ctrl-C
    repository = exported or state_dir / REPOSITORY
    arguments = ["--model-control-mode=none"] if exported else []
    try:
        started = running_server(repository, grpc_port=port, log=state_dir / LOG, security=security, arguments=arguments)
        with only_one(state_dir), started as server, announced(state_dir, server) as announce:
            typer.echo(f"gRPC {server.grpc_url}, HTTP {server.http_url}, log {server.log}")
            desired = None if exported else _DesiredStateSource(bundle)
            if desired:
                _deploy_first(repository, server.address, desired)
            for line in step_devices(server.metrics_url):
                typer.echo(line)
            typer.echo("serving; Ctrl-C stops it")
            Watchdog(server, repository, desired, typer.echo).watch(announce)
            raise RuntimeError(f"the server keeps exiting; see {server.log}")
    except KeyboardInterrupt:
        typer.echo("stopped")


class _DesiredStateSource:
    """The desired state: the given bundle, else the registry's roles, or their last state while the registry cannot be read."""

    def __init__(self, bundle: Path | None) -> None:
        self.bundle, self._last = bundle, None

    def __call__(self):
        from cmb_models.errors import InputError
        from cmb_models.release.keys import trusted_keys
        from cmb_models.serving.deploy.desired import desired_bundle, desired_roles

        start = Path(".")
        try:
            self._last = desired_bundle(self.bundle, 1, trusted_keys(start)) if self.bundle else desired_roles(start)
        except InputError as error:
            if self._last is None:
                raise
            typer.echo(f"the last state stays deployed, since {error}")
        return self._last


def _deploy_first(repository: Path, url: str, desired: _DesiredStateSource) -> None:
    """Deploy to a new server. A missing production release is not an error, since one may be promoted later."""
    from cmb_models.client.contract import DETECTOR
    from cmb_models.errors import InputError
    from cmb_models.serving.deploy.fleet import Target, reconcile
    from cmb_models.serving.deploy.observed import Admin

    try:
        state = desired()
    except InputError as error:
        if desired.bundle:
            raise
        typer.echo(f"nothing deployed: {error}")
        return
    try:
        reconcile(state, [Target(url, repository)], on_deployed=typer.echo)
    except InputError as error:
        with Admin(url) as admin:
            if DETECTOR not in admin.observed().pins:
                raise
        typer.echo(f"production is served, but {error}")


def deploy(
    server: Servers = None,
    state_dir: State = Path("serving-state"),
    repository: Annotated[Path | None, typer.Option(help="Model repository the servers read; else the one in --state-dir.")] = None,
) -> None:
    """Deploy the releases of the registry's roles to servers. Does nothing if they are already served."""
    from cmb_models.serving.deploy.fleet import Target, deploy_aliases
    from cmb_models.serving.run.state_dir import REPOSITORY

    pairs = _addresses(server, state_dir)
    shared = repository or state_dir / REPOSITORY
    deploy_aliases([Target(url, Path(folder) if folder else shared) for url, _, folder in pairs], on_deployed=typer.echo)


def _addresses(server: list[str] | None, state: Path) -> list[tuple[str, str, str]]:
    """The given servers, or the one that was started here, whose admin key is then set."""
    from cmb_models.client.contract import ADMIN_KEY
    from cmb_models.serving.run.state_dir import running_url, stored_key

    if not server and (key := stored_key(state)):  # the key of this machine's server
        os.environ.setdefault(ADMIN_KEY, key)
    return [address.partition("=") for address in server or [running_url(state)]]


def status(server: Servers = None, state_dir: State = Path("serving-state"), as_json: AsJson = False) -> None:
    """Show the releases of the registry's roles and of servers, and the devices of this machine's. Exit code 1: they differ."""
    from cmb_models.serving.run.state_dir import running_metrics

    _print_status({url: running_metrics(state_dir, url) for url, _, _ in _addresses(server, state_dir)}, as_json)


def export(
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
) -> None:
    """Export the releases of the registry's roles as a read-only model repository for `cmb server run --exported`."""
    from cmb_models.serving.deploy.desired import desired_roles
    from cmb_models.serving.deploy.export import write_immutable

    exported = write_immutable(folder, desired_roles(Path(".")))
    typer.echo(f"{folder}: {', '.join(f'{alias} is {pin}' for alias, pin in exported.items())}")
    typer.echo("serve it with `cmb server run --exported` or tritonserver --model-control-mode=none; restart servers one by one")


def _print_status(urls: dict[str, str | None], as_json: bool) -> None:
    from cmb_models.cli.terminal import console, print_json, table
    from cmb_models.serving.deploy.status import COLUMNS, status_of

    status = status_of(urls)
    if as_json:
        print_json(status.as_dict())
    else:
        console().print(table(*COLUMNS, rows=status.rows()))
        for line in (line for server in status.servers for line in server.devices):
            typer.echo(line)
        for difference in status.differences:
            typer.echo(difference)
        typer.echo("they differ: run `cmb server deploy`" if status.differences else "registry and servers agree")
    if status.differences:
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    from cmb_models.cli.shadow import report
    from cmb_models.serving.check.command import check_server

    server = typer.Typer(help="Run, deploy to and check Triton servers.", no_args_is_help=True)
    for name, command in (("run", run), ("deploy", deploy), ("status", status), ("check", check_server), ("export", export)):
        server.command(name)(command)
    server.command("shadow-report")(report)
    app.add_typer(server, name="server")

"""`cmb keys create`: a key pair for signing releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmb_models.cli.terminal import console


def create(
    folder: Annotated[Path, typer.Argument(help="Folder for release.key and release.pub, preferably on offline media.")],
) -> None:
    """Create a key pair. A workspace that commits the public key then requires every release to be signed."""
    from cmb_models.release.keys import KEY_VARIABLE, KEYS_DIR, new_keys

    private_file, public_file = new_keys(folder)
    out = console()
    out.print(f"{private_file}: the private key (mode 600). Keep a copy offline: it can sign as this site.")
    out.print(
        f"{public_file}: the public key. Once it is committed, releases without a valid signature are rejected:", markup=False
    )
    place = f"{KEYS_DIR}/{public_file.name}"
    copy = "" if public_file.resolve() == Path(place).resolve() else f"mkdir -p {KEYS_DIR} && cp {public_file} {place} && "
    out.print(f"  {copy}git add {place} && git commit -m 'Releases are signed'", markup=False)
    if copy:
        out.print(f"  export {KEY_VARIABLE}={private_file.resolve()}   # for `cmb release register`", markup=False)


def add_to(app: typer.Typer) -> None:
    keys = typer.Typer(help="Keys for signing releases.", no_args_is_help=True)
    keys.callback()(lambda: None)
    keys.command("create")(create)
    app.add_typer(keys, name="keys")

"""`cmb release lineage` and `reproduce`: the origin of a release, the releases that used a scan, and retraining."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmb_models.cli.terminal import AsJson, console, print_json
from cmb_models.errors import InputError

if TYPE_CHECKING:
    from rich.tree import Tree

HASHES = {  # label by key of the lineage, in order
    "dvc_lock_sha256": "dvc.lock",
    "params_sha256": "params.yaml",
    "gate_sha256": "gate, before training",
    "environment_sha256": "requirements.lock",
    "index_sha256": "data/index.json",
    "split_sha256": "data/split.json",
    "export_sha256": "exported bundle",
}
WIDE = 400  # columns, so that hashes are never folded and can be copied
SCANS = (
    ("training_scans", "training scans"),
    ("training_phases", "their phase images"),
    ("locked_scans", "locked test scans, never trained on"),
    ("locked_phases", "their phase images"),
)


def lineage(
    ref: Annotated[str | None, typer.Argument(help="A release number, `latest`, or a role.", show_default=False)] = None,
    scan: Annotated[
        str | None,
        typer.Option(
            metavar="HASH|FILE",
            help="List the releases that used this scan: its file, or 8 or more digits of its SHA-256.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a release's commit, settings, studies, datasets, scans and ancestors.

    With --scan: every release that used a scan, and how; where a file is given, also those that used another of its name.
    Exit code 1: some releases could not be read.
    """
    if (ref is None) == (scan is None):
        got = "neither" if ref is None else "both"
        raise InputError(
            "options-conflict",
            "cmb release lineage",
            "either a release or --scan",
            got,
            "run `cmb release lineage production`, for instance",
        )
    if scan is not None:
        _show_scan(scan, as_json)
        return
    from cmb_models.registry.mlflow.store import open_registry
    from cmb_models.registry.provenance.trace import trace

    assert ref is not None
    with open_registry() as registry:
        chain = trace(registry, ref)
    if as_json:
        print_json(chain)
    else:
        console(WIDE).print(_tree(chain))


def _tree(chain: Mapping[str, Any]) -> Tree:
    """The lineage as a tree, the release at the root."""
    from rich.markup import escape
    from rich.tree import Tree

    aliases = f" ({', '.join(chain['aliases'])})" if chain["aliases"] else ""
    tree = Tree(f"[bold]release {chain['release']}[/]{aliases}")
    tree.add(
        f"manifest {chain['manifest_sha256']}"
        + (f", signed by {escape(chain['signed_by'])}" if chain["signed_by"] else ", unsigned")
    )
    tree.add(escape(f"registered {chain.get('created', '?')} by {chain.get('user', '?')}"))
    commit = tree.add(f"commit {chain.get('git_commit', '?')}")
    info = chain["commit"]
    commit.add(escape(f"{info['date']} {info['author']}: {info['subject']}") if info else "[red]not in this clone[/]")
    for key, label in HASHES.items():
        if chain.get(key):
            commit.add(f"{label} {chain[key]}")
    studies = tree.add("studies")
    for name, chosen in sorted(chain.get("studies", {}).items()):
        studies.add(escape(f"{name}: {chosen['study']}, trial {chosen['trial']}"))
    data = tree.add("datasets (DVC)")
    for path, md5 in sorted(chain.get("data", {}).items()):
        data.add(escape(f"{path} {md5}"))
    for name, record in sorted(chain.get("datasets", {}).items()):
        data.add(escape(f"{name}: {record['scans']} scans, {record['cmbs']} microbleeds, contents {record['sha256']}"))
    calibrated = set(chain.get("calibrated_on", ()))
    for key, label in SCANS:
        scans = chain.get(key, {})
        if scans:
            also = f"; threshold and calibration from {len(calibrated)} subjects" if key == "training_scans" else ""
            branch = tree.add(f"{len(scans)} {label}{also}")
            for name, sha256 in sorted(scans.items()):
                branch.add(escape(f"{name} {sha256}"))
    if parent := chain.get("parent"):
        was = "in production" if parent["was"] == "production" else "the latest"
        tree.add(
            escape(f"follows release {parent['release']}, {was} when this one was registered, manifest {parent['manifest_sha256']}")
        )
    parents = tree.add("in production before" if chain["parents"] else "no release was in production before")
    for p in chain["parents"]:
        parents.add(
            escape(f"release {p['release']}, {p['created']}, commit {p['git_commit'][:12]}, manifest {p['manifest_sha256'][:12]}")
        )
    return tree


def _show_scan(scan: str, as_json: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from cmb_models.registry.mlflow.store import open_registry
    from cmb_models.registry.provenance.trace import namesakes, scan_hashes, sightings

    hashes = scan_hashes(scan)
    with open_registry() as registry:
        uses, unread = sightings(registry, hashes)
        others = namesakes(registry, scan, uses)
    if as_json:
        listed, named = ([s.as_dict() for s in found] for found in (uses, others))
        print_json({"sha256": hashes[0], "seen_by": listed, "seen_with_another_hash": named, "unread": unread})
    else:
        out = console()
        if uses:
            table = Table("release", "roles", "used in", "as", "SHA-256")
            for s in uses:
                table.add_row(*map(escape, (str(s.release), ", ".join(s.aliases), ", ".join(s.roles), s.key, s.sha256[:16])))
            for column in table.columns:
                column.overflow = "fold"  # fold instead of truncating in a narrow terminal
            out.print(table)
        else:
            out.print(f"no readable release used scan {hashes[0]}" if unread else f"no release used scan {hashes[0]}")
        for s in others:
            text = f"release {s.release} used a scan of this name with another hash ({s.roles[0]}): {s.key} {s.sha256[:16]}"
            out.print(f"[bold red]note:[/] {escape(text)}; one of the files may be damaged, or was replaced")
        for fault in unread:
            out.print(f"[bold red]unreadable:[/] {escape(fault)}")
    if unread:
        raise typer.Exit(1)


def reproduce(
    ref: Annotated[str, typer.Argument(help="A release number, `latest`, or a role.")],
    folder: Annotated[
        Path | None, typer.Option(help="Folder for the clone, kept afterwards; must not exist. Default: a temporary one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Retrain a release from its commit and data in a clone, and compare it with the registered one.

    Takes as long as the training. Exit code 0: everything is the same, 1: something differs.
    """
    from rich.markup import escape
    from rich.table import Table

    from cmb_models.registry.provenance.reproduce import reproduce as run

    result = run(ref, folder, quiet=as_json)
    if as_json:
        print_json(result.as_dict())
    else:
        out = console()
        table = Table("", "registered", "reproduced", "", title=f"release {result.release} from commit {result.commit[:12]}")
        for column in table.columns:
            column.overflow = "fold"
        for row in result.rows:
            status = "same" if row.same else "[bold red]differs[/]"
            table.add_row(escape(row.what), escape(row.registered), escape(row.reproduced), status)
        out.print(table)
        for note in result.notes:
            out.print(escape(note))
        differing = sum(not r.same for r in result.rows)
        out.print(
            f"[bold]release {result.release}[/] "
            + (f"differs in {differing} of {len(result.rows)}" if differing else "was reproduced exactly")
        )
    if not result.same:
        raise typer.Exit(1)

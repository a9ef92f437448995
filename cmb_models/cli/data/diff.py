"""`cmb data diff`: subjects, scans and marks that differ between two versions of the data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmb_models.cli.terminal import AsJson, console, print_json, table

if TYPE_CHECKING:
    from cmb_models.dataset.versions.difference import Counts, Difference
    from cmb_models.dataset.versions.marks import MarkChange
    from cmb_models.dataset.versions.scans import ScanChange
    from cmb_models.dataset.versions.version import DataVersion

RELEASE = "release:"
VERSION_HELP = "A git revision, a release as `release:2`, `release:latest` or `release:production`, or the folder of a dataset."


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help=VERSION_HELP)],
    after: Annotated[
        str | None, typer.Argument(metavar="[B]", help="Likewise; the working tree if left out.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which subjects, scans and marks differ between two versions of the data.

    Earlier versions are read from DVC's cache, without checking them out.
    """
    from cmb_models.dataset.versions.difference import difference
    from cmb_models.workspace.versioning import workspace_around

    workspace = workspace_around(Path("."))
    first, second = (_version(ref, workspace) for ref in (before, after or ""))
    found = difference(first, second)
    if as_json:
        labels = {side: {"version": v.label, "commit": v.commit} for side, v in (("before", first), ("after", second))}
        print_json({"versions": labels, **found.as_dict()})
        return
    _print(first, second, found)


def _version(ref: str, workspace: Path | None) -> DataVersion:
    from cmb_models.dataset.versions.version import data_version, version_at

    if not ref.startswith(RELEASE):
        return data_version(ref, workspace)
    from cmb_models.registry.mlflow.store import open_registry
    from cmb_models.registry.provenance.lineage import read_lineage

    with open_registry() as registry:
        release = registry.resolve(ref.removeprefix(RELEASE))
        commit = read_lineage(registry, release)["git_commit"]
        return version_at(registry.workspace, commit, f"release {release.number}")


def _print(before: DataVersion, after: DataVersion, found: Difference) -> None:
    out = console()
    for version, counts in ((before, found.before), (after, found.after)):
        commit = f" ({version.commit[:12]})" if version.commit else ""
        out.print(f"{version.label}{commit}: {'; '.join(_counts(name, c) for name, c in counts.items())}", markup=False)
    rows = [*_names(found), *map(_scan, found.scans), *map(_mark, found.marks)]
    rows += [("empty reading", "/".join(filter(None, r.scan)), r.kind, r.rater or "-") for r in found.readings]
    rows += _files(found)
    out.print(table("", "name", "change", "", rows=rows) if rows else "no difference")
    for note in found.notes:
        out.print(note, style="yellow", markup=False)


def _counts(name: str, counts: Counts) -> str:
    return f"{name} has {counts.scans} scans of {counts.subjects} subjects, {counts.cmbs} microbleeds"


def _names(found: Difference) -> list[tuple[str, str, str, str]]:
    rows = [("dataset", name, kind, "") for kind, names in zip(("added", "removed"), found.datasets, strict=True) for name in names]
    changes = zip(("added", "removed"), found.subjects, strict=True)
    return rows + [("subject", "/".join(name), kind, "") for kind, names in changes for name in names]


def _scan(change: ScanChange) -> tuple[str, str, str, str]:
    was = f"was {change.before}" if change.kind == "renamed" else ""
    return "scan", str(change.after or change.before), change.kind, was


def _mark(change: MarkChange) -> tuple[str, str, str, str]:
    mark = change.before or change.after
    assert mark is not None
    details = f"{mark.label} at {', '.join(f'{v:.1f}' for v in mark.centre_mm)}"
    if "moved" in change.kinds:
        details += f", by {change.moved_mm:.1f} mm"
    if "relabelled" in change.kinds and change.after:
        details += f", now {change.after.label}"
    return "mark", "/".join(filter(None, change.scan)), ", ".join(change.kinds), details


def _files(found: Difference) -> list[tuple[str, str, str, str]]:
    """One row for the other files of each subject's or dataset's folder; JSON lists them all."""
    counts = Counter(("/".join(f.path.split("/")[:2]), f.kind) for f in found.files)
    return [("other files", folder, kind, str(n)) for (folder, kind), n in sorted(counts.items())]

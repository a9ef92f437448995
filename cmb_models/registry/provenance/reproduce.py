"""Training a release again from its commit and data, in a clone beside the workspace, and comparing what comes out.

The workspace is not touched: the clone has its own DVC cache, MLflow store and log of looks at the locked set.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import read_json, sha256_of
from cmb_models.records import flatten
from cmb_models.registry.mlflow.store import URI_VARIABLE, open_registry
from cmb_models.registry.provenance.lineage import lineage_faults, read_lineage
from cmb_models.release.bundle import LINEAGE_FILE, MANIFEST_FILE, METADATA_FILE, verify_manifest
from cmb_models.release.keys import KEY_VARIABLE
from cmb_models.workspace.paths import BUNDLE, ENVIRONMENT_LOCK

PRECISION_VARIABLE = "CMB_PRECISION"  # as in training/precision.py, whose import of torch other commands do without
STAGES = ("evaluate", "cross_validate")  # whose figures are compared
NO_FIGURE = ("locked_set",)  # counts the looks at the locked set, and this was another look
OWN_VARIABLES = (URI_VARIABLE, KEY_VARIABLE, "CMB_PUBLIC_KEY", "DVC_ROOT", "GIT_DIR", "GIT_WORK_TREE")  # not for the clone


@dataclass(frozen=True)
class Row:
    """One thing compared, in words."""

    what: str
    registered: str
    reproduced: str

    @property
    def same(self) -> bool:
        return self.registered == self.reproduced


@dataclass(frozen=True)
class Reproduction:
    """What came out. notes: what may explain a difference, or where the files were kept."""

    release: int
    commit: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        return all(row.same for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "same": self.same, "rows": [{**asdict(r), "same": r.same} for r in self.rows]}


def reproduce(ref: str, folder: Path | None = None, start: Path = Path("."), quiet: bool = False) -> Reproduction:
    """Clone the release's commit, pull its data, run every stage by force and compare bundle and figures.

    folder: for the clone, kept afterwards; a temporary one is removed. quiet: the stages' own words go to stderr. Raises InputError
    for a lineage that the repository contradicts, data that DVC does not have, and stages that fail.
    """
    if folder is not None and Path(folder).exists():
        raise InputError("folder-taken", folder, "a folder that is not there yet", "one that is", "name another, or remove it")
    with open_registry(start) as registry:
        release = registry.resolve(ref)
        lineage, workspace = read_lineage(registry, release), registry.workspace
        registered = read_json(registry.fetch(release).bundle_dir / METADATA_FILE)
    if faults := lineage_faults(workspace, lineage):
        raise InputError(
            "lineage-contradicted",
            f"release {release.number}",
            "a lineage to start from",
            "; ".join(faults),
            "restore what is missing",
        )
    with _place(folder) as clone:
        _check_out(workspace, clone, lineage["git_commit"])
        _pull(workspace, clone, sorted(lineage["data"]), quiet)
        precision = _precision(lineage)
        repeat = {PRECISION_VARIABLE: precision} if precision else {}
        _run(clone, quiet, "repro", "--force", "--no-run-cache", remedy="see the stage's own words above", more=repeat)
        rows = compare(lineage, registered, clone)
        notes = _notes(lineage, clone, folder is not None)
    return Reproduction(release.number, lineage["git_commit"], rows, notes)


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        Path(folder).mkdir(parents=True)
        yield Path(folder).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="cmb-reproduce-") as scratch:
        yield Path(scratch)


def _check_out(workspace: Path, clone: Path, commit: str) -> None:
    """The commit in a clone of its own, so that the workspace's branches and files stay as they are."""
    for command in (("clone", "-q", "--no-checkout", str(workspace), str(clone)), ("checkout", "-q", "--detach", commit)):
        cwd = workspace if command[0] == "clone" else clone
        done = subprocess.run(["git", *command], cwd=cwd, env=_environment(clone), text=True, capture_output=True, check=False)
        if done.returncode:
            raise InputError(
                "git-failed", commit, "a commit that can be cloned", " ".join(done.stderr.split())[-300:], "repair the repository"
            )


def _pull(workspace: Path, clone: Path, datasets: list[str], quiet: bool) -> None:
    """The datasets from the workspace's own DVC cache, else from the remote that the commit's DVC settings name."""
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], cwd=workspace, text=True, capture_output=True, check=False)
    cache = (workspace / (done.stdout.strip() or ".dvc/cache")).resolve()
    targets = [f"{path}.dvc" for path in datasets]
    remedy = "run `dvc fetch` in the workspace, or restore the data from a backup"
    _run(clone, True, "remote", "add", "--local", "--force", "workspace", str(cache), remedy=remedy)
    try:
        _run(clone, quiet, "pull", "-q", "-r", "workspace", *targets, remedy=remedy)
    except InputError:
        _run(clone, quiet, "pull", "-q", *targets, remedy=remedy)


def _run(clone: Path, quiet: bool, *arguments: str, remedy: str, more: Mapping[str, str] | None = None) -> None:
    """One DVC command in the clone, its output passed on (to stderr when quiet). more: environment variables besides."""
    command = [sys.executable, "-m", "dvc", *arguments]
    out = sys.stderr if quiet else None
    sys.stdout.flush()
    done = subprocess.run(command, cwd=clone, env=_environment(clone) | dict(more or {}), stdout=_stream(out), check=False)
    if done.returncode:
        raise InputError("dvc-failed", clone, f"`dvc {arguments[0]}` to succeed", f"exit code {done.returncode}", remedy)


def _stream(out) -> int | None:
    """A file descriptor for a child's output; None to inherit. Under a test's capture stderr has none."""
    try:
        return None if out is None else out.fileno()
    except (OSError, ValueError):
        return subprocess.DEVNULL


def _environment(clone: Path) -> dict[str, str]:
    """This interpreter, the clone's code, and no settings of the workspace: its runs must not land in the site's registry."""
    environment = {k: v for k, v in os.environ.items() if k not in OWN_VARIABLES}
    path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    return environment | {"PATH": path, "PYTHONPATH": str(clone), "DVC_NO_ANALYTICS": "true"}


def compare(lineage: Mapping[str, Any], registered: Mapping[str, Any], clone: Path) -> tuple[Row, ...]:
    """Manifest and files as they were exported, then every figure, of the release and of the clone's outputs."""
    bundle = clone / BUNDLE
    rows = [Row("exported manifest", _short(lineage["export_sha256"]), _short(verify_manifest(bundle)))]
    before, after = lineage["export_files"], read_json(bundle / MANIFEST_FILE)["files"]
    rows += [Row(name, _short(before.get(name, "")), _short(after.get(name, ""))) for name in sorted({*before, *after})]
    for stage in STAGES:
        old = _figures(registered.get("metrics", {}).get(stage, {}))
        new = _figures(read_json(clone / f"reports/{stage}/metrics.json"))
        rows += _figure_rows(stage, old, new)
    return tuple(rows)


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return flatten({k: v for k, v in metrics.items() if k not in NO_FIGURE})


def _figure_rows(stage: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Row]:
    """The plain figures one by one; those inside (intervals, strata) only where they differ, and else as a count."""
    names = sorted({*old, *new})
    plain = [n for n in names if "." not in n and not isinstance(old.get(n), list)]
    inside = [n for n in names if n not in plain]
    rows = [Row(f"{stage}: {n}", _said(old.get(n)), _said(new.get(n))) for n in plain]
    differing = [n for n in inside if old.get(n) != new.get(n)]
    rows += [Row(f"{stage}: {n}", _said(old.get(n)), _said(new.get(n))) for n in differing]
    if inside and not differing:
        rows.append(Row(f"{stage}: intervals, strata, …", f"{len(inside)} figures", f"{len(inside)} figures"))
    return rows


def _said(value: Any) -> str:
    """A figure with all its digits: a difference in the last one is a difference."""
    return "–" if value is None else repr(value) if isinstance(value, float) else str(value)


def _hardware(compute: Mapping[str, str]) -> str:
    return f"{compute['device']} ({compute['processor']}) in {compute['precision']}"


def _short(sha256: str) -> str:
    return sha256[:16] or "–"


def _precision(lineage: Mapping[str, Any]) -> str:
    """The precision to train in: the release's own, unless the user set one or this processor would have to emulate it; "" then."""
    from cmb_models.training.precision import BFLOAT16, best_device, native_bfloat16

    own = lineage.get("compute", {}).get("precision", "")
    if os.environ.get(PRECISION_VARIABLE) or best_device().type == "cuda":  # a device decides by what it is
        return ""
    return "" if own == BFLOAT16 and not native_bfloat16() else own


def _notes(lineage: Mapping[str, Any], clone: Path, kept: bool) -> tuple[str, ...]:
    notes = []
    before, now = lineage.get("compute"), read_json(clone / BUNDLE / LINEAGE_FILE).get("compute")
    if before and before != now:
        notes.append(f"trained on {_hardware(now)}, the release on {_hardware(before)}: weights differ by that")
    lock = clone / ENVIRONMENT_LOCK
    running = Path(__file__).resolve().parents[3] / ENVIRONMENT_LOCK
    if lock.is_file() and running.is_file() and sha256_of(lock) != sha256_of(running):
        notes.append(f"the packages in use are those of another {ENVIRONMENT_LOCK} than the release's: weights may differ for that")
    if kept:
        notes.append(f"kept in {clone}")
    return tuple(notes)

"""Reproduction of a release: retrain it from its commit and data in a clone, and compare the results.

The workspace is not touched: the clone has its own DVC cache, MLflow store and exposure log.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import exclusive, read_json, sha256_of
from cmb_models.records import flatten
from cmb_models.registry.mlflow.store import URI_VARIABLE, open_registry
from cmb_models.registry.provenance.lineage import lineage_faults, read_lineage
from cmb_models.release.bundle import LINEAGE_FILE, MANIFEST_FILE, METADATA_FILE, verify_manifest
from cmb_models.release.keys import KEY_VARIABLE
from cmb_models.workspace.dvc_cache import cache_dir
from cmb_models.workspace.paths import BUNDLE, ENVIRONMENT_LOCK
from cmb_models.workspace.recorded_data import require_recorded

PRECISION_VARIABLE = "CMB_PRECISION"  # as in training/precision.py, whose import of torch other commands do without
SCRATCH = "cmb-reproduce-"  # of a temporary folder's name
LOCK = ".lock"  # ends the name of the file next to it, whose lock says that the folder is in use
STAGES = ("evaluate", "cross_validate")  # whose metrics are compared
NOT_COMPARED = ("locked_set",)  # counts evaluations of the locked set, to which this one adds
WORKSPACE_VARIABLES = (URI_VARIABLE, KEY_VARIABLE, "CMB_PUBLIC_KEY", "DVC_ROOT", "GIT_DIR", "GIT_WORK_TREE")  # unset in the clone


@dataclass(frozen=True)
class Row:
    """One compared value, as text."""

    what: str
    registered: str
    reproduced: str

    @property
    def same(self) -> bool:
        return self.registered == self.reproduced


@dataclass(frozen=True)
class Reproduction:
    """The result of a reproduction. notes: possible reasons for a difference, and the folder of the files."""

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
    """Clone the release's commit, pull its data, force a run of every stage, and compare bundle and metrics.

    Args:
        ref: Release number, `latest` or alias.
        folder: For the clone, kept afterwards; a temporary one if None.
        start: A folder inside the workspace.
        quiet: Send the stages' output to stderr.

    Raises:
        InputError: For a lineage that the repository contradicts, data that DVC does not have, and stages that fail.
    """
    if folder is not None and Path(folder).exists():
        raise InputError("folder-taken", folder, "a folder that does not exist yet", "one that does", "name another, or remove it")
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
        _run(clone, quiet, "repro", "--force", "--no-run-cache", remedy="see the stage's output above", more=repeat)
        rows = compare(lineage, registered, clone)
        notes = _notes(lineage, clone, folder is not None)
    return Reproduction(release.number, lineage["git_commit"], rows, notes)


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    """The folder of the clone. A temporary one goes when this process is stopped, else with the next reproduction."""
    if folder is not None:
        Path(folder).mkdir(parents=True)
        yield Path(folder).resolve()
        return
    _remove_abandoned(Path(tempfile.gettempdir()))
    descriptor, name = tempfile.mkstemp(prefix=SCRATCH, suffix=LOCK)
    os.close(descriptor)
    scratch = Path(name).with_suffix("")
    # Locked before the folder exists: another reproduction would take it for an abandoned one.
    with exclusive(Path(name)):
        scratch.mkdir(mode=0o700)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            Path(name).unlink(missing_ok=True)


def _remove_abandoned(temporary: Path) -> None:
    """Remove the clones of reproductions that were killed: nobody holds their lock."""
    for scratch in [place for place in temporary.glob(f"{SCRATCH}*") if place.is_dir()]:
        lock = scratch.with_name(f"{scratch.name}{LOCK}")
        with suppress(OSError), exclusive(lock, wait=False):
            shutil.rmtree(scratch, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _check_out(workspace: Path, clone: Path, commit: str) -> None:
    """Check the commit out in a new clone."""
    for command in (("clone", "-q", "--no-checkout", str(workspace), str(clone)), ("checkout", "-q", "--detach", commit)):
        cwd = workspace if command[0] == "clone" else clone
        process = subprocess.run(["git", *command], cwd=cwd, env=_environment(clone), text=True, capture_output=True, check=False)
        if process.returncode:
            raise InputError(
                "git-failed",
                commit,
                "a commit that can be cloned",
                " ".join(process.stderr.split())[-300:],
                "repair the repository",
            )


def _pull(workspace: Path, clone: Path, datasets: list[str], quiet: bool) -> None:
    """Pull the datasets from the workspace's DVC cache, else from the remote of the commit's DVC settings.

    Raises InputError where neither has them whole. By default DVC does not verify what it pulls from a cache.
    """
    targets = [f"{path}.dvc" for path in datasets]
    remedy = "run `dvc fetch` in the workspace, or restore the data from a backup"
    _run(clone, True, "remote", "add", "--local", "--force", "workspace", str(cache_dir(workspace)), remedy=remedy)
    _run(clone, True, "remote", "modify", "--local", "workspace", "verify", "true", remedy=remedy)
    try:
        _run(clone, quiet, "pull", "-q", "-r", "workspace", *targets, remedy=remedy)
    except InputError:
        _run(clone, quiet, "pull", "-q", *targets, remedy=remedy)
    require_recorded(clone)


def _run(clone: Path, quiet: bool, *arguments: str, remedy: str, more: Mapping[str, str] | None = None) -> None:
    """Run a DVC command in the clone, its output passed on (to stderr if quiet). more: further environment variables."""
    command = [sys.executable, "-m", "dvc", *arguments]
    out = sys.stderr if quiet else None
    sys.stdout.flush()
    process = subprocess.Popen(
        command, cwd=clone, env=_environment(clone) | dict(more or {}), stdout=_stream(out), start_new_session=True
    )
    try:
        code = process.wait()
    except BaseException:  # this process is stopped: DVC's stages would continue in a folder that is removed
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if code:
        raise InputError("dvc-failed", clone, f"`dvc {arguments[0]}` to succeed", f"exit code {code}", remedy)


def _stream(out) -> int | None:
    """A file descriptor for a child's output; None to inherit. pytest's captured stderr has none."""
    try:
        return None if out is None else out.fileno()
    except (OSError, ValueError):
        return subprocess.DEVNULL


def _environment(clone: Path) -> dict[str, str]:
    """Variables for this interpreter and the clone's code, without the workspace's: runs must not reach the site's registry."""
    environment = {k: v for k, v in os.environ.items() if k not in WORKSPACE_VARIABLES}
    path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    return environment | {"PATH": path, "PYTHONPATH": str(clone), "DVC_NO_ANALYTICS": "true"}


def compare(lineage: Mapping[str, Any], registered: Mapping[str, Any], clone: Path) -> tuple[Row, ...]:
    """Compare the exported manifest and files, then every metric, of the release and of the clone."""
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
    return flatten({k: v for k, v in metrics.items() if k not in NOT_COMPARED})


def _figure_rows(stage: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Row]:
    """Scalar metrics one by one; nested ones (intervals, strata) only if they differ, else as a count."""
    names = sorted({*old, *new})
    plain = [n for n in names if "." not in n and not isinstance(old.get(n), list)]
    nested = [n for n in names if n not in plain]
    rows = [Row(f"{stage}: {n}", _text(old.get(n)), _text(new.get(n))) for n in plain]
    differing = [n for n in nested if old.get(n) != new.get(n)]
    rows += [Row(f"{stage}: {n}", _text(old.get(n)), _text(new.get(n))) for n in differing]
    if nested and not differing:
        rows.append(Row(f"{stage}: intervals, strata, …", f"{len(nested)} figures", f"{len(nested)} figures"))
    return rows


def _text(value: Any) -> str:
    """A value with all its digits."""
    return "–" if value is None else repr(value) if isinstance(value, float) else str(value)


def _hardware(compute: Mapping[str, str]) -> str:
    return f"{compute['device']} ({compute['processor']}) in {compute['precision']}"


def _short(sha256: str) -> str:
    return sha256[:16] or "–"


def _precision(lineage: Mapping[str, Any]) -> str:
    """The release's training precision; "" if the user set one or this processor lacks the instructions for it."""
    from cmb_models.training.precision import BFLOAT16, best_device, native_bfloat16

    precision = lineage.get("compute", {}).get("precision", "")
    if os.environ.get(PRECISION_VARIABLE) or best_device().type == "cuda":  # determined by the device
        return ""
    return "" if precision == BFLOAT16 and not native_bfloat16() else precision


def _notes(lineage: Mapping[str, Any], clone: Path, is_kept: bool) -> tuple[str, ...]:
    notes = []
    before, now = lineage.get("compute"), read_json(clone / BUNDLE / LINEAGE_FILE).get("compute")
    if before and before != now:
        notes.append(f"trained on {_hardware(now)}, the release on {_hardware(before)}: weights differ for that reason")
    lock = clone / ENVIRONMENT_LOCK
    running = Path(__file__).resolve().parents[3] / ENVIRONMENT_LOCK
    if lock.is_file() and running.is_file() and sha256_of(lock) != sha256_of(running):
        notes.append(
            f"the installed packages follow another {ENVIRONMENT_LOCK} than the release: weights may differ for that reason"
        )
    if is_kept:
        notes.append(f"kept in {clone}")
    return tuple(notes)

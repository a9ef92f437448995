"""A version of the data: the files and marks of each dataset, in a folder, the working tree or any commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cmb_models.dataset.layout import ANNOTATIONS, dataset_folders, is_dataset
from cmb_models.errors import InputError
from cmb_models.files import files_below
from cmb_models.io.annotations import Readings, read_readings
from cmb_models.workspace.dvc_cache import LISTING, cache_dir, cached, datasets_at, listing, md5_of
from cmb_models.workspace.paths import RAW
from cmb_models.workspace.versioning import git_lines, has_commit

WORKING_TREE = "working tree"


@dataclass(frozen=True)
class VersionedFile:
    """A file of a dataset. path: of its content; None if it is only listed. listed_md5: by DVC's listing; "" if not listed.

    md5: "" if it cannot be read.
    """

    path: Path | None
    listed_md5: str = ""

    @cached_property
    def md5(self) -> str:
        if self.listed_md5 or self.path is None:
            return self.listed_md5
        try:
            return md5_of(self.path)
        except OSError:  # a link to nothing, or without permission
            return ""


@dataclass(frozen=True)
class DatasetVersion:
    """files: by path in the dataset, without annotations.csv and hidden files."""

    name: str
    files: Mapping[str, VersionedFile]
    readings: Readings


@dataclass(frozen=True)
class DataVersion:
    """A version of the data. label: as the user named it; commit: "" outside of git; is_folder: whether it is a single dataset."""

    label: str
    datasets: Mapping[str, DatasetVersion]
    commit: str = ""
    is_folder: bool = False


def data_version(ref: str, workspace: Path | None) -> DataVersion:
    """The version that a git revision or the folder of a dataset names; "" names the working tree.

    Args:
        ref: A revision of the workspace, or a folder with annotations.csv. A revision takes precedence.
        workspace: The workspace; None outside of one.

    Raises:
        InputError: If it names neither, holds no dataset, its annotations cannot be read, or DVC's cache lacks its listings.
    """
    if not ref and workspace is not None:
        return working_tree(workspace)
    if ref and workspace is not None and has_commit(workspace, ref):
        return version_at(workspace, ref)
    if ref and (Path(ref) / ANNOTATIONS).is_file():
        return DataVersion(ref, {(found := _folder(Path(ref))).name: found}, is_folder=True)
    got = f"a folder without {ANNOTATIONS}" if ref and Path(ref).is_dir() else "neither"
    expected = "a git revision of this workspace, or the folder of a dataset"
    if workspace is None:
        expected, got = "the folder of a dataset", got if ref else "none, outside of a workspace"
    raise InputError("data-version", ref or WORKING_TREE, expected, got, "see `git log -- data/raw`")


def working_tree(workspace: Path) -> DataVersion:
    """The datasets in data/raw as they are now. Raises InputError if there is none, or annotations are missing or invalid."""
    folders = [folder for folder in dataset_folders(workspace / RAW) if is_dataset(folder)]
    if not folders:
        raise InputError("data-version", workspace / RAW, "datasets", "none", "run `dvc pull`, or `dvc checkout`")
    if absent := [folder.name for folder in folders if not (folder / ANNOTATIONS).is_file()]:
        expected, remedy = f"datasets with {ANNOTATIONS}", "bring it with `dvc checkout`, or add one with a header alone"
        raise InputError("dataset-layout", workspace / RAW, expected, f"none in {', '.join(absent)}", remedy)
    return DataVersion(WORKING_TREE, {f.name: _folder(f) for f in folders})


def version_at(workspace: Path, revision: str, label: str = "") -> DataVersion:
    """The datasets as a commit's .dvc files name them, from DVC's cache; scans that it lacks are listed without content.

    Raises:
        InputError: If the commit has no dataset, or the cache lacks listings or annotations; all are named.
    """
    commit = git_lines(workspace, "rev-parse", "--verify", f"{revision}^{{commit}}")[0]
    label = label or revision
    tracked = {path: md5 for path, md5 in datasets_at(workspace, commit).items() if md5.endswith(LISTING)}
    if not tracked:
        remedy = "name a commit after `dvc add`, or compare folders"
        raise InputError("data-version", label, f"datasets under DVC in {RAW}", f"none at {commit[:12]}", remedy)
    cache = cache_dir(workspace)
    found, missing = {}, []
    for path, md5 in sorted(tracked.items()):
        files = _cached_files(cache, md5)
        annotations = None if files is None else files.pop(ANNOTATIONS, VersionedFile(None))
        if files is None or annotations is None or annotations.path is None:
            what = "listing" if files is None else ANNOTATIONS
            missing.append(f"{what} of {path} ({md5 if annotations is None else annotations.listed_md5 or 'not in the listing'})")
        else:
            found[Path(path).name] = DatasetVersion(Path(path).name, files, _readings(annotations.path, f"{path} at {label}"))
    if missing:
        targets = " ".join(f"{path}.dvc" for path in sorted(tracked))
        remedy = f"fetch them from a remote with `dvc fetch --all-commits {targets}`"
        raise InputError(
            "data-missing", f"{label} ({commit[:12]})", f"its datasets in {cache}", f"no {', no '.join(missing)}", remedy
        )
    return DataVersion(label, found, commit)


def _cached_files(cache: Path, md5: str) -> dict[str, VersionedFile] | None:
    listed = listing(cache, md5)
    if listed is None:
        return None
    return {name: VersionedFile(cached(cache, md5), md5) for name, md5 in listed.items() if not _is_hidden(Path(name).parts)}


def _readings(file: Path, case: str) -> Readings:
    """The rows of a cached annotations.csv, whose own path says nothing to a reader."""
    try:
        return read_readings(file)
    except InputError as error:
        raise InputError(error.code, f"{ANNOTATIONS} of {case}", error.expected, error.got, error.remedy) from error


def _folder(folder: Path) -> DatasetVersion:
    files = {f.relative_to(folder).as_posix(): VersionedFile(f) for f in files_below(folder)}
    files.pop(ANNOTATIONS)
    return DatasetVersion(folder.resolve().name, files, read_readings(folder / ANNOTATIONS))


def _is_hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") for part in parts)

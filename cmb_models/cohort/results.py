"""Results of a cohort as partitioned Parquet: `scans/part-*.parquet` with a row per scan, `detections/part-*.parquet`.

A partition is finished once its part of `scans` exists, which is written last. request.json says what was asked, so that a folder
holds results of one manifest and one release. Every file is written whole or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmb_models import __version__
from cmb_models.cohort.drift import drift
from cmb_models.cohort.manifest import CohortScan
from cmb_models.dataset.statistics import BRIGHT, SPREAD, Reference
from cmb_models.detection import RESEARCH_USE
from cmb_models.errors import InputError, optional_packages
from cmb_models.files import atomic_write, read_json, remove_partial, write_json

if TYPE_CHECKING:
    import pyarrow

REQUEST, SUMMARY = "request.json", "summary.json"
SCANS, DETECTIONS = "scans", "detections"
INTENSITIES = ("median_intensity", "p99_intensity", SPREAD, BRIGHT)
BINS = 20  # of the histogram of scores


def require_writer() -> None:
    """Raise InputError if pyarrow is missing, before scans are processed whose results could not be written."""
    with optional_packages("cmb cohort", "cohort"):
        import pyarrow  # noqa: F401


def schemas() -> dict[str, pyarrow.Schema]:
    """Columns of both tables. Positions in scanner RAS mm; scores in [0, 1]; an error has a code and no scores."""
    import pyarrow as pa

    text, real, whole = pa.string(), pa.float64(), pa.int64()
    scan = [("number", whole), ("name", text), ("file", text), ("code", text), ("error", text), ("detections", whole)]
    scan += [("candidates", whole), ("best_score", real), ("input_sha256", text), ("server", text), ("seconds", real)]
    scan += [(f"shape_{axis}", whole) for axis in "ijk"] + [(f"spacing_{axis}_mm", real) for axis in "ijk"]
    scan += [(name, real) for name in INTENSITIES]
    found = [("number", whole), ("name", text), *((f"{axis}_mm", real) for axis in "xyz"), *((axis, whole) for axis in "ijk")]
    found += [("diameter_mm", real), ("score", real), ("stage1_score", real), ("stage2_score", real)]
    return {SCANS: pa.schema(scan), DETECTIONS: pa.schema(found)}


def open_results(folder: Path, manifest_sha256: str, release: str, threshold: float | None, partition: int) -> None:
    """Make `folder` the results of this request, or find that it is. The caller has claimed the folder (files.claimed).

    Args:
        folder: Folder to write to, empty but for hidden files or of an earlier run; what a killed one left half written is removed.
        manifest_sha256: Of the list of scans (listing.Cohort).
        release: SHA-256 of the release's manifest.
        threshold: Lowest score to keep; None for the release's.
        partition: Scans in a part.

    Raises:
        InputError: If it holds something else, or cannot be written to.
    """
    request = {
        "manifest": manifest_sha256,
        "release": release,
        "threshold": threshold,
        "partition": partition,
        "software": f"cmb-models {__version__}",
        "note": RESEARCH_USE,
    }
    remedy = "write to another folder"
    if (folder / REQUEST).is_file():
        found = read_json(folder / REQUEST)
        if differing := [key for key in request if found.get(key) != request[key]]:
            expected = ", ".join(f"{key} {found.get(key)}" for key in differing)
            raise InputError("folder-taken", folder, expected, ", ".join(f"{key} {request[key]}" for key in differing), remedy)
        for place in (folder, folder / SCANS, folder / DETECTIONS):
            remove_partial(place, "*")
        return
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise InputError("folder-taken", folder, "an empty folder or results of the same request", "other files", remedy)
    write_json(folder / REQUEST, request)


def pinned_release(folder: Path) -> str | None:
    """The release of the results in a folder; None for a new one."""
    return read_json(folder / REQUEST)["release"] if (folder / REQUEST).is_file() else None


def partitions(scans: Sequence[CohortScan], size: int) -> list[Sequence[CohortScan]]:
    """The scans in parts of `size`, the last one may be smaller."""
    return [scans[n : n + size] for n in range(0, len(scans), size)]


def is_finished(folder: Path, part: int) -> bool:
    """Whether a partition, counted from 0, is there."""
    return _file(folder, SCANS, part).is_file()


def write_partition(folder: Path, part: int, scans: Sequence[dict[str, Any]], detections: Sequence[dict[str, Any]]) -> None:
    """Write both tables of a partition, that of the scans last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for table, rows in ((DETECTIONS, detections), (SCANS, scans)):
        with atomic_write(_file(folder, table, part)) as temporary:
            pq.write_table(pa.Table.from_pylist(list(rows), schema=schemas()[table]), temporary)


def read_table(folder: Path, table: str, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """SCANS or DETECTIONS of all finished partitions, in the order of the manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [
        pq.read_table(file, columns=None if columns is None else list(columns))
        for file in sorted((folder / table).glob("part-*.parquet"))
        if (folder / SCANS / file.name).is_file()
    ]
    schema = schemas()[table]
    return pa.concat_tables(parts) if parts else pa.Table.from_pylist([], schema=schema)


def write_summary(folder: Path, training: Mapping[str, Reference] | None = None) -> dict[str, Any]:
    """Counts and distributions over all finished partitions; written to summary.json and returned.

    training: of the release's training data, to compare the scans with; None to compare with nothing.
    """
    import numpy as np
    import pyarrow.compute as pc

    columns = (*(f"spacing_{axis}_mm" for axis in "ijk"), *INTENSITIES, "best_score", "seconds")
    scans = read_table(folder, SCANS, ["code", "error", "detections", *columns])
    scores = np.asarray(read_table(folder, DETECTIONS, ["score"])["score"].to_numpy(), dtype=float)
    is_processed = pc.and_(pc.equal(scans["code"], ""), pc.equal(scans["error"], ""))
    rejected, processed = scans.filter(pc.invert(is_processed)), scans.filter(is_processed).to_pydict()
    summary: dict[str, Any] = {
        "scans": len(scans),
        "processed": len(scans) - len(rejected),
        "rejected": Counter(code or "server-failed" for code in rejected["code"].to_pylist()),
        "detections": len(scores),
        "scans_with_detections": sum(map(bool, processed["detections"])),
        "scores": np.histogram(scores, bins=BINS, range=(0, 1))[0].tolist(),
        "quantiles": {name: _quantiles(processed[name]) for name in columns},
    }
    if training is not None:
        summary["drift"] = drift(processed, training, read_json(folder / REQUEST)["threshold"])
    write_json(folder / SUMMARY, summary)
    return summary


def _quantiles(values: Sequence[float | None]) -> list[float] | None:
    """5th, 50th and 95th percentile; None without values."""
    import numpy as np

    known = [v for v in values if v is not None]
    return [float(q) for q in np.percentile(known, (5, 50, 95))] if known else None


def _file(folder: Path, table: str, part: int) -> Path:
    return folder / table / f"part-{part + 1:06d}.parquet"

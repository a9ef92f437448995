"""A cohort run: scans are read and sent by threads, a bounded number at a time, and written partition by partition."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_models.cohort.manifest import CohortScan, kind_of
from cmb_models.cohort.reading import read_images
from cmb_models.cohort.results import is_finished, partitions, write_partition
from cmb_models.cohort.servers import Servers
from cmb_models.dataset.statistics import intensities
from cmb_models.detection import Detection
from cmb_models.errors import InputError
from cmb_models.io.scan_id import scan_sha256
from cmb_models.volume import Volume

READ_AHEAD = 2  # scans read beyond those that servers work on
OF_THE_RUN = ("server-unreachable", "storage-unreachable", "disk-full")  # codes of faults that are no scan's


@dataclass(frozen=True)
class Row:
    """What became of a scan: its row, and those of its detections."""

    scan: dict[str, Any]
    detections: list[dict[str, Any]]


def run_cohort(
    scans: Sequence[CohortScan],
    servers: Servers,
    folder: Path,
    partition: int,
    threshold: float | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Process all scans whose partition is not finished, and write the partitions.

    Memory holds at most the scans that servers work on and READ_AHEAD more, whatever the number of scans.

    Args:
        scans: Of the whole manifest.
        servers: What detects.
        folder: Of the results (results.open_results).
        partition: Scans in a part.
        threshold: Lowest score of a detection to keep; None for the release's.
        done: Called with the number of scans that are finished, those of earlier runs at first.

    Raises:
        InputError: If no server is left, object storage cannot be reached, or there is no room for DICOM series or objects;
            finished partitions are kept.
    """
    parts = partitions(scans, partition)
    todo = [n for n in range(len(parts)) if not is_finished(folder, n)]
    done(len(scans) - sum(len(parts[n]) for n in todo))
    rows: dict[int, list[Row]] = {n: [] for n in todo}
    most, read = servers.slots + READ_AHEAD, deque[Path](maxlen=1)
    with ThreadPoolExecutor(most) as pool:
        waiting: dict[Future[Row], int] = {}
        try:
            for part, scan in _in_order(parts, todo):
                while len(waiting) >= most:
                    _collect(waiting, rows, parts, folder, done)
                waiting[pool.submit(look_through, scan, servers, threshold, read)] = part
            while waiting:
                _collect(waiting, rows, parts, folder, done)
        except BaseException:
            servers.end()
            for future in waiting:
                future.cancel()
            raise


def look_through(scan: CohortScan, servers: Servers, threshold: float | None, read: deque[Path]) -> Row:
    """Detect in one scan. A scan that is rejected, or on which servers fail, is a row with an error.

    read: the file or folder that was read last, in any thread.

    Raises InputError if no server is left, storage is gone, or there is no room to convert DICOM series.
    """
    row: dict[str, Any] = {"number": scan.number, "name": scan.name, "file": str(scan.path), "code": "", "error": ""}
    started = time.monotonic()
    try:
        volume, phase = read_images(scan, servers.requires_phase)
        if isinstance(scan.path, Path):
            read.append(scan.path)
        row |= _about(volume)
        answer, server = servers.detect(volume, phase, scan.name)
    except InputError as error:
        if error.code in OF_THE_RUN:
            raise
        _require_storage(scan, read)
        return Row(row | {"code": error.code, "error": str(error)}, [])
    except (RuntimeError, MemoryError) as error:  # servers failed on this scan, or there is no room for it
        return Row(row | {"error": str(error) or type(error).__name__}, [])
    found = answer.above(answer.threshold if threshold is None else threshold)
    row |= {"detections": len(found), "candidates": len(answer.candidates), "server": server}
    row |= {"best_score": max((c.score for c in answer.candidates), default=None), "seconds": time.monotonic() - started}
    return Row(row, [_detection_row(scan, d, volume.in_scanner) for d in found])


def _require_storage(scan: CohortScan, read: deque[Path]) -> None:
    """Raise InputError if a scan is not there and the one that was read before is gone too: all were, when they were listed."""
    if isinstance(scan.path, Path) and not kind_of(scan.path) and not any(map(kind_of, list(read))):
        remedy = "mount the storage and run the same command again: finished partitions are kept"
        raise InputError("storage-unreachable", scan.path, "the file or folder that was listed", "none, nor the one before", remedy)


def _in_order(parts: Sequence[Sequence[CohortScan]], todo: Sequence[int]) -> Iterator[tuple[int, CohortScan]]:
    for part in todo:
        for scan in parts[part]:
            yield part, scan


def _collect(
    waiting: dict[Future[Row], int],
    rows: dict[int, list[Row]],
    parts: Sequence[Sequence[CohortScan]],
    folder: Path,
    done: Callable[[int], None],
) -> None:
    """Take what is ready, and write the partitions that are whole."""
    ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in ready:
        part = waiting.pop(future)
        rows[part].append(future.result())
        done(1)
        if len(rows[part]) == len(parts[part]):
            whole = sorted(rows.pop(part), key=lambda r: r.scan["number"])
            write_partition(folder, part, [r.scan for r in whole], [d for r in whole for d in r.detections])


def _about(volume: Volume) -> dict[str, Any]:
    """Identity, geometry and intensities of a scan, to compare cohorts by."""
    about: dict[str, Any] = {"input_sha256": scan_sha256(volume)} | intensities(volume)
    about |= {f"shape_{axis}": n for axis, n in zip("ijk", volume.data.shape, strict=True)}
    return about | {f"spacing_{axis}_mm": float(s) for axis, s in zip("ijk", volume.spacing_mm, strict=True)}


def _detection_row(scan: CohortScan, d: Detection, in_scanner: bool) -> dict[str, Any]:
    place = d.position_mm if in_scanner else (None, None, None)
    row: dict[str, Any] = {"number": scan.number, "name": scan.name}
    row |= {f"{axis}_mm": v for axis, v in zip("xyz", place, strict=True)} | dict(zip("ijk", d.index, strict=True))
    return row | {"diameter_mm": d.diameter_mm, "score": d.score, "stage1_score": d.stage1_score, "stage2_score": d.stage2_score}

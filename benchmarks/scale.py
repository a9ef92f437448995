"""Many scans and many workers on this machine: `make bench-scale`, or some parts only, ARGS="cohort reading".

Each part is written to benchmarks/results/scale.json as soon as it is measured; earlier results of other parts stay. A busy machine
makes absolute times longer: what is compared takes turns, and the load when a part started is recorded.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.console import Console

from benchmarks.serving.scans import LARGE, resized
from benchmarks.training_processors import environment
from benchmarks.training_speed import recipe, write_scans
from cmb_models.base_release import BUNDLE, FOLDER
from cmb_models.cohort.results import DETECTIONS, SCANS, is_finished, read_table
from cmb_models.files import read_json, write_json
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.io.scan_id import scan_sha256
from cmb_models.machine import cores
from cmb_models.release.bundle import GOLDEN_ANSWER, GOLDEN_SCAN, PIPELINE_FILE, BundleDetector, load_bundle, write_manifest
from cmb_models.release.signing import SIGNATURE_FILE
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import Server, running_server
from cmb_models.training.precision import FLOAT32
from cmb_models.training.precision import VARIABLE as PRECISION
from cmb_models.training.validation.jobs import UnetJob, run_unet_job
from cmb_models.training.validation.scheduler import DaskWorkers, connect
from cmb_models.training.validation.workers import Workers
from cmb_models.volume import Volume

ROOT = Path(__file__).resolve().parent.parent
GOALS = {  # key: (goal, whether less is better, what it is)
    "dask_overhead": (1.10, True, "trainings on Dask workers compared with the process pool, ratio of times"),
    "cohort_missing": (0, True, "scans without a row after kills"),
    "cohort_twice": (0, True, "scans with two rows after kills"),
    "cohort_memory_ratio": (1.1, True, "peak memory of a cohort run, all scans compared with a tenth of them, ratio"),
    "server_busy": (0.9, False, "share of a cohort run in which a server had a request under way"),
}
TRAINING_SHAPE = (96, 96, 48)
COHORT_SHAPE = (64, 64, 24)
# The classifier takes nine tenths of a small scan's time at the base release's 60 candidates: 1,000 scans would take half an hour.
CANDIDATES = 6
SOME_REJECTED = 1  # exit code of `cmb cohort`
# `cmb`, which leaves its memory's peak in the file that its first argument names.
CMB = (
    "import atexit, pathlib, sys; file = pathlib.Path(sys.argv.pop(1));"
    "atexit.register(lambda: file.write_text(pathlib.Path('/proc/self/status').read_text()));"
    "from cmb_models.cli import main; main()"
)


@dataclass(frozen=True)
class Size:
    """How much is measured. steps: of a training. few: scans of the smaller cohort."""

    rounds: int = 24
    jobs: int = 2
    steps: int = 6
    scans: int = 1000
    few: int = 100
    partition: int = 20


def dask_overhead(size: Size, folder: Path) -> dict:
    """The same trainings by the local pool and by Dask workers of this machine, as many processes of one thread each, by turns.

    Both are running when the clock starts: the pool's start, some seconds in each stage, which Dask does not need, is not counted.
    Processor time is that of all processes, by which other work on the machine matters less than by the clock.
    """
    write_scans(folder / "prepared", 3, TRAINING_SHAPE)
    training, held_out, count = frozenset({"s_000", "s_001"}), frozenset({"s_002"}), cores()
    config = load_bundle(FOLDER / BUNDLE).config
    jobs = [UnetJob(folder / "prepared", training, held_out, recipe(size.steps), config, seed) for seed in range(size.jobs)]
    # One format for both: each would choose the faster one by a measurement of its own.
    with (
        environment({PRECISION: FLOAT32}),
        dask_workers(folder, count) as address,
        DaskWorkers(address) as dask,
        Workers(count) as pool,
    ):
        ways: dict[str, Workers | DaskWorkers] = {"dask": dask, "pool": pool}
        clock, processor = ({name: [] for name in ways} for _ in range(2))
        for n in range(size.rounds + 1):
            scores = {}
            for name in sorted(ways, reverse=bool(n % 2)):
                used, start = processor_s(), time.perf_counter()
                scores[name] = [found.stage1_score for (found,) in ways[name].map(run_unet_job, jobs, len(jobs) * size.steps, name)]
                if n:  # the first round warms up
                    clock[name].append(time.perf_counter() - start)
                    processor[name].append(processor_s() - used)
            assert all(map(np.array_equal, scores["dask"], scores["pool"])), "the workers of the pool and of Dask differ"
    ratios = np.divide(clock["dask"], clock["pool"])
    return {
        "processes": count,
        "jobs": size.jobs,
        "steps": size.steps,
        "seconds": clock,
        "processor_s": processor,
        "ratio": float(np.median(clock["dask"]) / np.median(clock["pool"])),
        "range": [float(ratios.min()), float(ratios.max())],
        "processor_ratio": float(np.median(processor["dask"]) / np.median(processor["pool"])),
    }


def processor_s() -> float:
    """Processor time of this process and all that descend from it and still run, s."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (me, *me.children(recursive=True)))


@contextlib.contextmanager
def dask_workers(folder: Path, count: int) -> Iterator[str]:
    """The address of a Dask scheduler on loopback with `count` workers of one thread; all end with the context."""
    file = folder / "scheduler.json"
    at = ("--scheduler-file", str(file), "--no-dashboard")
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", "0")
    worker = ("worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(folder))
    processes = []
    try:
        for number, command in enumerate([scheduler, *[worker] * count]):
            with (folder / f"dask-{number}.log").open("wb") as log:
                processes.append(subprocess.Popen([sys.executable, "-m", "dask", *command, *at], stdout=log, stderr=log))
            wait_until(file.is_file, processes[0])
        address = read_json(file)["address"]
        client = connect(address)
        client.wait_for_workers(count, timeout=60)
        client.close()
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen, limit_s: float = 3600) -> None:
    """Wait for something that a process is going to do. Raises RuntimeError if it ends before, or takes longer than `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args} ended, or took too long")
        time.sleep(0.02)


def reading(size: Size, folder: Path) -> dict:
    """What a reader does for each scan of 512×448×80: read and check the file, and hash its voxels. Wall and processor seconds.

    The scan is the base release's golden scan, interpolated and therefore smoother and better compressed than a scanner's.
    """
    scan = resized(read_volume(FOLDER / BUNDLE / GOLDEN_SCAN).to_ras(), LARGE)
    row: dict = {"shape": list(LARGE), "stored": "int16", "sent_bytes": scan.data.nbytes}
    for name, ending in (("compressed", ".nii.gz"), ("uncompressed", ".nii")):
        path = folder / f"scan{ending}"
        write_volume(path, scan, np.int16)
        times = []
        for _ in range(max(1, size.rounds // 4) + 1):
            wall, used = time.perf_counter(), time.process_time()
            scan_sha256(read_volume(path, needs_place=False))
            times.append((time.perf_counter() - wall, time.process_time() - used))
        wall_s, cpu_s = np.median(times[1:], axis=0)
        row[name] = {"bytes": path.stat().st_size, "seconds": float(wall_s), "cpu_s": float(cpu_s)}
    return row


def cohort(size: Size, folder: Path) -> dict:
    """`cmb cohort` with two servers of two slots: undisturbed with few and with all scans, then all of them with kills."""
    manifests = {count: write_cohort(folder / "scans", count) for count in (size.scans, size.few)}
    bundle = lighter_release(folder / "bundle")
    with two_servers(folder, bundle) as servers:
        few, whole = (undisturbed(folder / f"whole-{n}", manifests[n], servers, size) for n in (size.few, size.scans))
        disturbed = with_kills(folder / "disturbed", manifests[size.scans], servers, bundle, size)
    return {
        "release": load_bundle(bundle).manifest_sha256,
        "what": f"the base release with at most {CANDIDATES} candidates per scan; crops of its golden scan with noise",
        "shape": list(COHORT_SHAPE),
        "servers": len(servers),
        "few": few,
        "whole": whole,
        "memory_ratio": whole["peak_mb"] / few["peak_mb"],
        "disturbed": disturbed,
    }


def write_cohort(folder: Path, count: int) -> Path:
    """A manifest of `count` small scans, each another crop of the base release's golden scan, with noise."""
    head = read_volume(FOLDER / BUNDLE / GOLDEN_SCAN).to_ras()
    folder.mkdir(exist_ok=True)
    names = [f"scan-{number:04d}.nii.gz" for number in range(count)]
    for number, name in enumerate(names):
        if not (folder / name).is_file():
            rng = np.random.default_rng(number)
            corner = rng.integers(0, np.subtract(head.data.shape, COHORT_SHAPE) + 1)
            crop = head.data[tuple(slice(a, a + n) for a, n in zip(corner, COHORT_SHAPE, strict=True))]
            noisy = np.abs(crop + rng.normal(0, 0.01 * head.data.max(), crop.shape)).astype(np.float32)
            write_volume(folder / name, Volume(noisy, head.affine), np.int16)
    manifest = folder / f"{count}.csv"
    with manifest.open("w", newline="") as stream:
        csv.writer(stream).writerows([["scan"], *([name] for name in names)])
    return manifest


def lighter_release(folder: Path) -> Path:
    """The base release with at most CANDIDATES candidates per scan, and the golden answer that belongs to it, unsigned."""
    shutil.copytree(FOLDER / BUNDLE, folder)
    (folder / SIGNATURE_FILE).unlink()
    pipeline = read_json(folder / PIPELINE_FILE)
    pipeline["candidates"]["max_per_scan"] = CANDIDATES
    write_json(folder / PIPELINE_FILE, pipeline)
    write_manifest(folder)
    answer = BundleDetector(folder).detect(folder / GOLDEN_SCAN)
    rows = [[*d.position_mm, d.score] for d in answer.candidates]
    write_json(folder / GOLDEN_ANSWER, {"candidates": rows, "threshold": answer.threshold})
    write_manifest(folder)
    return folder


@contextlib.contextmanager
def two_servers(folder: Path, bundle: Path) -> Iterator[list[Server]]:
    """Two servers of a release, each with a folder of its own; one that is killed starts again with nothing loaded."""
    with contextlib.ExitStack() as stack:
        servers = []
        for name in "ab":
            server = stack.enter_context(running_server(folder / name / "repository"))
            deploy_bundle(bundle, 1, folder / name / "repository", server.grpc_url)
            server.keep()
            servers.append(server)
        yield servers


def start_client(into: Path, manifest: Path, servers: Sequence[Server], size: Size) -> subprocess.Popen:
    """`cmb cohort` in the background; its memory's peak goes to the file next to `into`."""
    addresses = [word for server in servers for word in ("--server", server.grpc_url)]
    command = ["cohort", str(manifest), "--into", str(into), "--partition", str(size.partition), *addresses]
    with into.with_suffix(".log").open("ab") as log:
        client = [sys.executable, "-c", CMB, str(into.with_suffix(".status")), *command]
        return subprocess.Popen(client, cwd=ROOT, stdout=log, stderr=log)


def undisturbed(into: Path, manifest: Path, servers: Sequence[Server], size: Size) -> dict:
    """A run from start to exit. A few crops without air are rejected."""
    began = time.time()
    if start_client(into, manifest, servers, size).wait() > SOME_REJECTED:
        raise RuntimeError(into.with_suffix(".log").read_text())
    ended = time.time()
    parts = [f.stat().st_size for f in into.glob("*/part-*.parquet")]
    codes = read_table(into, SCANS, ["code"])["code"].to_pylist()
    scans = len(codes)
    return {
        "scans": scans,
        "rejected": sum(map(bool, codes)),
        "seconds": ended - began,
        "peak_mb": peak_mb(into.with_suffix(".status").read_text()),
        "server_busy": busy_share(servers, began, ended),
        "parquet_bytes_per_scan": sum(parts) / scans,
        "detections_per_scan": read_table(into, DETECTIONS).num_rows / scans,
    }


def peak_mb(status: str) -> float:
    """The peak resident memory in the text of /proc/PID/status, MB. Not ru_maxrss: that of a child begins with its parent's."""
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024 / 1e6


def busy_share(servers: Sequence[Server], began: float, ended: float) -> float:
    """Share of the time from `began` to `ended` (Unix seconds) in which a server had a request under way, mean over the servers.

    From the request log, where a line has the time of a request's end and its seconds since it reached the first step; sending and
    queueing before that count as idle, and so do start and end of the client.
    """
    shares = []
    for server in servers:
        busy, until = 0.0, began
        for start, end in sorted(requests(server, began)):
            busy += max(0.0, min(end, ended) - max(start, until))
            until = max(until, end)
        shares.append(busy / (ended - began))
    return float(np.mean(shares))


def requests(server: Server, began: float) -> list[tuple[float, float]]:
    """Start and end, Unix seconds, of all requests that a server answered since `began`, by its request log."""
    rows = [json.loads(line) for line in server.log.with_name("requests.jsonl").read_text().splitlines()]
    ends = [(datetime.fromisoformat(row["time"]).timestamp(), row["total_s"]) for row in rows if row["role"] == "production"]
    return [(end - seconds, end) for end, seconds in ends if end >= began]


def with_kills(into: Path, manifest: Path, servers: Sequence[Server], bundle: Path, size: Size) -> dict:
    """A run whose client is killed and started again after a quarter of the partitions, and a server of which at half of them."""
    total, began = -(-size.scans // size.partition), time.time()

    def finished() -> int:
        return sum(is_finished(into, n) for n in range(total))

    client = start_client(into, manifest, servers, size)
    wait_until(lambda: finished() >= total // 4, client)
    client.kill()
    client.wait()
    kept = {file: file.read_bytes() for file in into.glob(f"{SCANS}/part-*.parquet")}
    client = start_client(into, manifest, servers, size)
    wait_until(lambda: finished() >= max(total // 2, len(kept) + 1), client)
    os.kill(servers[1].pid, signal.SIGKILL)
    wait_until(lambda: bool(servers[1].restarted_pids()), client)
    deployed = deploy_again(servers[1], bundle, into.parent / "b/repository")
    if client.wait() > SOME_REJECTED:
        raise RuntimeError(into.with_suffix(".log").read_text())
    table = read_table(into, SCANS, ["number", "code", "error", "server"]).to_pydict()
    rows = Counter(table["number"])
    return {
        "scans": size.scans,
        "seconds": time.time() - began,
        "rows": sum(rows.values()),
        "missing": len(set(range(size.scans)) - rows.keys()),
        "twice": sum(count > 1 for count in rows.values()),
        "with_error": sum(bool(code or error) for code, error in zip(table["code"], table["error"], strict=True)),
        "kept_parts": len(kept),
        "kept_parts_changed": sum(file.read_bytes() != content for file, content in kept.items()),
        "answers": sum(len(requests(server, began)) for server in servers),
        "by_killed_server_after": sum(start > deployed for start, _ in requests(servers[1], began)),
    }


def deploy_again(server: Server, bundle: Path, repository: Path) -> float:
    """Deploy to a server that just restarted, as soon as it answers; the time when it was done."""
    for _ in range(300):
        with contextlib.suppress(Exception):
            deploy_bundle(bundle, 1, repository, server.grpc_url)
            return time.time()
        time.sleep(0.2)
    raise RuntimeError(f"{server.grpc_url} did not take the release again; see {server.log}")


PARTS: dict[str, Callable[[Size, Path], dict]] = {"reading": reading, "dask_overhead": dask_overhead, "cohort": cohort}


def goals(found: dict) -> dict[str, float]:
    """The figures that GOALS asks for, of the parts that were measured."""
    values = {"dask_overhead": found["dask_overhead"]["ratio"]} if "dask_overhead" in found else {}
    if "cohort" in found:
        run = found["cohort"]
        values |= {f"cohort_{key}": run["disturbed"][key] for key in ("missing", "twice")}
        values |= {"cohort_memory_ratio": run["memory_ratio"], "server_busy": run["whole"]["server_busy"]}
    return values


def measure(parts: Sequence[str], size: Size, file: Path) -> dict:
    """Measure some parts, each written to `file` when it is done, next to what the file has of the others; all of the file."""
    found = read_json(file) if file.is_file() else {}
    for part in parts:
        machine = {"cores": cores(), "processor": platform.processor() or platform.machine(), "load": os.getloadavg()[0]}
        with tempfile.TemporaryDirectory() as folder:
            found[part] = PARTS[part](size, Path(folder)) | {"machine": machine}
        found["goals"] = goals(found)
        write_json(file, found)
    return found


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(PARTS)}; all if none is named.")] = None,
    scans: Annotated[int, typer.Option(min=20, help="Scans of the cohort; the smaller one has a tenth.")] = 1000,
    out: Annotated[Path, typer.Option(help="Where scale.json goes.")] = ROOT / "benchmarks/results",
) -> None:
    """Measure what grows with scans and workers."""
    if unknown := set(parts or ()) - PARTS.keys():
        raise typer.BadParameter(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    found = measure(parts or list(PARTS), Size(scans=scans, few=max(1, scans // 10)), out / "scale.json")
    console = Console()
    for key, value in found["goals"].items():
        goal, less, what = GOALS[key]
        met = value <= goal if less else value >= goal
        console.print(f"{what}: {value:.3g} ({'≤' if less else '≥'} {goal:g}{'' if met else ', missed'})")


if __name__ == "__main__":
    typer.run(main)

"""A release on a CUDA device compared with the CPU, in one run: `make gpu-check`. Needs no network and no workspace.

Each part has a deadline of its own; a part that fails or is stopped keeps what it had measured, and the others run. The JSON file
is written after each. `--device cpu` runs the same code without a GPU, which tests it. gpu_kit.py brings what a bare machine lacks.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.gpu_full_run import full_run
from benchmarks.serving import live
from benchmarks.serving.scans import LARGE, SMALL, SPACING_MM
from benchmarks.training_processors import environment
from cmb_models.arrays import Arrays
from cmb_models.base_release import BUNDLE, FOLDER
from cmb_models.client.contract import DETECTOR
from cmb_models.client.grpc import Client
from cmb_models.detect.detector import propose
from cmb_models.detect.preprocess import prepare
from cmb_models.detection import DetectionResult
from cmb_models.files import read_json, write_json
from cmb_models.io.nifti import read_volume
from cmb_models.machine import cores
from cmb_models.release.bundle import (
    GOLDEN_ANSWER,
    GOLDEN_SCAN,
    PIPELINE_FILE,
    UNET_FILE,
    BundleDetector,
    load_bundle,
    open_networks,
    write_manifest,
)
from cmb_models.runtime.device import VARIABLE, open_arrays
from cmb_models.serving.check.scans import head
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.deploy.golden import run_golden
from cmb_models.serving.run.devices import step_devices
from cmb_models.serving.run.triton_process import running_server
from cmb_models.volume import Volume

ROOT = Path(__file__).parents[1]
BASE_BUNDLE = FOLDER / BUNDLE
CLIENTS = (1, 4, 16)
SCANS = 30  # synthetic heads on which both devices' answers are compared
PARITY_SHAPE = (128, 128, 48)
# The longest that each part may take, in s; the full run has what is left. On an H200 all are expected to end well before.
LIMITS_S = {"open": 60, "parity": 60, "in_process": 45, "parts": 40, "server": 100, "server_cpu": 60, "training": 30}
LEAST_S = 5.0
RESTART_S = 30.0  # to be left of a server's part for the restart
Row = dict[str, Any]


class TimeOver(BaseException):
    """A part's deadline; no Exception, so that nothing on the way takes it for an error of its own."""


def main(
    bundle: Annotated[Path, typer.Option(help="The release to run.")] = BASE_BUNDLE,
    device: Annotated[str, typer.Option(help="cuda, or cpu to test this script.")] = "cuda",
    minutes: Annotated[float, typer.Option(min=0.1, help="For everything.")] = 8.0,
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything timed takes its turn.")] = 5,
    scans: Annotated[int, typer.Option(min=1, help="Scans on which the devices are compared.")] = SCANS,
    full_run_minutes: Annotated[
        float | None, typer.Option(min=0, help="For the training of a site (default: what is left); 0: none.")
    ] = None,
    full_run_scale: Annotated[float, typer.Option(min=0, max=1, help="Factor on its steps and trials, to test it.")] = 1.0,
    out: Annotated[Path, typer.Option(help="The JSON file to write.")] = Path("reports/benchmarks/gpu.json"),
) -> None:
    """Compare a release on a CUDA device with the CPU: answers, latency, throughput, memory, restart, training."""
    deadline = time.monotonic() + 60 * minutes
    found: Row = {"machine": machine(), "device": device, "release": load_bundle(bundle).manifest_sha256}
    volumes = {name: head(shape, SPACING_MM[shape]).volume for name, shape in (("small", SMALL), ("large", LARGE))}
    detectors: dict[str, BundleDetector] = {}

    def save() -> None:
        found["goals"] = goals(found, device)
        write_json(out, found)

    def attempt(key: str, part: Callable[[Row], object], limit_s: float) -> None:
        limit_s = max(LEAST_S, min(limit_s, deadline - time.monotonic()))
        row = found[key] = {}
        run_part(key, part, row, limit_s)
        save()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        silent = silent_bundle(bundle, folder / "silent")
        attempt("open", lambda row: open_detectors(row, detectors, bundle, device), LIMITS_S["open"])
        if len(detectors) == 2:
            attempt("parity", lambda row: parity(row, *detectors.values(), scans), LIMITS_S["parity"])
            attempt("in_process", lambda row: in_process(row, detectors, volumes, rounds), LIMITS_S["in_process"])
        attempt("parts", lambda row: parts(row, bundle, volumes["large"], device, rounds), LIMITS_S["parts"])
        for where in dict.fromkeys((device, "cpu")):
            limit_s = LIMITS_S["server" if where == device else "server_cpu"]
            part = partial(
                served, bundle=bundle, silent=silent, device=where, volumes=volumes, rounds=rounds, folder=folder / where
            )
            attempt(f"server_{where}", partial(part, until=time.monotonic() + limit_s), limit_s)
        attempt("training", lambda row: training(row, device), LIMITS_S["training"])
        left_s = deadline - time.monotonic() if full_run_minutes is None else 60 * full_run_minutes
        if left_s > LEAST_S:
            work = folder / "site"
            work.mkdir()
            run = lambda row: full_run(row, work, left_s - LEAST_S, full_run_scale, device, save)  # noqa: E731
            attempt("full_run", run, left_s)
    print(json.dumps(found, indent=1))


def run_part(key: str, part: Callable[[Row], object], row: Row, limit_s: float) -> None:
    """Let a part fill in its row; an error or the deadline becomes an entry of it."""
    start = time.perf_counter()
    try:
        with time_limit(limit_s):
            part(row)
    except TimeOver:
        row["stopped_after_s"] = limit_s
    except Exception as error:
        traceback.print_exc()
        row["error"] = f"{type(error).__name__}: {error}"
    row["seconds"] = time.perf_counter() - start
    print(f"{key}: {row['seconds']:.1f} s", flush=True)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeOver in the main thread when the block takes longer."""

    def over(*_: object) -> None:
        raise TimeOver

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def machine() -> Row:
    """Processor, libraries, driver and card."""
    import torch

    facts: Row = {"cores": cores(), "processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    facts |= {"torch": torch.__version__, "numpy": np.__version__}
    facts["cpu_runtime"] = "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        facts |= {"card": card.name, "memory_gb": card.total_memory / 2**30}
        facts |= {"cuda": torch.version.cuda, "count": torch.cuda.device_count()}
    return facts


def silent_bundle(bundle: Path, folder: Path) -> Path:
    """A copy of the release that proposes no candidate."""
    shutil.copytree(bundle, folder)
    pipeline = read_json(folder / PIPELINE_FILE)
    pipeline["candidates"]["floor"] = 1.0
    write_json(folder / PIPELINE_FILE, pipeline)
    write_json(folder / GOLDEN_ANSWER, {"candidates": [], "threshold": pipeline["decision"]["threshold"]})
    write_manifest(folder)
    return folder


def open_detectors(row: Row, detectors: dict[str, BundleDetector], bundle: Path, device: str) -> None:
    """Open the release on the CPU and on the device; row["device"] is what the latter's networks run on."""
    detectors["cpu"] = BundleDetector(bundle)
    # With --device cpu the keys must differ.
    detectors["device"] = BundleDetector(bundle, device=device)
    row["device"] = detectors["device"].device


def parity(row: Row, cpu: BundleDetector, other: BundleDetector, scans: int) -> None:
    """Candidates and scores of both devices on the golden scan and on synthetic heads."""
    row |= {"scans": 0, "candidates": 0, "candidates_of_one_alone": 0, "scans_with_other_detections": 0}
    row["largest_score_difference"] = 0.0
    for seed in range(scans):
        volume = head(PARITY_SHAPE, (1.5, 1.5, 3.0), seed).volume if seed else read_volume(cpu.bundle.path / GOLDEN_SCAN)
        first, second = cpu.detect(volume), other.detect(volume)
        apart, alone = difference(first, second)
        if not seed:
            row["golden_score_difference"] = apart
        row["scans"] += 1
        row["candidates"] += len(first.candidates)
        row["candidates_of_one_alone"] += alone
        row["scans_with_other_detections"] += {d.index for d in first.detections} != {d.index for d in second.detections}
        row["largest_score_difference"] = max(row["largest_score_difference"], apart)


def difference(first: DetectionResult, second: DetectionResult) -> tuple[float, int]:
    """Largest difference of a fused or stage 1 score at common voxels, and the number of candidates of one alone."""
    ones, others = ({c.index: c for c in r.candidates} for r in (first, second))
    common = ones.keys() & others.keys()
    scores = [abs(a - b) for i in common for a, b in _scores(ones[i], others[i])]
    return max(scores, default=0.0), len(ones.keys() ^ others.keys())


def _scores(first: Any, second: Any) -> list[tuple[float, float]]:
    return [(first.score, second.score), (first.stage1_score, second.stage1_score)]


def in_process(row: Row, detectors: dict[str, BundleDetector], volumes: dict[str, Volume], rounds: int) -> None:
    """Median seconds from a volume in memory to its detections, devices taking turns; most memory of the card."""
    for name, volume in volumes.items():
        ways = {where: lambda v=volume, d=detector: d.detect(v) for where, detector in detectors.items()}
        row[name] = {way: float(np.median(s)) for way, s in live.by_turns(ways, rounds).items()}
        row["card_gb"] = card_gb()


def parts(row: Row, bundle: Path, volume: Volume, device: str, rounds: int) -> None:
    """Median ms of each step of a scan on the device; and of the candidate network in half precision, with its scores' difference.

    Releases run in float32: half precision would have to stay within the golden scan's tolerance, and be faster.
    """
    import torch

    from cmb_models.runtime.onnx_torch import OnnxNetwork

    config, (unet, cnn), place = load_bundle(bundle).config, open_networks(load_bundle(bundle), device=device), open_arrays(device)
    where = torch.device(device)
    half = OnnxNetwork(bundle / UNET_FILE, where, torch.float16)

    def measure(arrays: Arrays) -> None:
        prepared = prepare(volume, config.preprocess, "scan", None, arrays)
        image = prepared.image[None, None]
        heatmap = arrays.array(unet(image))
        patches = propose(heatmap[0, 0], prepared, config, arrays)[1]
        exact = torch.as_tensor(image).to(where)
        row["half_precision_difference"] = float((half(exact.half()).float() - torch.as_tensor(heatmap).to(where)).abs().max())
        ways = {
            "copy": lambda: arrays.array(volume.data),
            "prepare": lambda: prepare(volume, config.preprocess, "scan", None, arrays),
            "unet": lambda: unet(image),
            "candidates": lambda: propose(heatmap[0, 0], prepared, config, arrays),
            "cnn": lambda: cnn(patches),
            "unet_half_precision": lambda: half(exact.half()),
        }
        timed = {name: partial(finished, way, device) for name, way in ways.items()}
        row["median_ms"] = {name: 1000 * float(np.median(s)) for name, s in live.by_turns(timed, rounds).items()}

    with torch.inference_mode():
        place.run(measure)


def finished(way: Callable[[], object], device: str) -> None:
    """Run something to its end on the device, which works behind the caller."""
    import torch

    way()
    if device == "cuda":
        torch.cuda.synchronize()


def served(
    row: Row, bundle: Path, silent: Path, device: str, volumes: dict[str, Volume], rounds: int, folder: Path, until: float
) -> None:
    """A server on one device: golden answer, latency, clients at once, memory; after kill -9 the golden answer and an empty one."""
    with environment({VARIABLE: device}):
        with running_server(folder / "repository", log=folder / "server.log") as server, live.watched(server.pid) as memory:
            deploy_bundle(bundle, 1, folder / "repository", server.grpc_url)
            run_golden(server.grpc_url, DETECTOR, load_bundle(bundle), 1)
            row |= {"golden": "as recorded", "devices": step_devices(server.metrics_url), "latency_s": {}}
            with Client(server.grpc_url, timeout_s=600) as client:
                for name, volume in volumes.items():
                    seconds = live.by_turns({name: lambda v=volume: client.detect(v)}, rounds)
                    row["latency_s"][name] = float(np.median(seconds[name]))
            row["clients"] = []
            for count in CLIENTS:  # as many as there is time for: clients at work are waited for, also by the deadline
                if time.monotonic() + 1.2 * CLIENTS[-1] * row["latency_s"]["small"] < until - RESTART_S:
                    row["clients"] += live.throughput(server.grpc_url, volumes["small"], (count,), scans=CLIENTS[-1])
            row |= {"memory_gb": memory.peak_gb, "card_gb": card_gb()}
            os.kill(server.pid, signal.SIGKILL)
        with running_server(folder / "repository", log=folder / "server.log") as server:
            deploy_bundle(bundle, 1, folder / "repository", server.grpc_url)
            run_golden(server.grpc_url, DETECTOR, load_bundle(bundle), 1)
            row["golden_after_kill"] = "as recorded"
            deploy_bundle(silent, 2, folder / "repository", server.grpc_url)
            row["zero_candidates"] = zero_candidates(silent, device, server.grpc_url, read_volume(bundle / GOLDEN_SCAN))


def zero_candidates(silent: Path, device: str, url: str, volume: Volume) -> str:
    """Whether the answer without candidates is the same in process and by the server."""
    with BundleDetector(silent, device=device) as detector, Client(url, timeout_s=600) as client:
        answers = detector.detect(volume), client.detect(volume)
    counts = [(len(a.candidates), len(a.detections), a.threshold) for a in answers]
    return "the same empty answer" if counts[0] == counts[1] and counts[0][:2] == (0, 0) else f"candidates, detections: {counts}"


def card_gb() -> float | None:
    """Memory in use on the first CUDA device by all processes, GiB; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**30


def training(row: Row, device: str) -> None:
    """Optimizer steps/s of stage 1 with the shipped recipe, on this machine's training device."""
    from benchmarks import training_speed

    steps = 40 if device == "cuda" else 4
    cases = training_speed.CUDA_CASES if training_speed.CUDA else training_speed.CASES
    with tempfile.TemporaryDirectory() as folder:
        training_speed.write_scans(Path(folder), 3)
        speed = training_speed.speed(Path(folder), cases[0], steps)
    row |= {
        "device": "cuda" if training_speed.CUDA else "cpu",
        "steps_per_s": speed["steps_per_s"],
        "precision": speed["precision"],
    }


def goals(found: Row, device: str) -> dict[str, float | None]:
    """What is asked of an H200 or H100; None where it was not measured."""

    def figure(*path: str) -> float | None:
        value: Any = found
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    gpu, cpu = figure(f"server_{device}", "latency_s", "large"), figure("server_cpu", "latency_s", "large")
    in_memory = figure("in_process", "large", "device")
    return {
        "gpu_large_ms": None if in_memory is None else 1000 * in_memory,
        "gpu_grpc_large_ms": None if gpu is None else 1000 * gpu,
        "gpu_over_cpu": cpu / gpu if cpu and gpu else None,
        "score_difference": figure("parity", "largest_score_difference"),
        "gpu_full_run_min": figure("full_run", "gpu_full_run_min"),
        "estimated_full_run_min": figure("full_run", "estimated_full_run_min"),
    }


if __name__ == "__main__":
    typer.run(main)

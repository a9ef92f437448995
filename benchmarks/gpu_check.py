"""A release on a CUDA device next to the CPU, in one run: `make gpu-check`. Needs no network, no workspace and at most 8 minutes.

Each part that fails is reported in words, and the others run. `--device cpu` runs the same code without a GPU, which tests it.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.serving import live
from benchmarks.serving.scans import LARGE, SMALL, SPACING_MM
from benchmarks.training_processors import environment
from cmb_models.client.contract import DETECTOR
from cmb_models.client.grpc import Client
from cmb_models.detection import DetectionResult
from cmb_models.files import write_json
from cmb_models.io.nifti import read_volume
from cmb_models.machine import cores
from cmb_models.release.bundle import GOLDEN_SCAN, BundleDetector, load_bundle
from cmb_models.runtime.device import VARIABLE
from cmb_models.serving.check.scans import head
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.deploy.golden import run_golden
from cmb_models.serving.run.devices import step_devices
from cmb_models.serving.run.triton_process import running_server
from cmb_models.volume import Volume

ROOT = Path(__file__).parents[1]
CLIENTS = (1, 4, 16)
SCANS = 30  # synthetic heads on which both devices' answers are compared
PARITY_SHAPE = (128, 128, 48)


def main(
    bundle: Annotated[Path, typer.Option(help="The release to run.")] = ROOT / "examples/bundle",
    device: Annotated[str, typer.Option(help="cuda, or cpu to test this script.")] = "cuda",
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything timed takes its turn.")] = 5,
    scans: Annotated[int, typer.Option(min=1, help="Scans on which the devices are compared.")] = SCANS,
    out: Annotated[Path, typer.Option(help="The JSON file to write.")] = Path("reports/benchmarks/gpu.json"),
) -> None:
    """Compare a release on a CUDA device with the CPU: answers, latency, throughput, memory, restart, training steps."""
    found: dict[str, Any] = {"machine": machine(), "device": device, "release": load_bundle(bundle).manifest_sha256}
    volumes = {name: head(shape, SPACING_MM[shape]).volume for name, shape in (("small", SMALL), ("large", LARGE))}
    with BundleDetector(bundle) as cpu, BundleDetector(bundle, device=device) as other:
        found["name"] = other.device
        attempt(found, "parity", lambda: parity(cpu, other, scans))
        attempt(found, "in_process", lambda: in_process({"cpu": cpu, device: other}, volumes, rounds))
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(("cpu", device)):
            attempt(found, f"server_{name}", lambda name=name: served(bundle, name, volumes, rounds, Path(folder) / name))
    attempt(found, "training", lambda: training(device))
    found["goals"] = goals(found, device)
    write_json(out, found)
    show(found)


def attempt(found: dict[str, Any], key: str, part: Callable[[], Any]) -> None:
    """Run one part; where it fails, its error is its result."""
    start = time.perf_counter()
    try:
        found[key] = part()
    except Exception as error:
        traceback.print_exc()
        found[key] = {"error": f"{type(error).__name__}: {error}"}
    print(f"{key}: {time.perf_counter() - start:.1f} s", flush=True)


def machine() -> dict[str, Any]:
    """Processor, libraries, driver and card."""
    import torch

    facts: dict[str, Any] = {"cores": cores(), "processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        facts |= {
            "card": card.name,
            "memory_gb": card.total_memory / 2**30,
            "cuda": torch.version.cuda,
            "count": torch.cuda.device_count(),
        }
    return facts


def parity(cpu: BundleDetector, other: BundleDetector, scans: int) -> dict[str, Any]:
    """Candidates and scores of both devices on the golden scan and on synthetic heads."""
    golden = read_volume(cpu.bundle.path / GOLDEN_SCAN)
    volumes = [golden, *(head(PARITY_SHAPE, (1.5, 1.5, 3.0), seed).volume for seed in range(scans - 1))]
    pairs = [(cpu.detect(v), other.detect(v)) for v in volumes]
    apart = [difference(first, second) for first, second in pairs]
    detections = [[{d.index for d in one.detections} for one in pair] for pair in pairs]
    return {
        "scans": len(pairs),
        "largest_score_difference": max(a[0] for a in apart),
        "golden_score_difference": apart[0][0],
        "candidates_of_one_alone": sum(a[1] for a in apart),
        "scans_with_other_detections": sum(first != second for first, second in detections),
        "candidates": sum(len(first.candidates) for first, _ in pairs),
    }


def difference(first: DetectionResult, second: DetectionResult) -> tuple[float, int]:
    """Largest difference of a fused or stage 1 score at common voxels, and the number of candidates of one alone."""
    ones, others = ({c.index: c for c in r.candidates} for r in (first, second))
    common = ones.keys() & others.keys()
    scores = [abs(a - b) for i in common for a, b in _scores(ones[i], others[i])]
    return max(scores, default=0.0), len(ones.keys() ^ others.keys())


def _scores(first: Any, second: Any) -> list[tuple[float, float]]:
    return [(first.score, second.score), (first.stage1_score, second.stage1_score)]


def in_process(detectors: dict[str, BundleDetector], volumes: dict[str, Volume], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds from a volume in memory to its detections, devices taking turns."""
    found = {}
    for name, volume in volumes.items():
        ways = {device: lambda v=volume, d=detector: d.detect(v) for device, detector in detectors.items()}
        found[name] = {way: float(np.median(s)) for way, s in live.by_turns(ways, rounds).items()}
    return found


def served(bundle: Path, device: str, volumes: dict[str, Volume], rounds: int, folder: Path) -> dict[str, Any]:
    """A server on one device: its golden answer, latency, clients at once, memory, and the golden answer after kill -9."""
    with environment({VARIABLE: device}):
        with running_server(folder / "repository", log=folder / "server.log") as server, live.watched(server.pid) as memory:
            deploy_bundle(bundle, 1, folder / "repository", server.grpc_url)
            found: dict[str, Any] = {"devices": step_devices(server.metrics_url)}
            with Client(server.grpc_url, timeout_s=600) as client:
                ways = {name: lambda v=volume: client.detect(v) for name, volume in volumes.items()}
                found["latency_s"] = {way: float(np.median(s)) for way, s in live.by_turns(ways, rounds).items()}
            found["clients"] = live.throughput(server.grpc_url, volumes["small"], CLIENTS, scans=16)
            found |= {"memory_gb": memory.peak_gb, "card_gb": card_gb()}
            os.kill(server.pid, 9)
        with running_server(folder / "repository", log=folder / "server.log") as server:
            deploy_bundle(bundle, 1, folder / "repository", server.grpc_url)
            run_golden(server.grpc_url, DETECTOR, load_bundle(bundle), 1)
            found["golden_after_kill"] = "as recorded"
    return found


def card_gb() -> float | None:
    """Memory in use on the first CUDA device by all processes, GiB; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**30


def training(device: str) -> dict[str, Any]:
    """Optimizer steps/s of stage 1 with the shipped recipe, on this machine's training device."""
    from benchmarks import training_speed

    steps = 40 if device == "cuda" else 4
    cases = training_speed.CUDA_CASES if training_speed.CUDA else training_speed.CASES
    with tempfile.TemporaryDirectory() as folder:
        training_speed.write_scans(Path(folder), 3)
        row = training_speed.speed(Path(folder), cases[0], steps)
    return {"device": "cuda" if training_speed.CUDA else "cpu", "steps_per_s": row["steps_per_s"], "precision": row["precision"]}


def goals(found: dict[str, Any], device: str) -> dict[str, float | None]:
    """What is asked of an H200 or H100; None where it was not measured."""

    def figure(*path: str) -> float | None:
        value: Any = found
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    gpu, cpu = figure(f"server_{device}", "latency_s", "large"), figure("server_cpu", "latency_s", "large")
    in_memory = figure("in_process", "large", device)
    return {
        "gpu_large_ms": None if in_memory is None else 1000 * in_memory,
        "gpu_grpc_large_ms": None if gpu is None else 1000 * gpu,
        "gpu_over_cpu": cpu / gpu if cpu and gpu else None,
        "score_difference": figure("parity", "largest_score_difference"),
    }


def show(found: dict[str, Any]) -> None:
    """Print what was measured."""
    for key, value in found.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    typer.run(main)

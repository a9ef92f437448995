"""How fast a release is, on this machine: `make bench-serving`, or with a workspace's own, ARGS="--workspace ../site".

Everything that is compared takes turns in one run. Prints one table and writes benchmarks/results/serving.json. A busy machine
makes absolute times longer; the ratios hold.
"""

from __future__ import annotations

import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.serving import candidates, live, runtimes
from benchmarks.serving.plain import plain_detector
from benchmarks.serving.scans import LARGE, SMALL, scans
from cmb_models.detect.detector import propose
from cmb_models.detect.preprocess import prepare
from cmb_models.files import write_json
from cmb_models.machine import cores
from cmb_models.networks.cnn import Score
from cmb_models.networks.unet import Heatmap
from cmb_models.release.bundle import BundleDetector, load_bundle
from cmb_models.release.export import export_networks
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import running_server
from cmb_models.training.final import load_weights

GOALS = {  # key: (goal, whether less is better, what it is)
    "grpc_small_s": (2.0, True, "197×233×94 through gRPC on loopback, end to end, s"),
    "grpc_over_inprocess": (1.25, True, "… divided by the same work in process"),
    "grpc_large_s": (12.0, True, "512×448×80 through gRPC, s"),
    "server_peak_gb": (4.0, True, "peak memory of the server and its steps, GiB"),
    "candidates_ms": (30.0, True, "candidate extraction, 300 blobs in 512×448×80, ms"),
    "speedup_over_plain": (4.0, False, "speed-up over MONAI's sliding window in torch with labelling"),
    "share_of_peak": (0.5, False, "candidate network's share of the machine's peak, float32"),
}
CLIENTS = (1, 2, 4, 8, 16)
ROOT = Path(__file__).parents[2]


def main(
    workspace: Annotated[Path, typer.Option(help="Workspace with a bundle, its weights and locked scans.")] = Path("demo"),
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything takes its turn.")] = 5,
    out: Annotated[Path, typer.Option(help="Where serving.json goes.")] = ROOT / "benchmarks/results",
) -> None:
    """Time the release of a workspace, served and in process."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(workspace, rounds, Path(folder))
    write_json(out / "serving.json", found)
    show(found, Console(width=120))


def measure(workspace: Path, rounds: int, folder: Path) -> dict:
    """All figures: those of GOALS, and what they come from."""
    volumes = scans(workspace)
    bundle_dir = workspace / "models/bundle"
    _, _, unet, cnn = load_weights(workspace / "models/weights")
    own = BundleDetector(bundle_dir)
    config = own.bundle.config
    found: dict = {"machine": {"cores": cores(), "processor": platform.processor() or platform.machine()}}
    with running_server(folder / "repository") as server:
        deploy_bundle(bundle_dir, 1, folder / "repository", server.grpc_url)
        with (
            live.watched(server.pid) as memory,
            live.Client(server.grpc_url, timeout_s=600) as client,
            live.Client(server.grpc_url, timeout_s=600, shared_memory=True) as neighbour,
        ):
            plain = plain_detector(unet, cnn, config)
            for name, shape in (("small", SMALL), ("large", LARGE)):
                volume = volumes[shape]
                ways = {
                    "gRPC": lambda v=volume: client.detect(v),
                    "gRPC, shared memory": lambda v=volume: neighbour.detect(v),
                    "in process": lambda v=volume: own.detect(v),
                }
                if name == "small":
                    ways["plain"] = lambda v=volume: plain(v)
                seconds = live.by_turns(ways, rounds if name == "small" else max(2, rounds // 2))
                found[name] = {way: float(np.median(s)) for way, s in seconds.items()}
            found["clients"] = live.throughput(server.grpc_url, volumes[SMALL], CLIENTS, scans=8)
        found["server_peak_gb"] = memory.peak_gb
    found["candidates_ms"] = candidates.milliseconds(rounds)
    prepared = prepare(volumes[SMALL], config.preprocess, "scan")
    image = prepared.image[None, None]
    export_networks(unet, cnn, config, folder)
    _, patches = propose(runtimes.in_torch(Heatmap(unet), runtimes.torch.float32)(image)[0, 0], prepared, config)
    peak = runtimes.peak_gigaflops()
    timed = runtimes.compare(folder, Heatmap(unet), Score(cnn), image, patches, rounds)
    found["runtimes"] = {network: {name: asdict(t) for name, t in by.items()} for network, by in timed.items()}
    found["arrays"] = {"unet": list(image.shape), "cnn": list(patches.shape)}
    found["peak_gigaflops"] = max(peak, runtimes.peak_gigaflops())
    found["unet_gigaflop"] = runtimes.gigaflop(Heatmap(unet), image)
    return {"goals": goals(found), **found, "release": load_bundle(bundle_dir).manifest_sha256}


def goals(found: dict) -> dict[str, float]:
    """The figures that GOALS asks for."""
    small = found["small"]
    unet_s = found["runtimes"]["unet"]["openvino"]["seconds"]
    return {
        "grpc_small_s": small["gRPC"],
        "grpc_over_inprocess": small["gRPC"] / small["in process"],
        "grpc_large_s": found["large"]["gRPC"],
        "server_peak_gb": found["server_peak_gb"],
        "candidates_ms": found["candidates_ms"]["ours"],
        "speedup_over_plain": small["plain"] / small["in process"],
        "share_of_peak": found["unet_gigaflop"] / unet_s / found["peak_gigaflops"],
    }


def show(found: dict, console: Console) -> None:
    """Print the figures as one table, each next to its goal."""
    table = Table("key", "what", "measured", "asked", box=SIMPLE, title=f"Serving on {found['machine']['cores']} cores")
    for key, (goal, less, what) in GOALS.items():
        value = found["goals"][key]
        met = value <= goal if less else value >= goal
        table.add_row(
            key,
            what,
            f"{value:.2f}" if value < 100 else f"{value:.0f}",
            f"{'≤' if less else '≥'} {goal:g}{'' if met else '  missed'}",
        )
    table.add_section()
    for size in ("small", "large"):
        for way, seconds in found[size].items():
            table.add_row("", f"{size}: {way}, s", f"{seconds:.2f}", "")
    table.add_section()
    for row in found["clients"]:
        what = f"small, {row['clients']} clients: scans a minute; latency, median and 95 %"
        table.add_row("", what, f"{row['scans_per_minute']:.0f}; {row['median_s']:.1f}, {row['p95_s']:.1f} s", "")
    table.add_section()
    for network, by in found["runtimes"].items():
        for runtime, timed in by.items():
            table.add_row(
                "", f"{network} by {runtime}, s; how far from torch", f"{timed['seconds']:.3f}; {timed['difference']:.0e}", ""
            )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)

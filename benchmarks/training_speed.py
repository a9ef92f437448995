"""How fast stage 1 trains and what it needs: steps/s by processes, precision and kept memory, its parts, memory with many scans.

    python -m benchmarks.training_speed [--steps 40] [--scans 100] [--out reports/benchmarks/training_speed.json]

The scans are made up (a head, noise, spots) but as large as real ones on the working grid, and lie in files that are memory-mapped
as in training. Each case runs in processes of its own, so that threads and peak memory are its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cmb_models.config import Unet, load_params
from cmb_models.detect.preprocess import Prepared
from cmb_models.files import replacing, write_json
from cmb_models.io.annotations import Annotation
from cmb_models.networks.unet import build_unet
from cmb_models.training.examples import Example, load_examples, save_example
from cmb_models.training.loop import MAX_GRADIENT, best_device, train_unet
from cmb_models.training.losses import centre_loss
from cmb_models.training.memory import keep_freed_memory
from cmb_models.training.sampling import UnetSampler

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (192, 224, 88)  # 192 x 224 x 176 mm at 1 x 1 x 2 mm: a whole head
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
LESIONS = 3  # in each scan
PLANTS = "plants_made_up.npz"
LIMIT_GB = 6.0
PRECISIONS = ("fp32", "bf16")
# Processes, threads each, precision, and whether freed memory is kept, as in training: the last one shows what that is worth.
CASES = (*((*cores, precision, True) for cores in ((1, 2), (2, 1)) for precision in PRECISIONS), (2, 1, "bf16", False))
CUDA_CASES = ((1, 1, "fp32", True), *((n, 1, "bf16", True) for n in (1, 4, 16)))  # the same on a CUDA device, which they share
CUDA = torch.cuda.is_available()
WARM_UP = 4  # steps; the first ones allocate


def recipe(steps: int) -> Unet:
    """params.yaml's stage 1 with the patch and batch that all figures so far were measured with (FACTS 10), without hard negatives,
    whose look at whole scans depends on when it comes."""
    unet = load_params(ROOT / "params.yaml").unet
    return unet.model_copy(update={"patch_vox": (48, 48, 24), "batch": 6, "steps": steps, "mine_at": ()})


def write_scans(folder: Path, scans: int) -> None:
    """Prepared examples as the preprocess stage writes them."""
    rng = np.random.default_rng(0)
    index = np.stack(np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE), indexing="ij"))
    head = (index**2).sum(axis=0) < 0.8
    noise = rng.standard_normal(SHAPE, dtype=np.float32) * np.float32(0.15)
    for n in range(scans):
        image = np.where(head, np.roll(noise, n, axis=0), np.float32(-3))
        centres = rng.uniform(-0.4, 0.4, (LESIONS, 3)) * (SHAPE * np.diag(AFFINE)[:3]) / 2 + (SHAPE * np.diag(AFFINE)[:3]) / 2
        marked = tuple(Annotation(f"sub-{n}", "", *map(float, c), 4.0, "cmb", "made up") for c in centres)
        save_example(folder, Example(f"s_{n:03d}", f"s_{n:03d}", Prepared(image, AFFINE, SHAPE), marked, AFFINE, f"{n}"), PLANTS)
    away = (index[:, ::16, ::16, ::8] ** 2).sum(axis=0)[:11, :11, :9]
    share = np.repeat(1 - 0.8 * np.exp(-8 * away)[None], 40, axis=0).astype(np.float32)
    arrays = {"share": share, "off_vox": np.zeros((40, 3)), "diameter_mm": np.full(40, 4.0)}
    with replacing(folder / PLANTS) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, label=np.array(["cmb", "mimic:calcification"] * 20), **arrays)


def steps_apart(folder: Path, threads: int, precision: str, kept: bool, steps: int, seed: int) -> dict[str, float]:
    """Seconds of each part of a step, over `steps` of them: the loop's own step, with the clock read between its parts.

    kept: whether freed memory is kept, for as long as the process lives.
    """
    if kept:
        keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    settings, device, rng = recipe(steps), best_device(), np.random.default_rng(seed)
    sampler = UnetSampler(load_examples(folder), settings)
    model = build_unet(settings.channels, settings.strides).to(device, memory_format=torch.channels_last_3d).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    seconds = dict.fromkeys(("sampler", "forward", "backward", "optimizer"), 0.0)

    def lap(name: str, step: int, since: float) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds[name] += now - since if step >= WARM_UP else 0
        return now

    for step in range(steps + WARM_UP):
        at = time.perf_counter()
        image, target, weight = (torch.from_numpy(a).to(device) for a in sampler.batch(rng))
        at = lap("sampler", step, at)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(image.to(memory_format=torch.channels_last_3d))
            loss = centre_loss(logits, target, weight, settings.focal_gamma, settings.focal_beta)
        at = lap("forward", step, at)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        at = lap("backward", step, at)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT)
        optimizer.step()
        lap("optimizer", step, at)
    return seconds


def whole_loop(folder: Path, threads: int, steps: int) -> dict[str, float]:
    """train_unet itself on all scans: seconds to start, steps/s, and the process's peak memory, mapped pages included."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    examples = load_examples(folder)
    sampler = UnetSampler(examples, recipe(steps + WARM_UP))
    ready, at = time.perf_counter(), []
    train_unet(sampler, 0, lambda _: at.append(time.perf_counter()))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "scans": len(examples),
        "start_s": ready - start,
        "steps_per_s": steps / (at[-1] - at[WARM_UP - 1]),
        "peak_gb": peak_gb,
        "limit_gb": LIMIT_GB,
    }


def speed(folder: Path, processes: int, threads: int, precision: str, kept: bool, steps: int) -> dict:
    """Steps/s of several processes side by side, and each part's share of their time."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = pool.starmap(steps_apart, [(folder, threads, precision, kept, steps, n) for n in range(processes)])
    total = {name: sum(p[name] for p in parts) for name in parts[0]}
    rate = sum(steps / sum(p.values()) for p in parts)
    shares = {name: seconds / sum(total.values()) for name, seconds in total.items()}
    case = {"processes": processes, "threads": threads, "precision": precision, "memory_kept": kept}
    return case | {"steps_per_s": rate, "shares": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument("--out", type=Path, default=ROOT / "reports/benchmarks/training_speed.json")
    args = parser.parse_args()
    device = torch.cuda.get_device_name() if CUDA else "CPU"
    unet = recipe(args.steps)
    report = {"device": device, "cores": os.cpu_count(), "torch": torch.__version__, "steps": args.steps}
    report |= {"recipe": {"channels": unet.channels, "patch_vox": unet.patch_vox, "batch": unet.batch}, "speed": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scans(folder, args.scans)
        print(f"{'processes':>9} {'threads':>7} {'precision':>9} {'memory':>8} {'steps/s':>8}   share of the time")
        for processes, threads, precision, kept in CUDA_CASES if CUDA else CASES:
            row = speed(folder, processes, threads, precision, kept, args.steps)
            report["speed"].append(row)
            shares = ", ".join(f"{part} {share:.0%}" for part, share in row["shares"].items())
            memory = "kept" if kept else "returned"
            print(f"{processes:9} {threads:7} {precision:>9} {memory:>8} {row['steps_per_s']:8.1f}   {shares}", flush=True)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            report["memory"] = memory = pool.apply(whole_loop, (folder, 2, args.steps))
    print(f"train_unet on {memory['scans']} scans: {memory['steps_per_s']:.1f} steps/s after {memory['start_s']:.1f} s", end=", ")
    print(f"peak {memory['peak_gb']:.2f} GB (limit {LIMIT_GB:g})")
    write_json(args.out, report)


if __name__ == "__main__":
    main()

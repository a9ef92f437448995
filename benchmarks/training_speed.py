"""How fast stage 1 trains and what it needs: steps/s by precision and instruction set, by processes and kept memory, its parts, how
fast batches are drawn ahead, memory with many scans.

    python -m benchmarks.training_speed [--steps 40] [--scans 100] [--out benchmarks/results/training_speed.json] [--precision-only]

--precision-only measures the first of these and keeps the rest of the file as it is.

The scans are made up (a head, noise, spots) but as large as real ones on the working grid, and lie in files that are memory-mapped
as in training. Each case runs in processes of its own, so that threads and peak memory are its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import training_processors
from cmb_models.config.params import Unet, load_params
from cmb_models.detect.preprocess import Prepared
from cmb_models.files import atomic_write, read_json, write_json
from cmb_models.io.annotations import Annotation
from cmb_models.machine import cores
from cmb_models.networks.unet import build_unet
from cmb_models.training.data.examples import Example, load_examples, save_example
from cmb_models.training.data.samplers import UnetSampler
from cmb_models.training.loop import MAX_GRADIENT, best_device, draw_batches, to_device, train_unet
from cmb_models.training.losses import centre_loss
from cmb_models.training.prefetch import EACH

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (192, 224, 88)  # 192 x 224 x 176 mm at 1 x 1 x 2 mm: a whole head
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
LESIONS = 3  # in each scan
LESION_BANK = "lesions_made_up.npz"
LIMIT_GB = 6.0
PRECISIONS = ("fp32", "bf16")
DRAWING_THREADS = (0, 1, 2, 4)
CUDA = torch.cuda.is_available()
WARM_UP = 4  # steps; the first ones allocate


class Case(NamedTuple):
    """Trainings side by side. threads: of each. ahead: threads that draw batches."""

    processes: int
    threads: int
    precision: str
    ahead: int = 0


CASES = (
    *(Case(*cores, precision) for cores in ((1, 2), (2, 1)) for precision in PRECISIONS),
    *(Case(1, 1, "bf16", ahead=n) for _ in range(3) for n in (0, 1)),  # in turn: what drawing in parallel costs the training
)
CUDA_CASES = (  # on a CUDA device, which they share
    Case(1, 1, "fp32"),
    *(Case(1, 1, "bf16", ahead=n) for n in DRAWING_THREADS),
    Case(4, 1, "bf16", ahead=2),
    *(Case(16, 1, "bf16", ahead=n) for n in (0, 1)),
)


def recipe(steps: int) -> Unet:
    """params.yaml's stage 1 with the channels, patch and batch that all figures so far were measured with, without hard negatives,
    whose look at whole scans depends on when it comes."""
    unet = load_params(ROOT / "params.yaml").unet
    return unet.model_copy(
        update={"channels": (8, 16, 32), "patch_vox": (48, 48, 24), "batch": 6, "steps": steps, "hard_negatives_at": ()}
    )


def write_scans(folder: Path, scans: int, shape: tuple[int, int, int] | None = None) -> None:
    """Prepared examples as the preprocess stage writes them. shape: voxels of each; None for a whole head's."""
    shape = shape or SHAPE
    rng = np.random.default_rng(0)
    index = np.stack(np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij"))
    head = (index**2).sum(axis=0) < 0.8
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.15)
    for n in range(scans):
        image = np.where(head, np.roll(noise, n, axis=0), np.float32(-3))
        centres = rng.uniform(-0.4, 0.4, (LESIONS, 3)) * (shape * np.diag(AFFINE)[:3]) / 2 + (shape * np.diag(AFFINE)[:3]) / 2
        marked = tuple(Annotation(f"sub-{n}", "", *map(float, c), 4.0, "cmb", "made up") for c in centres)
        save_example(
            folder, Example(f"s_{n:03d}", f"s_{n:03d}", Prepared(image, AFFINE, shape), marked, AFFINE, f"{n}"), LESION_BANK
        )
    away = (index[:, ::16, ::16, ::8] ** 2).sum(axis=0)[:11, :11, :9]
    share = np.repeat(1 - 0.8 * np.exp(-8 * away)[None], 40, axis=0).astype(np.float32)
    arrays = {"share": share, "off_vox": np.zeros((40, 3)), "diameter_mm": np.full(40, 4.0)}
    with atomic_write(folder / LESION_BANK) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, label=np.array(["cmb", "mimic:calcification"] * 20), **arrays)


def steps_apart(folder: Path, case: Case, steps: int, seed: int) -> dict[str, float]:
    """Seconds of each part of a step, over `steps` of them: the loop's own step, with the clock read between its parts."""
    settings, device = recipe(steps), best_device()
    torch.set_num_threads(case.threads)
    torch.manual_seed(seed)
    first = WARM_UP + EACH * case.ahead  # the batches that lie ready when the clock starts are not counted
    sampler = UnetSampler(load_examples(folder), settings)
    model = build_unet(settings.channels, settings.strides).to(device, memory_format=torch.channels_last_3d).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    seconds = dict.fromkeys(("sampler", "forward", "backward", "optimizer"), 0.0)

    def lap(name: str, step: int, since: float) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds[name] += now - since if step >= first else 0
        return now

    with draw_batches(sampler, seed, first + steps, case.ahead) as batches:
        for step in range(first + steps):
            at = time.perf_counter()
            image, target, weight = (to_device(a, device) for a in batches.take(step))
            at = lap("sampler", step, at)
            with torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "bf16"):
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


def drawing_alone(folder: Path, threads: int, steps: int) -> dict[str, float]:
    """Batches a second with nothing to do but draw them, by this many threads that draw ahead; 0: in place."""
    torch.set_num_threads(1)
    first = WARM_UP + EACH * threads
    with draw_batches(UnetSampler(load_examples(folder), recipe(steps)), 0, first + steps, threads) as batches:
        for step in range(first + steps):
            if step == first:
                start = time.perf_counter()
            batches.take(step)
    return {"threads": threads, "batches_per_s": steps / (time.perf_counter() - start)}


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


def speed(folder: Path, case: Case, steps: int) -> dict:
    """Steps/s of several processes side by side, and each part's share of their time."""
    with multiprocessing.get_context("spawn").Pool(case.processes) as pool:
        parts = pool.starmap(steps_apart, [(folder, case, steps, n) for n in range(case.processes)])
    total = {name: sum(p[name] for p in parts) for name in parts[0]}
    rate = sum(steps / sum(p.values()) for p in parts)
    shares = {name: seconds / sum(total.values()) for name, seconds in total.items()}
    return case._asdict() | {"steps_per_s": rate, "shares": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/training_speed.json")
    parser.add_argument("--precision-only", action="store_true")
    args = parser.parse_args()
    if args.precision_only and CUDA:
        parser.error("--precision-only compares what CPUs do; this machine trains on CUDA")
    device = torch.cuda.get_device_name() if CUDA else "CPU"
    unet = recipe(args.steps)
    report = {"device": device, "cores": cores(), "torch": torch.__version__, "steps": args.steps}
    report |= {"recipe": {"channels": unet.channels, "patch_vox": unet.patch_vox, "batch": unet.batch}, "speed": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scans(folder, 3 if args.precision_only else args.scans)
        if not CUDA:
            processors = training_processors.compare(folder, args.steps)
            report["processors"] = processors | {"torch": torch.__version__, "cores": cores()}
            print(*training_processors.lines(report["processors"]), sep="\n", flush=True)
        if args.precision_only:
            earlier = read_json(args.out) if args.out.is_file() else {}
            write_json(args.out, earlier | {"processors": report["processors"]})
            return
        print(f"{'processes':>9} {'threads':>7} {'precision':>9} {'ahead':>5} {'steps/s':>8}   share of the time")
        for case in CUDA_CASES if CUDA else CASES:
            row = speed(folder, case, args.steps)
            report["speed"].append(row)
            shares = ", ".join(f"{part} {100 * share:.0f} %" for part, share in row["shares"].items())
            facts = f"{case.processes:9} {case.threads:7} {case.precision:>9}"
            print(f"{facts} {case.ahead:5} {row['steps_per_s']:8.1f}   {shares}", flush=True)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # each with a peak of its own
            report["drawing"] = [pool.apply(drawing_alone, (folder, n, 4 * args.steps)) for n in DRAWING_THREADS]
            report["memory"] = memory = pool.apply(whole_loop, (folder, 2, args.steps))
    for row in report["drawing"]:
        print(f"drawing alone, {row['threads']} threads ahead: {row['batches_per_s']:.1f} batches/s")
    print(f"train_unet on {memory['scans']} scans: {memory['steps_per_s']:.1f} steps/s after {memory['start_s']:.1f} s", end=", ")
    print(f"peak {memory['peak_gb']:.2f} GB (limit {LIMIT_GB:g})")
    write_json(args.out, report)


if __name__ == "__main__":
    main()

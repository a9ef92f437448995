"""Steps/s of a training in both precisions, on this processor and as on one without AVX-512, and what the choice of one is worth.

Part of `python -m benchmarks.training_speed`. The steps are those of params.yaml's U-Net. oneDNN reads ONEDNN_MAX_CPU_ISA when a
process starts, so each run is a process of its own; runs of the cases take turns, and the fastest of each counts, since other load
on the machine only ever slows one down.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from cmb_models.config.params import Unet, load_params
from cmb_models.networks import convolution
from cmb_models.networks.unet import build_unet
from cmb_models.training.data.examples import load_examples
from cmb_models.training.data.samplers import UnetSampler
from cmb_models.training.loop import MAX_GRADIENT, draw_batches, to_device
from cmb_models.training.losses import centre_loss
from cmb_models.training.precision import BFLOAT16, FLOAT32, VARIABLE, choose_precision, native_bfloat16

ROOT = Path(__file__).resolve().parent.parent
ISA = "ONEDNN_MAX_CPU_ISA"
INSTRUCTIONS = ("", "AVX2")  # "": all that this processor has
ROUNDS = 3
EMULATED_STEPS = 2  # each may take seconds
CPU = torch.device("cpu")


class Run(NamedTuple):
    """One training. sliced: weight gradients by networks/convolution.py where it gains, else by torch alone."""

    isa: str
    precision: str
    sliced: bool = True


RUNS = tuple(
    Run(isa, precision, sliced)
    for isa in INSTRUCTIONS
    for precision, sliced in ((FLOAT32, False), (FLOAT32, True), (BFLOAT16, True))
)


def shipped_recipe(steps: int) -> Unet:
    """params.yaml's U-Net without the search for hard negatives, whose time depends on when it comes."""
    return load_params(ROOT / "params.yaml").unet.model_copy(update={"steps": steps, "hard_negatives_at": ()})


def compare(folder: Path, steps: int, rounds: int = ROUNDS) -> dict:
    """Seconds per step of each run, the choice made with each instruction set, and the two ratios that are to be reached.

    choice_over_best: time of the chosen precision over that of the faster one. fp32_speedup: time of a float32 step by torch alone
    over that of one as trained, as without AVX-512.
    """
    seconds: dict[Run, list[float]] = {run: [] for run in RUNS}
    for round_ in range(rounds):
        for run in RUNS:
            if run.precision == BFLOAT16 and round_ and seconds[run][0] > 1:
                continue  # emulated: once is enough
            seconds[run].append(_in_a_process(_seconds_per_step, run.isa, folder, run, steps))
    best = {run: min(times) for run, times in seconds.items()}
    choice = {isa: _in_a_process(_choice, isa) for isa in INSTRUCTIONS}
    over = {isa: best[Run(isa, choice[isa])] / min(best[Run(isa, p)] for p in (FLOAT32, BFLOAT16)) for isa in INSTRUCTIONS}
    return {
        "runs": [run._asdict() | {"seconds_per_step": s, "steps_per_s": 1 / s} for run, s in best.items()],
        "choice": {isa or "all": precision for isa, precision in choice.items()},
        "choice_over_best": {isa or "all": ratio for isa, ratio in over.items()},
        "fp32_speedup": best[Run("AVX2", FLOAT32, sliced=False)] / best[Run("AVX2", FLOAT32)],
    }


def lines(found: dict) -> Iterator[str]:
    """What `compare` found, for the terminal."""
    yield f"{'instructions':>12} {'precision':>9} {'weight gradients':>16} {'steps/s':>8}"
    for row in found["runs"]:
        way = "as trained" if row["sliced"] else "by torch"
        yield f"{row['isa'] or 'all':>12} {row['precision']:>9} {way:>16} {row['steps_per_s']:8.2f}"
    for isa, precision in found["choice"].items():
        yield f"{isa}: chosen {precision}, {found['choice_over_best'][isa]:.2f} times the time of the faster one"
    yield f"float32 without AVX-512: {found['fp32_speedup']:.2f} times as fast as by torch alone"


def markdown(found: dict) -> str:
    """The table of docs/explanation/hardware.md, from what `compare` found."""
    rows = ["| oneDNN may use | precision | weight gradients | steps/s | |", "|---|---|---|---|---|"]
    for row in found["runs"]:
        isa = row["isa"] or "all"
        chosen = "chosen" if row["sliced"] and found["choice"][isa] == row["precision"] else ""
        way = "as trained" if row["sliced"] else "by torch alone"
        rows.append(
            f"| {row['isa'] or 'all of this processor'} | {row['precision']} | {way} | {row['steps_per_s']:.2g} | {chosen} |"
        )
    return "\n".join(rows)


def _seconds_per_step(folder: Path, run: Run, steps: int) -> float:
    """Mean over some steps on one thread: drawing, forward, backward, optimizer."""
    torch.set_num_threads(1)
    if not run.sliced:
        convolution.lacks_avx512 = lambda: False
    torch.manual_seed(0)
    emulated = run.precision == BFLOAT16 and not native_bfloat16()
    first, counted = (1, EMULATED_STEPS) if emulated else (3, steps)
    settings = shipped_recipe(first + counted)
    model = build_unet(settings.channels, settings.strides).to(memory_format=torch.channels_last_3d).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    with draw_batches(UnetSampler(load_examples(folder), settings), 0, settings.steps, 0) as batches:
        for step in range(settings.steps):
            if step == first:
                began = time.perf_counter()
            image, target, weight = (to_device(part, CPU) for part in batches.take(step))
            with torch.autocast("cpu", torch.bfloat16, enabled=run.precision == BFLOAT16):
                logits = model(image.to(memory_format=torch.channels_last_3d))
                loss = centre_loss(logits, target, weight, settings.focal_gamma, settings.focal_beta)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT)
            optimizer.step()
    return (time.perf_counter() - began) / counted


def _choice() -> str:
    return choose_precision(CPU).precision


def _in_a_process(function, isa: str, *arguments):
    """Call a function in a new process in which oneDNN is limited to an instruction set, "" for none."""
    with environment({ISA: isa or None, VARIABLE: None}), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


@contextlib.contextmanager
def environment(changes: dict[str, str | None]) -> Iterator[None]:
    """Environment variables as given while the block runs; None removes one."""
    before = {name: os.environ.get(name) for name in changes}

    def apply(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    apply(changes)
    try:
        yield
    finally:
        apply(before)

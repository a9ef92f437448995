"""`make demo`: play a hospital site in a workspace of its own, demo/, by the commands that a site would type.

`make full-demo` does the same in demo-full/ with five folds, and thirty locked scans, half of them by protocols that are in no
training scan, and longer trainings: 40 minutes on two cores.

Run again, it redoes only what is not up to date: the scans, DVC's stages and the registry each see for themselves.
"""

from __future__ import annotations

import contextlib
import csv
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import yaml
from rich.table import Table

from cmb_models.dataset.layout import find_scans
from cmb_models.files import read_json
from scripts.simulated_site import CHECKOUT, ENVIRONMENT, SimulatedSite, console

FULL = sys.argv[1:] == ["full"]
WORKSPACE = CHECKOUT / ("demo-full" if FULL else "demo")
SITE = ["--scans", "15", "--cmbs", "40", "--seed", "1"]  # `cmb simulate` options: as many as in Rau et al. 2026
LOCKED = ["--scans", "10", "--cmbs", "24", "--cmb-free", "3", "--seed", "2"]
LOCKED_FULL = [
    *("--scans", "30", "--cmbs", "75", "--cmb-free", "8", "--seed", "23"),
    *(o for preset in ("ukb", "aibl", "clinical", "random", "random", "random") for o in ("--preset", preset)),
]
SITE_FULL = [*SITE, "--cmb-free", "3"]  # so that false positives out of fold are counted on scans without microbleeds, too
DATASETS = {"site": SITE_FULL if FULL else SITE, "locked": LOCKED_FULL if FULL else LOCKED}


# Of params.yaml, other than shipped: a dataset held out whole; in the full demo five folds and long trainings from random weights,
# which show what a site's own scans bring; in the short one fewer trials and shorter trainings, from the base release.
def _searched(section: str, learning_rate: list[float]) -> dict:
    """The shipped search ranges of a section of params.yaml with another one of learning rates."""
    shipped = yaml.safe_load((CHECKOUT / "params.yaml").read_text(encoding="utf-8"))[section]["search"]
    return shipped | {"learning_rate": learning_rate}


SPLIT = {"locked_datasets": ["locked"], "locked_fraction": 0.0}
SETTINGS_FULL = {
    "train": {"init_from": "random"},
    "split": SPLIT | {"folds": 5},
    "unet": {"channels": [8, 16, 32], "steps": 2600, "learning_rate": 0.01},
    "cnn": {"channels": [8, 16, 32], "steps": 1200, "learning_rate": 0.003},
    "tune_unet": {"steps": 150, "search": _searched("tune_unet", [0.006, 0.015])},
    "tune_cnn": {"steps": 120, "search": _searched("tune_cnn", [0.0015, 0.006])},
}
SETTINGS_SHORT = {
    "split": SPLIT,
    "unet": {"steps": 300},
    "cnn": {"steps": 250},
    "tune_unet": {"trials": 2},
    "tune_cnn": {"trials": 2},
}
SETTINGS = SETTINGS_FULL if FULL else SETTINGS_SHORT


@contextlib.contextmanager
def server() -> Iterator[str]:
    """`cmb server run` in the background; gives its gRPC address once the production release is loaded."""
    console.print("[bold cyan]$ cmb server run --port 0 &[/]")
    command = ["cmb", "server", "run", "--port", "0"]
    process = subprocess.Popen(command, cwd=WORKSPACE, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, start_new_session=True)
    try:
        for line in process.stdout:
            console.print(f"  {line.rstrip()}", markup=False)
            if line.startswith("serving"):
                break
        else:
            sys.exit("the demo stopped: the server ended before it served")
        yield read_json(WORKSPACE / "serving-state/server.json")["grpc_url"]
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()  # its supervisor then ends the server


def show_results(started: float) -> None:
    """A table a person can read, and where everything lies."""
    out_of_fold, locked = (read_json(WORKSPACE / f"reports/{s}/metrics.json") for s in ("cross_validate", "evaluate"))
    table = Table(title="What this release can do", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "scans", "CMBs", "found", "sensitivity", "95 %", "FP/scan", "precision"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name, m in (("out of fold", out_of_fold), ("locked scans", locked)):
        low, high = m["intervals_95"]["sensitivity"]
        numbers = [
            str(m["n_scans"]),
            str(m["n_lesions"]),
            str(m["hits"]),
            f"{100 * m['sensitivity']:.1f} %",
            f"{100 * low:.0f}–{100 * high:.0f} %",
        ]
        table.add_row(name, *numbers, f"{m['fp_per_scan']:.2f}", f"{100 * m['precision']:.0f} %")
    console.print(table)
    fitted = out_of_fold["cross_fitted"]
    figures = f"{100 * fitted['sensitivity']:.1f} % at {fitted['fp_per_scan']:.2f} FP/scan"
    console.print(f"out of fold with each fold's threshold chosen on the others: {figures}")
    with (WORKSPACE / "results/detections.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    console.print(f"{len(rows)} findings in the locked scans by the server, release {rows[0]['release'] if rows else '-'}")
    console.print(f"pictures of every finding   {WORKSPACE / 'results'}/*.png", soft_wrap=True)
    console.print(f"everything on one page      {WORKSPACE / 'reports/report.html'}", soft_wrap=True)
    console.print(
        f"runs and releases           cd {WORKSPACE.name} && ../.venv/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db"
    )
    console.print(f"done in {(time.monotonic() - started) / 60:.1f} minutes. Research software, not a medical device.")


def main() -> None:
    started = time.monotonic()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)  # a closed terminal ends the server too
    site = SimulatedSite(WORKSPACE, "the demo")
    site.create(SETTINGS)
    site.simulate(DATASETS)
    site.train()
    release = re.search(r"release (\d+)", site.run("cmb", "release", "register", quiet=True)).group(1)
    site.run("cmb", "release", "promote", release, "--reason", "demo")
    site.commit("Promotion", "audit.jsonl")
    with server() as url:
        scans = [str(scan.path.relative_to(WORKSPACE)) for scan in find_scans(WORKSPACE / "data/raw/locked")]
        site.run("cmb", "detect", *scans, "--server", url, "--out", "results")
    show_results(started)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("the demo was interrupted; `make demo` continues where it stopped")

"""Blocks of docs/explanation/scale.md: what a cohort of large scans takes, from measured rates and stated assumptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.scale import GOALS
from scripts.results.committed import load

SCANS = 100_000
LINKS_GBIT = (1, 10)  # of each reader and of each server; assumed, not measured
MACHINES = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (2, 16), (4, 32), (8, 64))  # readers, servers


@dataclass(frozen=True)
class Rates:
    """Of one scan. read_s: of one core. server_s: of one server, from sending to answer. sent, read, written: bytes."""

    read_s: float
    server_s: float
    read: int
    sent: int
    written: float
    server_cores: int

    def hours(self, readers: int, servers: int, gbit: float) -> dict[str, float]:
        """Hours that each part would need for SCANS scans if it were the only one: the longest is the first bottleneck."""
        sent_s = 8 * self.sent / (gbit * 1e9)
        seconds = {
            "reading": self.read_s / readers,
            "the readers' network": sent_s / readers,
            "the servers": self.server_s / servers,
            "the servers' network": sent_s / servers,
        }
        return {part: SCANS * s / 3600 for part, s in seconds.items()}


def rates() -> Rates:
    """Of the committed runs, for compressed files."""
    scale, serving = load("benchmarks/results/scale.json"), load("benchmarks/results/serving.json")
    reading = scale["reading"]
    return Rates(
        read_s=reading["compressed"]["cpu_s"],
        server_s=serving["large"]["gRPC"],
        read=reading["compressed"]["bytes"],
        sent=reading["sent_bytes"],
        written=scale["cohort"]["whole"]["parquet_bytes_per_scan"],
        server_cores=serving["machine"]["cores"],
    )


def measured_rates() -> str:
    """Each rate with its source."""
    r, reading, large = rates(), load("benchmarks/results/scale.json")["reading"], load("benchmarks/results/serving.json")["large"]
    rows = [
        "| per scan of 512×448×80 | | measured by |\n|---|--:|---|",
        f"| reading, checking and hashing `.nii.gz`, one core | {r.read_s:.2f} s | `make bench-scale`, processor time |",
        f"| … `.nii` | {reading['uncompressed']['cpu_s']:.2f} s | `make bench-scale`, processor time |",
        f"| a server on {r.server_cores} CPU cores, gRPC on loopback included | {r.server_s:.1f} s | `make bench-serving` |",
        f"| … of which gRPC, both ends | {large['gRPC'] - large['in process']:.1f} s | … less the time in process |",
        f"| read from storage, `.nii.gz` in int16 | {r.read / 1e6:.1f} MB | `make bench-scale` |",
        f"| … `.nii` | {reading['uncompressed']['bytes'] / 1e6:.1f} MB | `make bench-scale` |",
        f"| sent to a server, float32 | {r.sent / 1e6:.1f} MB | the wire contract |",
        f"| written as Parquet | {r.written / 1e3:.1f} kB | `make bench-scale`, small scans |",
    ]
    return "\n".join(rows)


def plan() -> str:
    """Hours and first bottleneck by numbers of machines."""
    r = rates()
    heads = " | ".join(f"hours, {gbit} Gbit/s | first bottleneck" for gbit in LINKS_GBIT)
    rows = [f"| readers *n* | servers *m* | {heads} |", "|--:|--:" + "|--:|---" * len(LINKS_GBIT) + "|"]
    for readers, servers in MACHINES:
        cells = []
        for gbit in LINKS_GBIT:
            part, hours = max(r.hours(readers, servers, gbit).items(), key=lambda item: item[1])
            cells.append(f"{hours:.1f} | {part}")
        rows.append(f"| {readers} | {servers} | {' | '.join(cells)} |")
    return "\n".join(rows)


def totals() -> str:
    """Bytes and core hours of the whole cohort, however many machines share them."""
    r = rates()
    rows = {
        "read from storage, `.nii.gz`": f"{SCANS * r.read / 1e12:.2f} TB",
        "sent to servers": f"{SCANS * r.sent / 1e12:.2f} TB",
        "written": f"{SCANS * r.written / 1e9:.2f} GB",
        "servers, CPU": f"{SCANS * r.server_s * r.server_cores / 3600:,.0f} core hours",
        "readers": f"{SCANS * r.read_s / 3600:,.0f} core hours",
    }
    return "\n".join([f"| {SCANS:,} scans | |\n|---|--:|", *(f"| {what} | {value} |" for what, value in rows.items())])


def least() -> str:
    """Hours that no servers can undercut, and the rate of all servers together from which on more do not help."""
    r = rates()
    rows = ["| readers *n* | link | at least | servers in total, scans/s | what limits |", "|--:|---|--:|--:|---|"]
    for readers in (1, 2, 4, 8):
        for gbit in LINKS_GBIT:
            hours = {part: h for part, h in r.hours(readers, 1, gbit).items() if "servers" not in part}
            part = max(hours, key=lambda p: hours[p])
            per_s = SCANS / 3600 / hours[part]
            rows.append(f"| {readers} | {gbit} Gbit/s | {hours[part]:.1f} h | {per_s:.1f} | {part} |")
    return "\n".join(rows)


def goals() -> str:
    """The goals of benchmarks/scale.py and what was measured."""
    scale = load("benchmarks/results/scale.json")
    rows = ["| | measured | goal |\n|---|---|---|"]
    for key, (goal, less, meaning) in GOALS.items():
        bound = f"{'≤' if less else '≥'} {goal:g}" if goal else "0"
        rows.append(f"| {meaning} | {_shown(scale, key)} | {bound} |")
    rows.insert(2, f"| … ratio of processor times | {scale['dask_overhead']['processor_ratio']:.3g} | |")
    run = scale["cohort"]["disturbed"]
    rows.insert(3, f"| rows of a run in which a server and the client were killed | {run['rows']:,} | {run['scans']:,} |")
    return "\n".join(rows)


def _shown(scale: dict[str, Any], key: str) -> str:
    low, high = scale["dask_overhead"]["range"]
    spread = f" ({low:.2f}–{high:.2f} in {len(scale['dask_overhead']['seconds']['dask'])} rounds)"
    return f"{scale['goals'][key]:.3g}{spread if key == 'dask_overhead' else ''}"


BLOCKS = {
    "scale-goals": goals,
    "cohort-rates": measured_rates,
    "cohort-plan": plan,
    "cohort-totals": totals,
    "cohort-least": least,
}

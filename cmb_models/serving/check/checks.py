"""The checks of `cmb server check`. Each returns a line about what it observed, or raises Failed with the fault."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cmb_models.client.connection import channel
from cmb_models.client.contract import DETECTOR, OUTPUTS, Tensor, inputs_of
from cmb_models.client.grpc import Client
from cmb_models.client.kserve import Service
from cmb_models.detection import DetectionResult
from cmb_models.errors import InputError
from cmb_models.io.nifti import read_volume
from cmb_models.release.bundle import GOLDEN_PHASE, GOLDEN_SCAN, load_bundle
from cmb_models.serving.check.answers import POSITION_TOLERANCE_MM, difference, rows_of
from cmb_models.serving.check.scans import faulty, head, smooth_tissue, stored_as
from cmb_models.serving.deploy.golden import check_golden
from cmb_models.volume import Volume

SIZES = {  # by name: shape, spacing in mm
    "odd": ((81, 95, 37), (1.0, 1.0, 2.0)),
    "thick": ((67, 85, 31), (1.3, 1.1, 3.9)),
    "fine": ((131, 117, 71), (0.7, 0.8, 1.1)),
}
TYPICAL = ((197, 233, 94), (0.9, 0.9, 1.6))
LARGE = ((512, 448, 80), (0.45, 0.45, 1.75))
ORDERS = {"LPS": ((0, 1, 2), (-1, -1, 1)), "sagittal": ((1, 2, 0), (-1, -1, 1)), "coronal": ((0, 2, 1), (1, -1, -1))}
REJECTED = {"nan": "NaN", "constant": "constant", "thin": "field of view"}  # fault: a word that the error must contain
CLIENTS, REQUESTS_EACH = 8, 2
QUERY_S = 30
NEAR_MM = 3.0


class Failed(Exception):
    """The server failed a check."""


class Inconclusive(Exception):
    """No fault, but the case to be checked did not occur."""


@dataclass
class Server:
    """The server under test. model: the ensemble to check. seconds: latencies by size of scan."""

    url: str
    model: str = DETECTOR
    bundle: Path | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def detect(self, volume: Volume, case: str, phase: Volume | None = None) -> DetectionResult:
        """Detect on a new connection and check that the result names the release being served. Raises InputError as the client."""
        with Client(self.url, model=self.model) as client:
            answer, serving = client.detect(volume, phase, case=case), client.serving()
        if serving is None or (answer.release, answer.manifest_sha256) != (serving.release, serving.manifest_sha256):
            raise Failed(f"answer of release {answer.release}, while {self.model} is of {serving}")
        return answer


def contract(server: Server) -> str:
    """The ensemble has the inputs and outputs of contract.py, by name, type and shape."""
    with Client(server.url, model=server.model) as client:
        if client.serving() is None:
            raise Failed(f"{server.model} is not deployed; run `cmb server deploy`")
        inputs = inputs_of(client.requires_phase)
    with channel(server.url) as connection:
        metadata = Service(connection).call("ModelMetadata", QUERY_S, name=server.model)
    for kind, tensors, served in (("inputs", inputs, metadata.inputs), ("outputs", OUTPUTS, metadata.outputs)):
        expected, got = {_described(t) for t in tensors}, {(t.name, t.datatype, tuple(t.shape)) for t in served}
        if expected != got:
            raise Failed(
                f"{kind} without {sorted(expected - got)}, with {sorted(got - expected)}; client and server differ in version"
            )
    return f"{len(inputs)} inputs, {len(OUTPUTS)} outputs"


def pins(server: Server) -> str:
    """Every step of the ensemble is loaded and pinned to the release that the ensemble names."""
    with channel(server.url) as connection:
        service = Service(connection)
        config = service.call("ModelConfig", QUERY_S, name=server.model).config
        release = int(config.parameters["release"].string_value)
        steps = {step.model_name: step.model_version for step in config.ensemble_scheduling.step}
        mixed = {name: version for name, version in steps.items() if version != release}
        if mixed or not steps:
            raise Failed(f"release {release} with steps of other releases: {mixed or 'no steps'}")
        absent = [name for name in steps if not service.call("ModelReady", QUERY_S, name=name, version=str(release)).ready]
    if absent:
        raise Failed(f"steps not loaded in version {release}: {', '.join(absent)}")
    return f"release {release}, manifest {config.parameters['manifest_sha256'].string_value[:12]}, {len(steps)} steps"


def golden(server: Server) -> str:
    """The golden scan gives the bundle's recorded result."""
    if server.bundle is None:
        raise Inconclusive("no --bundle given")
    bundle = load_bundle(server.bundle)
    phase = read_volume(bundle.path / GOLDEN_PHASE) if bundle.config.preprocess.phase else None
    answer = server.detect(read_volume(bundle.path / GOLDEN_SCAN), "the golden scan", phase)
    try:
        check_golden(answer, bundle, answer.release)
    except InputError as error:
        raise Failed(f"expected {error.expected}, got {error.got}") from error
    return f"{len(answer.candidates)} candidates as in {server.bundle}"


def spots(server: Server) -> str:
    """Dark spots in a uniform head are among the candidates: a release that finds nothing must not pass."""
    scan = head(*SIZES["odd"])
    answer = _timed(server, scan.volume, "odd", scan.phase)
    places = np.asarray([c.position_mm for c in answer.candidates]).reshape(-1, 3)
    near = [len(places) and np.linalg.norm(places - spot, axis=1).min() < NEAR_MM for spot in scan.spots_mm]
    if sum(near) < 0.5 * len(near):
        raise Failed(f"{sum(near)} of {len(near)} plain dark spots among {len(places)} candidates")
    return f"{sum(near)} of {len(near)} among {len(places)} candidates, {len(answer.detections)} reach the threshold"


def orientations(server: Server) -> str:
    """A head in several sizes and voxel orders gives the same positions and scores, on voxels of the scan."""
    for size, (shape, spacing) in SIZES.items():
        scan = head(shape, spacing)
        first = _timed(server, scan.volume, size, scan.phase)
        _on_voxels(first, scan.volume, size)
        for name, (axes, signs) in ORDERS.items():
            volume = stored_as(scan.volume, axes, signs)
            answer = _timed(server, volume, size, stored_as(scan.phase, axes, signs))
            _same(first, answer, f"{size} scan stored as {name}")
            _on_voxels(answer, volume, f"{size} scan stored as {name}")
    return f"{len(SIZES)} sizes, each in {1 + len(ORDERS)} orders"


def no_candidates(server: Server) -> str:
    """A scan without candidates is answered. Needs a release that finds none in smooth tissue."""
    fewest = None
    for name, scan in (("even tissue", smooth_tissue()), ("a smooth head", head((72, 72, 40), (1.2, 1.2, 2.0), spots=False))):
        try:
            answer = server.detect(scan.volume, name, scan.phase)
        except InputError as error:  # rightly rejected if its phase has no vein
            raise Inconclusive(f"rejected, so the case without candidates did not occur: {error}") from error
        if not answer.candidates:
            return f"{name}: 0 candidates, answered"
        fewest = min(fewest or len(answer.candidates), len(answer.candidates))
    raise Inconclusive(
        f"answered, but this release has {fewest} faint candidates or more in any scan: the case without candidates did not occur"
    )


def rejections(server: Server) -> str:
    """Invalid scans are rejected for the right reason, and the next valid scan is answered."""
    scan = head(*SIZES["odd"])
    for kind, word in REJECTED.items():
        volume = faulty(kind, scan)
        try:  # the phase of a thin scan is as thin
            server.detect(volume, kind, Volume(scan.phase.data[:, :, : volume.data.shape[2]], scan.phase.affine))
        except InputError as error:
            if word not in str(error):
                raise Failed(f"{kind}: rejected for another reason: {error}") from error
        else:
            raise Failed(f"{kind}: answered instead of rejected")
    server.detect(scan.volume, "after the rejections", scan.phase)
    return ", ".join(REJECTED)


def concurrency(server: Server) -> str:
    """Eight concurrent clients, each on its own connection, get the same result as a single client."""
    scan = head(*SIZES["odd"])
    alone = server.detect(scan.volume, "alone", scan.phase)
    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda n: server.detect(scan.volume, f"request {n}", scan.phase), range(CLIENTS * REQUESTS_EACH)))
    elapsed_s = time.perf_counter() - start
    for n, answer in enumerate(answers):
        _same(alone, answer, f"request {n} of {len(answers)}")
    return f"{CLIENTS} clients, {len(answers)} answers in {elapsed_s:.1f} s"


def latency(server: Server, sizes: dict[str, tuple], runs: int = 3) -> str:
    """Time further sizes; the table shows all. There is no limit: a GPU builds its plans on the first request."""
    for name, (shape, spacing) in sizes.items():
        scan = head(shape, spacing)
        for _ in range(runs):
            _timed(server, scan.volume, name, scan.phase)
    return f"{sum(map(len, server.seconds.values()))} answers timed"


def latencies(server: Server) -> list[dict]:
    """Latencies in seconds by size: number of answers, first, median, slowest."""
    return [
        {"size": name, "answers": len(s), "first_s": s[0], "median_s": statistics.median(s), "slowest_s": max(s)}
        for name, s in server.seconds.items()
    ]


def checks(sizes: dict[str, tuple]) -> dict[str, Callable[[Server], str]]:
    """All checks by name, in order. sizes: further ones to time."""
    return {
        "contract": contract,
        "pins": pins,
        "golden": golden,
        "spots": spots,
        "orientations": orientations,
        "zero candidates": no_candidates,
        "refusals": rejections,
        "together": concurrency,
        "latency": lambda server: latency(server, sizes),
    }


def _described(tensor: Tensor) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name, tensor.datatype, tensor.shape


def _timed(server: Server, volume: Volume, size: str, phase: Volume) -> DetectionResult:
    start = time.perf_counter()
    answer = server.detect(volume, size, phase)
    server.seconds.setdefault(size, []).append(time.perf_counter() - start)
    return answer


def _same(expected: DetectionResult, got: DetectionResult, case: str) -> None:
    if fault := difference(rows_of(expected), rows_of(got)):
        raise Failed(f"{case}: {fault}")


def _on_voxels(answer: DetectionResult, volume: Volume, case: str) -> None:
    for one in answer.candidates:
        centre = volume.affine[:3, :3] @ one.index + volume.affine[:3, 3]
        within = all(0 <= i < n for i, n in zip(one.index, volume.data.shape, strict=True))
        if not within or np.abs(centre - one.position_mm).max() > 0.51 * max(volume.spacing_mm) + POSITION_TOLERANCE_MM:
            raise Failed(f"{case}: voxel {one.index} of {volume.data.shape} for {np.round(one.position_mm, 1).tolist()} mm")

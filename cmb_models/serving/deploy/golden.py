"""The golden-scan test: an ensemble must return the bundle's recorded result and its release."""

from __future__ import annotations

import numpy as np

from cmb_models.client.grpc import Client, Serving
from cmb_models.detection import DetectionResult
from cmb_models.errors import InputError
from cmb_models.files import read_json
from cmb_models.io.nifti import read_volume
from cmb_models.release.bundle import GOLDEN_ANSWER, GOLDEN_PHASE, GOLDEN_SCAN, Bundle
from cmb_models.serving.check.answers import difference, rows_of


def run_golden(server_url: str, ensemble: str, bundle: Bundle, release: int) -> None:
    """Send a bundle's golden scan through an ensemble. Raises InputError or RuntimeError if the result differs."""
    with Client(server_url, model=ensemble) as client:
        phase = read_volume(bundle.path / GOLDEN_PHASE) if bundle.config.preprocess.phase else None
        answer = client.detect(read_volume(bundle.path / GOLDEN_SCAN), phase, case=f"{bundle.path / GOLDEN_SCAN}")
    check_golden(answer, bundle, release)


def check_golden(answer: DetectionResult, bundle: Bundle, release: int) -> None:
    """Raise InputError unless a result for the golden scan matches the bundle's and names this release."""
    expected = np.asarray(read_json(bundle.path / GOLDEN_ANSWER)["candidates"], dtype=np.float64).reshape(-1, 4)
    faults = []
    if Serving(answer.release, answer.manifest_sha256) != Serving(release, bundle.manifest_sha256):
        faults.append(f"an answer of release {answer.release}, manifest {answer.manifest_sha256[:12]}")
    if fault := difference(expected, rows_of(answer)):
        faults.append(fault)
    if faults:
        remedy = "the server keeps its release; compare its environment with the one that exported the bundle"
        raise InputError("golden-answer", f"golden scan of {bundle.path}", "the bundle's golden answer", "; ".join(faults), remedy)

"""The golden scan: does an ensemble of a server give a bundle's own answer, and name its release?"""

from __future__ import annotations

import numpy as np

from cmb_models.bundle import GOLDEN_ANSWER, GOLDEN_PHASE, GOLDEN_SCAN, Bundle
from cmb_models.client.grpc_client import Client, Serving
from cmb_models.detection import Answer
from cmb_models.errors import InputError
from cmb_models.files import read_json
from cmb_models.io.nifti import read_volume

SCORE_TOLERANCE = 1e-4  # between ONNX Runtime builds; FACTS 8: BatchNorm networks agree to 1e-6, scores pass two of them
PLACE_TOLERANCE_MM = 0.1  # well below a voxel: a candidate is the same voxel or another one


def try_golden(server_url: str, ensemble: str, bundle: Bundle, release: int) -> None:
    """Send a bundle's golden scan through an ensemble. Raises InputError or RuntimeError unless its answer is the bundle's own."""
    with Client(server_url, model=ensemble) as client:
        phase = read_volume(bundle.path / GOLDEN_PHASE) if bundle.config.preprocess.phase else None
        answer = client.detect(read_volume(bundle.path / GOLDEN_SCAN), f"{bundle.path / GOLDEN_SCAN}", phase)
    check_golden(answer, bundle, release)


def check_golden(answer: Answer, bundle: Bundle, release: int) -> None:
    """Raise InputError unless an answer to the golden scan is the bundle's own, and signed by this release."""
    expected = np.asarray(read_json(bundle.path / GOLDEN_ANSWER)["candidates"], dtype=np.float64).reshape(-1, 4)
    got = np.asarray([[*d.world_mm, d.score] for d in answer.candidates], dtype=np.float64).reshape(-1, 4)
    faults = []
    if Serving(answer.release, answer.manifest_sha256) != Serving(release, bundle.manifest_sha256):
        faults.append(f"an answer of release {answer.release}, manifest {answer.manifest_sha256[:12]}")
    if len(got) != len(expected):
        faults.append(f"{len(got)} candidates for {len(expected)}")
    else:
        faults += _differences(expected, got)
    if faults:
        remedy = "the server keeps its release; compare its environment with the one that exported the bundle"
        raise InputError(f"golden scan of {bundle.path}", "the bundle's own golden answer", "; ".join(faults), remedy)


def _differences(expected: np.ndarray, got: np.ndarray) -> list[str]:
    """What differs between rows [x, y, z, score] (N, 4), paired by place: candidates of nearly equal score may change order."""
    if not len(expected):
        return []
    distance_mm = np.linalg.norm(expected[:, None, :3] - got[None, :, :3], axis=-1)
    nearest = distance_mm.argmin(axis=1)
    moved_mm = distance_mm.min(axis=1)
    score = np.abs(expected[:, 3] - got[nearest, 3])
    faults = []
    if moved_mm.max() > PLACE_TOLERANCE_MM or len(set(nearest.tolist())) < len(nearest):
        faults.append(f"places up to {moved_mm.max():.2f} mm away (tolerance {PLACE_TOLERANCE_MM:g})")
    elif score.max() > SCORE_TOLERANCE:
        faults.append(f"scores up to {score.max():.2g} apart (tolerance {SCORE_TOLERANCE:g})")
    return faults

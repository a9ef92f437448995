"""The wire contract of client and server: names, types and shapes of the detector's tensors. Imports only NumPy.

Shapes use -1 for variable sizes: the volume's extents, and N, the number of scored candidates (0 and up, best first).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmb_models.detection import Detection, DetectionResult

DETECTOR = "cmb_detector"
CHALLENGER = "cmb_challenger"  # ensemble of the challenger, which runs in shadow mode
PREPARE, UNET, CANDIDATES, CNN, DECIDE = "cmb_prepare", "cmb_unet", "cmb_candidates", "cmb_cnn", "cmb_decide"
STEPS = (PREPARE, UNET, CANDIDATES, CNN, DECIDE)
PLAIN, SECURE = "grpc://", "grpcs://"  # address schemes without and with TLS
ADMIN_KEY = "CMB_ADMIN_KEY"  # variable with the key for restricted calls


@dataclass(frozen=True)
class Tensor:
    """One tensor: name on the wire, NumPy type, and shape, in which -1 stands for any length."""

    name: str
    dtype: type
    shape: tuple[int, ...]

    @property
    def datatype(self) -> str:
        """The name of the type in KServe v2."""
        return DATATYPES[self.dtype]


DATATYPES: dict[type, str] = {np.float32: "FP32", np.float64: "FP64", np.int32: "INT32", np.int64: "INT64", np.object_: "BYTES"}

VOLUME = Tensor("volume", np.float32, (-1, -1, -1))  # the scan as stored, (i, j, k)
AFFINE = Tensor("affine", np.float64, (4, 4))  # voxel index to RAS mm
PHASE = Tensor("phase", np.float32, (-1, -1, -1))  # its phase image as stored, on the same grid; input of releases that use phase

CENTRE_MM = Tensor("centre_mm", np.float64, (-1, 3))
INDEX = Tensor("index", np.int32, (-1, 3))
DIAMETER_MM = Tensor("diameter_mm", np.float32, (-1,))
SCORE = Tensor("score", np.float64, (-1,))  # float64, as the threshold: client and server must agree which candidates reach it
STAGE1_SCORE = Tensor("stage1_score", np.float32, (-1,))
STAGE2_SCORE = Tensor("stage2_score", np.float32, (-1,))
THRESHOLD = Tensor("threshold", np.float64, (1,))  # the release's operating point on `score`
RELEASE = Tensor("release", np.int64, (1,))
MANIFEST = Tensor("manifest_sha256", np.object_, (1,))

INPUTS = (VOLUME, AFFINE)  # of every release; see `inputs_of`
OUTPUTS = (CENTRE_MM, INDEX, DIAMETER_MM, SCORE, STAGE1_SCORE, STAGE2_SCORE, THRESHOLD, RELEASE, MANIFEST)


def inputs_of(uses_phase: bool) -> tuple[Tensor, ...]:
    """The input tensors of a release, in order."""
    return (*INPUTS, PHASE) if uses_phase else INPUTS


def pack(answer: DetectionResult) -> dict[str, np.ndarray]:
    """Convert a DetectionResult to the output tensors by name. Without candidates, the first axes have length 0."""
    rows = answer.candidates
    columns = {
        CENTRE_MM: [r.position_mm for r in rows],
        INDEX: [r.index for r in rows],
        DIAMETER_MM: [r.diameter_mm for r in rows],
        SCORE: [r.score for r in rows],
        STAGE1_SCORE: [r.stage1_score for r in rows],
        STAGE2_SCORE: [r.stage2_score for r in rows],
        THRESHOLD: [answer.threshold],
        RELEASE: [answer.release],
        MANIFEST: [answer.manifest_sha256.encode()],
    }
    return {t.name: np.asarray(values, dtype=t.dtype).reshape(t.shape) for t, values in columns.items()}


def unpack(tensors: dict[str, np.ndarray]) -> DetectionResult:
    """Convert the output tensors by name to a DetectionResult: the inverse of `pack`, up to float32 rounding."""
    candidates = tuple(
        Detection(tuple(c.tolist()), tuple(i.tolist()), float(d), float(s), float(s1), float(s2))
        for c, i, d, s, s1, s2 in zip(*(tensors[t.name] for t in OUTPUTS[:6]), strict=True)
    )
    manifest = tensors[MANIFEST.name][0]
    manifest = manifest.decode() if isinstance(manifest, bytes) else str(manifest)
    return DetectionResult(candidates, float(tensors[THRESHOLD.name][0]), int(tensors[RELEASE.name][0]), manifest)

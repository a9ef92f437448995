"""Tensors between the served steps, and the response of a Python step.

Releases that use phase run in separately named models where tensors differ (`model_of`): a model has one configuration for all its
versions, and releases of both kinds are resident while one replaces the other.

Shapes use -1 for variable sizes. N is the number of candidates (0 and up). The CNN gets at least one patch, since an empty batch is
untested on the CUDA execution provider: for N = 0 it scores a blank patch that `cmb_decide` drops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cmb_models.client.contract import (
    AFFINE,
    CANDIDATES,
    CHALLENGER,
    CNN,
    DECIDE,
    DETECTOR,
    OUTPUTS,
    PREPARE,
    STEPS,
    UNET,
    Tensor,
    inputs_of,
)
from cmb_models.config.params import PipelineConfig
from cmb_models.errors import InputError, to_status
from cmb_models.files import read_json
from cmb_models.release.bundle import CNN_INPUT, CNN_OUTPUT, PIPELINE_FILE, UNET_INPUT, UNET_OUTPUT
from cmb_models.runtime.device import is_of_device

RELEASE_FILE = "release.json"  # {"release": int, "manifest_sha256": str, "golden": {"shape": [I, J, K], "sha256": str}}

IMAGE = Tensor(UNET_INPUT, np.float32, (1, 1, -1, -1, -1))  # on the working grid, padded, normalised
GRID_AFFINE = Tensor("grid_affine", np.float64, (4, 4))  # working voxel index to RAS mm
EXTENT = Tensor("extent_vox", np.int32, (3,))  # of the image before padding
HEATMAP = Tensor(UNET_OUTPUT, np.float32, (1, 1, -1, -1, -1))
GRID_PHASE = Tensor("grid_phase", np.float32, (-1, -1, -1))  # on the same grid, radians
PATCHES = Tensor(CNN_INPUT, np.float32, (-1, 1, -1, -1, -1))
PATCHES_WITH_PHASE = Tensor(CNN_INPUT, np.float32, (-1, 2, -1, -1, -1))
CNN_SCORE = Tensor("cnn_score", np.float32, (-1,))  # in the ensemble, where the output is named stage2_score
FOUND_INDEX = Tensor("found_index_vox", np.int64, (-1, 3))
FOUND_MM = Tensor("found_centre_mm", np.float64, (-1, 3))
FOUND_DIAMETER = Tensor("found_diameter_mm", np.float32, (-1,))
FOUND_SCORE = Tensor("found_score", np.float32, (-1,))
FOUND = (FOUND_INDEX, FOUND_MM, FOUND_DIAMETER, FOUND_SCORE)
TRACE = Tensor("trace", np.object_, (1,))  # request_trace.py, after the first step
TRACE_FOUND = Tensor("trace_found", np.object_, (1,))  # after the candidates step

# A step does not know which ensemble calls it, and clients' claims are not trusted. Ensembles other than production's therefore map
# the affine to an additional, optional input of the first step, whose name identifies the role.
ROLE_INPUTS = {CHALLENGER: Tensor("as_challenger", AFFINE.dtype, AFFINE.shape)}
PROBE_INPUT = Tensor("as_probe", AFFINE.dtype, AFFINE.shape)  # of all ensembles but production's and the challenger's

RENAMED = {CNN: {CNN_SCORE.name: CNN_OUTPUT}}  # step -> {name in the ensemble: name in the step}


def flow(uses_phase: bool) -> dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Inputs and outputs of each step of a release, in order."""
    patches = PATCHES_WITH_PHASE if uses_phase else PATCHES
    return {
        PREPARE: (inputs_of(uses_phase), prepared(uses_phase)),
        UNET: ((IMAGE,), (HEATMAP,)),
        CANDIDATES: ((HEATMAP, *prepared(uses_phase)), (patches, *FOUND, TRACE_FOUND)),
        CNN: ((patches,), (CNN_SCORE,)),
        DECIDE: ((*FOUND, TRACE_FOUND, CNN_SCORE, AFFINE), OUTPUTS),
    }


def prepared(uses_phase: bool) -> tuple[Tensor, ...]:
    """Outputs of the first step."""
    return (IMAGE, GRID_AFFINE, EXTENT, TRACE, *((GRID_PHASE,) if uses_phase else ()))


def role_input(ensemble: str) -> Tensor | None:
    """The first step's input that identifies an ensemble; None for production's."""
    return None if ensemble == DETECTOR else ROLE_INPUTS.get(ensemble, PROBE_INPUT)


def model_of(step: str, uses_phase: bool) -> str:
    """The name of the model that runs a step."""
    return f"{step}_phase" if uses_phase and step in (PREPARE, CANDIDATES, CNN) else step


MODELS = tuple(dict.fromkeys(model_of(step, uses_phase) for uses_phase in (False, True) for step in STEPS))


def read_pipeline(args: dict[str, str]) -> PipelineConfig:
    """The release's settings, from the version folder that `initialize(args)` was called for."""
    return PipelineConfig.model_validate(read_json(version_folder(args) / PIPELINE_FILE))


def card_of(args: dict[str, str]) -> int:
    """Number of the CUDA device that Triton assigned to the instance that `initialize(args)` was called for; 0 without one."""
    return int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else 0


def version_folder(args: dict[str, str]) -> Path:
    """The folder of the version being initialised."""
    return Path(args["model_repository"]) / args["model_version"]


def respond(requests: Sequence, outputs: Sequence[Tensor], answer: Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]) -> list:
    """One response per request, in order; a failed request gets an error and does not affect the others.

    A request whose client gave up is not computed: others wait behind it.

    answer: maps inputs by name to the arrays of `outputs`. InputError becomes INVALID_ARG (errors.to_status), any other exception
    INTERNAL, as the fault of a device is.
    """
    import triton_python_backend_utils as pb  # exists only inside the server

    def one(request) -> pb.InferenceResponse:
        if request.is_cancelled():
            return cancelled()
        try:
            arrays = answer({t.name(): t.as_numpy() for t in request.inputs()})
        except InputError as error:
            kind = pb.TritonError.INTERNAL if is_of_device(error) else pb.TritonError.INVALID_ARG
            return pb.InferenceResponse(error=pb.TritonError(to_status(error), kind))
        except Exception as error:  # no scan may stop the server
            return pb.InferenceResponse(error=pb.TritonError(f"{type(error).__name__}: {error}", pb.TritonError.INTERNAL))
        tensors = [pb.Tensor(t.name, np.ascontiguousarray(a, dtype=t.dtype)) for t, a in zip(outputs, arrays, strict=True)]
        return pb.InferenceResponse(tensors)

    return [one(request) for request in requests]


def cancelled():
    """The response to a request whose client has cancelled it, or whose deadline has passed."""
    import triton_python_backend_utils as pb  # exists only inside the server

    return pb.InferenceResponse(error=pb.TritonError("the client gave up", pb.TritonError.CANCELLED))

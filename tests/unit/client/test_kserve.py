"""Messages built from field numbers: the same bytes as those of Triton's generated code."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from cmb_models.client.contract import AFFINE, CENTRE_MM, INDEX, INPUTS, MANIFEST, OUTPUTS, SCORE, VOLUME, pack
from cmb_models.client.grpc import Client
from cmb_models.client.kserve import CALLS, CLASSES, infer_request, output_arrays
from cmb_models.detection import Detection, DetectionResult
from tests.support.bundles import head
from tests.support.kserve import kserve

TRITONS = {
    "Model": service_pb2.ModelMetadataRequest,
    "Empty": service_pb2.SystemSharedMemoryRegisterResponse,
    "TensorMetadata": service_pb2.ModelMetadataResponse.TensorMetadata,
    "Input": service_pb2.ModelInferRequest.InferInputTensor,
    "RequestedOutput": service_pb2.ModelInferRequest.InferRequestedOutputTensor,
    "Parameter": service_pb2.InferParameter,
    "Step": model_config_pb2.ModelEnsembling.Step,
    "Ensemble": model_config_pb2.ModelEnsembling,
    "ConfigParameter": model_config_pb2.ModelParameter,
    "ModelConfig": model_config_pb2.ModelConfig,
}


@pytest.mark.parametrize("name", CLASSES)
def test_fields_have_the_numbers_and_types_of_tritons(name):
    tritons = TRITONS.get(name) or getattr(service_pb2, name)
    for field in CLASSES[name].DESCRIPTOR.fields:
        other = tritons.DESCRIPTOR.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), field.name


def test_calls_have_the_requests_and_responses_of_tritons():
    methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for name, (request, response) in CALLS.items():
        expected = {"Model": methods[name].input_type.name, "Empty": methods[name].output_type.name}
        assert expected.get(request, request) == methods[name].input_type.name
        assert expected.get(response, response) == methods[name].output_type.name


def test_request_is_read_by_tritons_code():
    volume, affine = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.eye(4)
    request = infer_request("cmb_detector", [(VOLUME, volume), (AFFINE, affine)], [SCORE])
    request.raw_input_contents.extend([volume.tobytes(), affine.tobytes()])
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 96
    read = service_pb2.ModelInferRequest.FromString(request.SerializeToString())
    assert read.model_name == "cmb_detector" and [o.name for o in read.outputs] == ["score"]
    assert [(i.name, i.datatype, list(i.shape)) for i in read.inputs] == [("volume", "FP32", [2, 3, 4]), ("affine", "FP64", [4, 4])]
    assert list(read.raw_input_contents) == [volume.tobytes(), affine.tobytes()]
    assert read.inputs[0].parameters["shared_memory_region"].string_param == "region"
    assert read.inputs[0].parameters["shared_memory_byte_size"].int64_param == 96


@pytest.mark.parametrize("n", [0, 2])
def test_response_of_tritons_code_is_read(n):
    """Outputs in another order than the contract's; unknown fields are skipped."""
    response = service_pb2.ModelInferResponse(model_name="cmb_detector", model_version="1", id="7")
    arrays = {MANIFEST: (1,), INDEX: (n, 3), CENTRE_MM: (n, 3)}
    contents = (b"\x03\0\0\0abc", np.arange(3 * n, dtype="<i4").tobytes(), np.arange(3 * n, dtype="<f8").tobytes())
    for (tensor, shape), raw in zip(arrays.items(), contents, strict=True):
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        response.raw_output_contents.append(raw)
    response.outputs.add(name="of_a_later_version", datatype="BF16", shape=(1,))
    response.raw_output_contents.append(b"12")
    read = output_arrays(CLASSES["ModelInferResponse"].FromString(response.SerializeToString()), list(arrays))
    assert read["manifest_sha256"].tolist() == [b"abc"]
    assert read["index"].tolist() == np.arange(3 * n).reshape(n, 3).tolist() and read["index"].dtype == np.int32
    assert read["centre_mm"].shape == (n, 3)


RESULT = DetectionResult((Detection((1.0, 2.0, 3.0), (4, 5, 6), 4.0, 0.9, 0.75, 0.5),), 0.25, 7, "abc")


def answer(changes: dict[str, tuple[str, np.ndarray] | None]) -> service_pb2.ModelInferResponse:
    """RESULT as Triton sends it, with other types and arrays by output; None for one that is missing."""
    response = service_pb2.ModelInferResponse(model_name="cmb_detector")
    arrays = pack(RESULT)
    for tensor in OUTPUTS:
        if (sent := changes.get(tensor.name, (tensor.datatype, arrays[tensor.name]))) is not None:
            datatype, array = sent
            response.outputs.add(name=tensor.name, datatype=datatype, shape=array.shape)
            raw = len(array[0]).to_bytes(4, "little") + array[0] if datatype == "BYTES" else array.tobytes()
            response.raw_output_contents.append(raw)
    return response


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({}, ""),
        ({"score": ("FP32", np.array([0.9], np.float32))}, "score of type FP32"),
        # As many bytes as the contract's type: it would be read as another number.
        ({"score": ("INT64", np.array([1]))}, "score of type INT64"),
        ({"release": ("BYTES", np.array([b"7"], np.object_))}, "release of type BYTES"),
        ({"threshold": None, "release": None}, "no threshold, release"),
        ({"index": ("INT32", np.zeros((1, 2), np.int32))}, r"index of shape \(1, 2\)"),
        ({"threshold": ("FP64", np.zeros(0))}, r"threshold of shape \(0,\)"),
        ({"score": ("FP64", np.array([0.9, 0.8]))}, "between 1 and 2 candidates"),
    ],
    ids=["as it should be", "FP32", "INT64", "BYTES", "missing", "columns", "empty", "rows"],
)
def test_an_answer_in_another_form_is_an_error_for_each_scan(changes, got):
    metadata = service_pb2.ModelMetadataResponse()
    for tensor in INPUTS:
        metadata.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    with (
        kserve({"ModelMetadata": lambda *_: metadata, "ModelInfer": lambda *_: answer(changes)}) as url,
        Client(url, timeout_s=30) as client,
    ):
        answers = list(client.detect_many([head(), head(seed=1)]))
        if not changes:
            assert [a.result.candidates for a in answers] == [RESULT.candidates] * 2
            return
        for found in answers:
            assert found.error.code == "server-version" and found.error.case == url and re.search(got, found.error.got)
            assert "one version" in found.error.remedy

"""Detect microbleeds with stubs generated from Triton's protocol files: python detect.py HOST:PORT SCAN [PHASE]

Prints a JSON object with the detections, or with the error and exit status 1.
"""

from __future__ import annotations

import json
import sys
import time

import grpc
import grpc_service_pb2 as pb
import nibabel as nib
import numpy as np
from grpc_service_pb2_grpc import GRPCInferenceServiceStub

MODEL = "cmb_detector"
MESSAGE_BYTES = 2**31 - 1
TIMEOUT_S = 120  # of one attempt
DEADLINE_S = 600  # after which no further attempt begins
# NOT_FOUND: a server that starts has no release loaded yet.
RETRIED = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
DTYPES = {"FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "INT64": "<i8"}


def main(address: str, scan: str, phase: str | None = None) -> int:
    """Print the answer for one scan; the exit status."""
    options = [("grpc.max_send_message_length", MESSAGE_BYTES), ("grpc.enable_http_proxy", 0)]
    try:
        with grpc.insecure_channel(address, options=options) as channel:
            answer = detect(GRPCInferenceServiceStub(channel), scan, phase)
    except grpc.RpcError as error:
        answer = {"status": error.code().name, "code": code_of(error.details()), "message": error.details()}
    print(json.dumps(answer, indent=1))
    return 1 if "status" in answer else 0


def detect(stub: GRPCInferenceServiceStub, scan: str, phase: str | None) -> dict:
    """The detections in a scan, by a server that may be starting."""
    metadata = attempt(stub.ModelMetadata, pb.ModelMetadataRequest(name=MODEL))
    image = nib.load(scan)
    if not (image.header["qform_code"] or image.header["sform_code"]):
        sys.exit(f"{scan}: it has neither qform nor sform")  # nibabel's guess for such a file may be mirrored
    arrays = {"volume": voxels(image), "affine": np.asarray(image.affine, dtype="<f8")}
    if "phase" in {tensor.name for tensor in metadata.inputs}:
        if phase is None:
            sys.exit("this release needs the scan's phase image as third argument")
        arrays["phase"] = voxels(nib.load(phase))  # on the voxel grid of the scan
    return result(attempt(stub.ModelInfer, request(arrays)))


def voxels(image: nib.Nifti1Image) -> np.ndarray:
    """(I, J, K) as stored, scaling applied."""
    return np.asarray(image.dataobj, dtype="<f4")


def request(arrays: dict[str, np.ndarray]) -> pb.ModelInferRequest:
    """One scan. Tensors are sent as raw bytes in C order: the last index, k, changes fastest."""
    message = pb.ModelInferRequest(model_name=MODEL)
    for name, array in arrays.items():
        message.inputs.add(name=name, datatype="FP64" if name == "affine" else "FP32", shape=array.shape)
        message.raw_input_contents.append(array.tobytes(order="C"))
    return message


def attempt(call, message):
    """The response; sent again, after growing pauses, while no server or release answers."""
    began, pause_s = time.monotonic(), 0.5
    while True:
        try:
            return call(message, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() not in RETRIED or time.monotonic() + pause_s - began > DEADLINE_S:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 15)


def result(response: pb.ModelInferResponse) -> dict:
    """The detections, best first: the candidates whose score reaches the release's threshold."""
    tensors = {t.name: decoded(t, raw) for t, raw in zip(response.outputs, response.raw_output_contents, strict=True)}
    columns = ("centre_mm", "index", "diameter_mm", "score", "stage1_score", "stage2_score")
    rows = zip(*(tensors[name].tolist() for name in columns), strict=True)
    candidates = [dict(zip(columns, row, strict=True)) for row in rows]
    threshold = tensors["threshold"].item()
    return {
        "release": tensors["release"].item(),
        "manifest_sha256": tensors["manifest_sha256"],
        "threshold": threshold,
        "detections": [c for c in candidates if c["score"] >= threshold],
    }


def decoded(tensor, raw: bytes) -> np.ndarray | str:
    """An output; of BYTES the first element, which follows its length in four bytes."""
    if tensor.datatype == "BYTES":
        return raw[4 : 4 + int.from_bytes(raw[:4], "little")].decode()
    return np.frombuffer(raw, dtype=DTYPES[tensor.datatype]).reshape(tensor.shape)


def code_of(message: str) -> str | None:
    """The stable code in the message of a rejected scan; None if the scan was not the reason."""
    start = message.find('{"code": ')
    return json.JSONDecoder().raw_decode(message[start:])[0]["code"] if start >= 0 else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

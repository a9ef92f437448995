"""Does a server keep the contract? `python -m serving.smoke HOST:PORT [SCAN.nii.gz]`: metadata, and one scan if given."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tritonclient.utils import np_to_triton_dtype

from cmb_models.client.connection import connect
from cmb_models.client.contract import DETECTOR, OUTPUTS, Tensor, inputs_of
from cmb_models.client.grpc_client import Client
from cmb_models.errors import InputError
from cmb_models.io.nifti import read_volume
from cmb_models.io.site import read_phase


def check_contract(url: str) -> None:
    """Raise InputError unless a server's detector has the inputs and outputs of contract.py, names, types and shapes."""
    with Client(url) as client:
        if client.serving() is None:
            raise InputError(url, "a server with a release deployed", "one without", "run `cmb deploy`")
        wanted = inputs_of(client.uses_phase())
    with contextlib.closing(connect(url)) as client:
        metadata = client.get_model_metadata(DETECTOR)
    for kind, tensors, served in (("inputs", wanted, metadata.inputs), ("outputs", OUTPUTS, metadata.outputs)):
        expected = {_described(t) for t in tensors}
        got = {(t.name, t.datatype, tuple(t.shape)) for t in served}
        if expected != got:
            difference = f"without {sorted(expected - got)}, with {sorted(got - expected)}"
            raise InputError(url, f"the {kind} of contract.py", difference, "use client and server of one version")


def _described(tensor: Tensor) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name, np_to_triton_dtype(tensor.dtype), tensor.shape


def main(arguments: Sequence[str]) -> int:
    """Check the server named first; send the scan named second, if any. 0 when all is well, 2 with one line otherwise."""
    url, *scans = arguments
    try:
        check_contract(url)
        with Client(url) as client:
            sys.stdout.write(f"{url}: contract kept, {client.serving()}\n")
            for scan in scans:
                phase = read_phase(Path(scan)) if client.uses_phase() else None
                answer = client.detect(read_volume(Path(scan)), scan, phase)
                sys.stdout.write(f"{scan}: {len(answer.detections)} of {len(answer.candidates)} candidates reach the threshold\n")
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

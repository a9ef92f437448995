"""A scan's arrays in memory that a server on the same machine reads, in place of a message that carries them.

Triton's system shared memory. It saves a copy through gRPC on either side; how much, `make bench-serving` measures. A server
opens it to holders of its admin key alone, since whoever may register memory may have any of the server's user read.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, shared_memory

from cmb_models.client.connection import admin_headers
from cmb_models.client.contract import ADMIN_KEY, Tensor
from cmb_models.errors import InputError

ALIGNED = 64  # bytes; where an array begins
# After these the server may still be at work on the request, and Triton does not promise to keep what a client has it let go of
# meanwhile: the region then stays registered until the server ends.
UNKNOWN = ("DEADLINE_EXCEEDED", "CANCELLED", "UNAVAILABLE")


@contextlib.contextmanager
def shared_inputs(
    client: grpc.InferenceServerClient, arrays: Mapping[Tensor, np.ndarray], url: str, timeout_s: float
) -> Iterator[list[grpc.InferInput]]:
    """Inputs of a request whose arrays lie in a region of shared memory, which goes when the block is left. Left by an exception
    after which the server may still read it, the region stays with the server.

    arrays: contiguous, of each tensor's type. url: of the server, for messages. Raises InputError where the server does not open
    the region: it is on another machine or in a container with memory of its own, or wants an admin key.
    """
    starts = np.cumsum([0, *(-(-a.nbytes // ALIGNED) * ALIGNED for a in arrays.values())]).tolist()
    name = f"cmb-scan-{os.getpid()}-{uuid.uuid4().hex}"
    region = shared_memory.create_shared_memory_region(name, f"/{name}", starts[-1])
    try:
        _register(client, name, starts[-1], url, timeout_s)
        ended = True
        try:
            inputs = []
            for (tensor, array), start in zip(arrays.items(), starts, strict=False):
                shared_memory.set_shared_memory_region(region, [array], start)
                inputs.append(grpc.InferInput(tensor.name, array.shape, np_to_triton_dtype(tensor.dtype)))
                inputs[-1].set_shared_memory(name, array.nbytes, start)
            ended = False
            yield inputs
            ended = True
        except InferenceServerException as error:
            ended = not any(status in str(error.status()) for status in UNKNOWN)
            raise
        finally:
            if ended:
                with contextlib.suppress(InferenceServerException):  # a server that ended has let go of it
                    client.unregister_system_shared_memory(name, headers=admin_headers(), client_timeout=timeout_s)
    finally:
        shared_memory.destroy_shared_memory_region(region)


def _register(client: grpc.InferenceServerClient, name: str, size: int, url: str, timeout_s: float) -> None:
    try:
        client.register_system_shared_memory(name, f"/{name}", size, headers=admin_headers(), client_timeout=timeout_s)
    except InferenceServerException as error:
        text = error.message() or ""
        if "restricted" in text:
            remedy = f"set {ADMIN_KEY} to the server's key, or send scans without shared memory"
            raise InputError(
                "admin-key-wrong", url, "the admin key of a server that is to read shared memory", "none or another", remedy
            ) from error
        if "shared memory" in text:
            remedy = "start it there, with the machine's own /dev/shm, or send scans without shared memory"
            raise InputError(
                "shared-memory-unavailable", url, "a server that shares this machine's memory", text, remedy
            ) from error
        raise

"""Transfer of a scan to a server on the same machine by Triton's system shared memory.

It saves a copy through gRPC on either side (measured by `make bench-serving`). Servers require their admin key for it, since
clients that register memory can make the server read any memory of its user.
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

ALIGNED = 64  # bytes, alignment of arrays
# After these errors the server may still use the region, and Triton does not protect a region that is unregistered meanwhile:
# it stays registered until the server exits.
UNKNOWN = ("DEADLINE_EXCEEDED", "CANCELLED", "UNAVAILABLE")


@contextlib.contextmanager
def shared_inputs(
    client: grpc.InferenceServerClient, arrays: Mapping[Tensor, np.ndarray], url: str, timeout_s: float
) -> Iterator[list[grpc.InferInput]]:
    """Inputs of a request with their arrays in a shared memory region, which is removed on exit.

    After an exception that leaves the server reading it, the region stays registered with the server.

    arrays: contiguous, of each tensor's type. url: of the server, for messages. Raises InputError if the server cannot open the
    region: it is on another machine, in a container with separate memory, or requires an admin key.
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
                with contextlib.suppress(InferenceServerException):  # a server that exited has released it
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
            remedy = "start it on this machine with the host's /dev/shm, or send scans without shared memory"
            raise InputError(
                "shared-memory-unavailable", url, "a server that shares this machine's memory", text, remedy
            ) from error
        raise

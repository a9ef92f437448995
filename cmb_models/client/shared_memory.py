"""Transfer of a scan to a server on the same machine by Triton's system shared memory.

It saves a copy through gRPC on either side (measured by `make bench-serving`). Servers require their admin key for it, since
clients that register memory can make the server read any memory of its user.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from cmb_models.client.connection import admin_headers
from cmb_models.client.contract import ADMIN_KEY, OUTPUTS, Tensor
from cmb_models.client.kserve import Service, infer_request
from cmb_models.errors import InputError

REGIONS = Path("/dev/shm")  # of Linux
ALIGNED = 64  # bytes, alignment of arrays
# After these errors the server may still use the region, and Triton does not protect a region that is unregistered meanwhile:
# it stays registered until the server exits.
UNKNOWN = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


@contextlib.contextmanager
def shared_request(service: Service, model: str, arrays: Mapping[Tensor, np.ndarray], url: str, timeout_s: float) -> Iterator[Any]:
    """A request whose arrays are in a shared memory region, which is removed on exit.

    After an exception that leaves the server reading it, the region stays registered with the server.

    arrays: contiguous, of each tensor's type. url: of the server, for messages. Raises InputError if this machine has no room for
    the region, or the server cannot open it: it is on another machine, in a container with separate memory, or requires an admin
    key.
    """
    starts = np.cumsum([0, *(-(-a.nbytes // ALIGNED) * ALIGNED for a in arrays.values())]).tolist()
    name = f"cmb-scan-{os.getpid()}-{uuid.uuid4().hex}"
    with _region(name, starts[-1]) as region:
        _register(service, name, starts[-1], url, timeout_s)
        ended = True
        try:
            request = infer_request(model, list(arrays.items()), OUTPUTS)
            for entry, array, start in zip(request.inputs, arrays.values(), starts, strict=False):
                region[start : start + array.nbytes] = array.reshape(-1).view(np.uint8).data
                entry.parameters["shared_memory_region"].string_param = name
                entry.parameters["shared_memory_byte_size"].int64_param = array.nbytes
                if start:  # 0 is not sent, and a parameter without a value is refused
                    entry.parameters["shared_memory_offset"].int64_param = start
            ended = False
            yield request
            ended = True
        except grpc.RpcError as error:
            ended = error.code() not in UNKNOWN
            raise
        finally:
            if ended:
                with contextlib.suppress(grpc.RpcError):  # a server that exited has released it
                    service.call("SystemSharedMemoryUnregister", timeout_s, admin_headers(), name=name)


@contextlib.contextmanager
def _region(name: str, size: int) -> Iterator[mmap.mmap]:
    """A new region that this user alone can open. Its name is removed on exit; processes that mapped it keep it.

    Raises InputError if it cannot be created, as where memory is short.
    """
    path = REGIONS / name
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            stack.callback(path.unlink)
            stack.callback(os.close, descriptor)
            # Unlike ftruncate it fails where memory is short, instead of a later write.
            os.posix_fallocate(descriptor, 0, size)
            region = stack.enter_context(mmap.mmap(descriptor, size))
        except OSError as error:
            remedy = "enlarge it (containers: --shm-size), or send scans without shared memory"
            raise InputError(
                "shared-memory-unavailable", REGIONS, f"room for {size} bytes", error.strerror or str(error), remedy
            ) from error
        yield region


def _register(service: Service, name: str, size: int, url: str, timeout_s: float) -> None:
    try:
        service.call("SystemSharedMemoryRegister", timeout_s, admin_headers(), name=name, key=f"/{name}", byte_size=size)
    except grpc.RpcError as error:
        text = error.details() or ""
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

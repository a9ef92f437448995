"""A gRPC server in this process whose answers the test decides, for what a Triton server cannot be made to answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

MAX_BYTES = 2**31 - 1


@contextlib.contextmanager
def kserve(calls: Mapping[str, Callable[[Any, grpc.ServicerContext], Any]]) -> Iterator[str]:
    """The address of a server that answers these calls of KServe v2, by name, within the block."""
    servicer = service_pb2_grpc.GRPCInferenceServiceServicer()
    for name, answer in calls.items():
        setattr(servicer, name, answer)
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, options=[("grpc.max_receive_message_length", MAX_BYTES)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()

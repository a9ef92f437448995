"""The gRPC client, its wire contract, and the files of results."""

import os

# Read by gRPC on import. connection.py reports failed handshakes.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

"""Scans to a server and back."""

import os

# Here, since gRPC reads it when it is first imported: connection.py tells of failed handshakes, so gRPC need not.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

"""Triton: the served models, the bundled server, and what makes a server agree with the registry."""

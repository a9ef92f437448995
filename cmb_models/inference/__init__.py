"""A release's ONNX files as callables from array to array."""

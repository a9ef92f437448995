"""Simulated microbleeds in real gradient-echo scans: what a release finds of them, and its false positives."""

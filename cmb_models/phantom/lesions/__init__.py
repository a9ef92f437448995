"""Microbleeds and mimics: where they lie, their bodies, how large they are seen, and what they do to the signal."""

"""Alternatives in the accuracy benchmark: other methods to find microbleeds, as published."""

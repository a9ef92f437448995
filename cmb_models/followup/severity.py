"""Severity of ARIA-H by the number of new microbleeds, with its probability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Classes of ARIA-H microhemorrhages by the number of new ones, as in the US prescribing information of lecanemab and donanemab:
# mild up to 4, moderate 5 to 9, severe 10 or more. The first number of each class.
CLASSES = {"none": 0, "mild": 1, "moderate": 5, "severe": 10}


def severity(new: int) -> str:
    """The class of a number of new microbleeds, 0 or more."""
    return [name for name, first in CLASSES.items() if new >= first][-1]


def poisson_binomial(probabilities: Sequence[float] | np.ndarray) -> np.ndarray:
    """Distribution of the number of successes among independent trials.

    Args:
        probabilities: (N,) of success, in [0, 1]. N may be 0.

    Returns:
        (N + 1,) probabilities of 0 to N successes, by convolution; [1] for no trial.
    """
    result = np.ones(1)
    for p in probabilities:
        result = np.convolve(result, [1 - p, p])
    return result


def class_probabilities(probabilities: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Probability of each class.

    Args:
        probabilities: (N,) that each candidate is a new microbleed (`correspondence.new_probabilities`), taken as independent.

    Returns:
        By class in the order of CLASSES; they add up to 1.
    """
    counts = poisson_binomial(probabilities)
    edges = [*CLASSES.values(), len(counts) + 1]
    return {name: float(counts[first:end].sum()) for name, first, end in zip(CLASSES, edges[:-1], edges[1:], strict=True)}

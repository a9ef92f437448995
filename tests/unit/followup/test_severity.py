"""Severity by the number of new microbleeds: every border, and probabilities by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cmb_models.followup.severity import class_probabilities, poisson_binomial, severity


@pytest.mark.parametrize(
    ("new", "expected"),
    [(0, "none"), (1, "mild"), (4, "mild"), (5, "moderate"), (9, "moderate"), (10, "severe"), (60, "severe")],
)
def test_class_of_a_number(new, expected):
    assert severity(new) == expected


def test_distribution_by_hand():
    # None: .5 * .8 = .4; one: .5 * .8 + .5 * .2 = .5; both: .5 * .2 = .1.
    assert poisson_binomial([0.5, 0.2]) == pytest.approx([0.4, 0.5, 0.1])
    assert poisson_binomial([]).tolist() == [1]
    assert poisson_binomial([1, 0, 1]) == pytest.approx([0, 0, 1, 0])


def test_distribution_equals_the_sum_over_all_outcomes():
    p = np.array([0.1, 0.35, 0.6, 0.95, 0.5])
    expected = np.zeros(6)
    for outcome in itertools.product((0, 1), repeat=5):
        expected[sum(outcome)] += np.where(outcome, p, 1 - p).prod()
    assert poisson_binomial(p) == pytest.approx(expected)


def test_class_probabilities():
    assert class_probabilities([]) == {"none": 1, "mild": 0, "moderate": 0, "severe": 0}
    assert class_probabilities([1] * 9) == pytest.approx({"none": 0, "mild": 0, "moderate": 1, "severe": 0})
    # Four certain ones and one of .3; ten certain ones but one of .9.
    assert class_probabilities([1] * 4 + [0.3]) == pytest.approx({"none": 0, "mild": 0.7, "moderate": 0.3, "severe": 0})
    assert class_probabilities([1] * 9 + [0.9]) == pytest.approx({"none": 0, "mild": 0, "moderate": 0.1, "severe": 0.9})
    assert sum(class_probabilities([0.3] * 60).values()) == pytest.approx(1)

"""Which setting mattered, where it is known which did."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.training.tuning.importance import FEWEST, importances


def trials(count, value=lambda p: p["dropout"] ** 2, state="COMPLETE"):
    rng = np.random.default_rng(0)
    rows = []
    for n in range(count):
        params = {"learning_rate": float(10 ** rng.uniform(-3, -1)), "dropout": float(rng.uniform(0, 1)), "fixed": 1.0}
        rows.append({"number": n, "state": state, "value": value(params), "params": params})
    return rows


def test_the_setting_that_alone_decides_is_named_first():
    found = importances(trials(30))
    assert next(iter(found)) == "dropout" and found["dropout"] > 0.8 and sum(found.values()) == pytest.approx(1)
    assert set(found) == {"dropout", "learning_rate"}  # what never varied explains nothing
    assert found == importances(trials(30))


@pytest.mark.parametrize(
    "rows",
    [[], trials(FEWEST - 1), trials(20, state="PRUNED"), trials(20, value=lambda p: 0.5)],
    ids=["none", "too few", "all stopped early", "all alike"],
)
def test_nothing_is_said_where_nothing_is_known(rows):
    assert importances(rows) is None

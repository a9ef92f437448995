"""The model card tells how scores are made, so that somebody else could make them."""

from __future__ import annotations

import pytest

from cmb_models.release.model_card import model_card
from tests.support.bundles import settings


@pytest.mark.parametrize(("mean", "what"), [("log_odds", "log odds are"), ("geometric", "logarithm is")])
def test_the_joint_score_is_told_as_it_is_made(mean, what):
    config = settings()
    decision = config.decision.model_copy(update={"joint_mean": mean, "stage2_weight": 0.25, "slope": 2.0, "intercept": -1.5})
    card = model_card(config.model_copy(update={"decision": decision}), {}, {})
    expected = (
        f"its {what} the weighted mean of those of both stages' scores, with weights 0.750 for stage 1 and 0.250 for stage 2."
    )
    assert expected in card and "sigmoid(2.000 · logit(fused score) − 1.500)" in card

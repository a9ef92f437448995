"""The model card: every section, before and after registration."""

from __future__ import annotations

import pytest

from cmb_models.release.model_card import model_card
from tests.support.bundles import settings


@pytest.mark.parametrize(
    ("mean", "fusion"),
    [
        ("log_odds", "logarithmic opinion pool, logit(fused) = 0.750 · logit(stage 1) + 0.250 · logit(stage 2)"),
        ("geometric", "weighted geometric mean, log(fused) = 0.750 · log(stage 1) + 0.250 · log(stage 2)"),
    ],
)
def test_the_card_states_the_score_fusion_and_calibration(mean, fusion):
    config = settings()
    decision = config.decision.model_copy(update={"joint_mean": mean, "stage2_weight": 0.25, "slope": 2.0, "intercept": -1.5})
    card = model_card(config.model_copy(update={"decision": decision}), {}, {})
    assert fusion in card and "sigmoid(2.000 · logit(fused) − 1.500)" in card

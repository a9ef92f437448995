"""Which settings of a search mattered."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from cmb_models.training.tuning.study import LOG_SCALE

FEWEST = 8  # finished trials; with four, a made-up value that depends on one setting alone was shared out about evenly


def importances(trials: Sequence[dict]) -> dict[str, float] | None:
    """Hyperparameter importance by fANOVA (Hutter et al. 2014); deterministic.

    Args:
        trials: As study.summary writes them; only complete ones count.

    Returns:
        Share of the objective's variance by setting, largest first, with sum 1. None if undefined: fewer than FEWEST
        completed trials, all values equal, or scikit-learn not installed.
    """
    done = [t for t in trials if t["state"] == TrialState.COMPLETE.name]
    if len(done) < FEWEST or len({t["value"] for t in done}) < 2:
        return None
    names = sorted(done[0]["params"])
    ranges = {n: (min(t["params"][n] for t in done), max(t["params"][n] for t in done)) for n in names}
    space: dict[str, BaseDistribution] = {
        n: FloatDistribution(low, high, log=n in LOG_SCALE) for n, (low, high) in ranges.items() if low < high
    }
    if not space:
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for trial in done:
        settings = {n: trial["params"][n] for n in space}
        study.add_trial(optuna.trial.create_trial(params=settings, distributions=space, value=trial["value"]))
    try:
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    except ImportError:
        return None
    return {name: float(share) for name, share in found.items()}

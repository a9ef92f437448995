"""Stage detect_candidates: stage 1's candidates of every training scan, each from a model that never saw its subject."""

from __future__ import annotations

import numpy as np

from cmb_models.config.params import load_params
from cmb_models.evaluation.metrics import froc_table
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.files import read_json, write_json
from cmb_models.registry.mlflow.tracking import log_stage
from cmb_models.training.checkpoint import checkpoint_directory
from cmb_models.training.data.examples import load_examples
from cmb_models.training.tuning.objective import apply_tuned, scored_scan
from cmb_models.training.validation.cross_validation import candidates_out_of_fold
from cmb_models.training.validation.jobs import save_candidates
from cmb_models.workspace.paths import CANDIDATES, CHECKPOINTS, PARAMS, PREPARED, REPORTS, SPLIT, TUNED_UNET
from cmb_models.workspace.stage import run


def main() -> None:
    params = load_params(PARAMS)
    unet = apply_tuned(params.unet, read_json(TUNED_UNET))
    with checkpoint_directory(CHECKPOINTS / "detect_candidates") as checkpoints:
        mined = candidates_out_of_fold(params, unet, PREPARED, read_json(SPLIT), checkpoints)
        for scan in mined:
            save_candidates(CANDIDATES, scan)
    examples = {e.key: e for e in load_examples(PREPARED)}
    scans, settings = [scored_scan(examples[m.key], m, m.stage1_score) for m in mined], params.evaluate
    draws = subject_draws([s.subject for s in scans], settings.bootstrap, np.random.default_rng(settings.seed))
    rows = {f"sensitivity_at_{r['fp_per_scan']:g}_fp": r for r in froc_table(scans, settings.tolerance_mm, draws)}
    metrics = {name: row["sensitivity"] for name, row in rows.items()}
    metrics["intervals_95"] = {name: [row["low"], row["high"]] for name, row in rows.items()}
    metrics["candidates_per_scan"] = sum(len(m.stage1_score) for m in mined) / len(mined)
    write_json(REPORTS / "detect_candidates/metrics.json", metrics)
    log_stage("detect_candidates", unet.model_dump(), metrics)


if __name__ == "__main__":
    run(main)

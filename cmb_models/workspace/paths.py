"""Where the files of a workspace are, relative to its root."""

from __future__ import annotations

from pathlib import Path

PARAMS = Path("params.yaml")
RAW = Path("data/raw")
INDEX = Path("data/index.json")
SPLIT = Path("data/split.json")
INITIAL = Path("models/initial")
PREPARED = Path("data/prepared")
STATISTICS = Path("data/statistics.json")
CANDIDATES = Path("data/candidates")
TUNED_UNET = Path("models/tuned/unet.json")
TUNED_CNN = Path("models/tuned/cnn.json")
CALIBRATION = Path("models/calibration.json")
WEIGHTS = Path("models/weights")
BUNDLE = Path("models/bundle")
BUNDLE_LINEAGE = BUNDLE / "lineage.json"
REPORTS = Path("reports")
# Not an output of a stage: a killed stage resumes from it.
CHECKPOINTS = Path("studies/checkpoints")
EVALUATE_DIR = REPORTS / "evaluate"
EVALUATE_METRICS = EVALUATE_DIR / "metrics.json"
CROSS_VALIDATE_METRICS = REPORTS / "cross_validate/metrics.json"
DVC_YAML = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")
CODE_LOCK = Path("code.lock")
ENVIRONMENT_LOCK = Path("requirements.lock")
# One script per stage.
SCRIPTS = Path("pipelines")
# Written by promotions; no release is made from it.
AUDIT_LOG = Path("audit.jsonl")
# How often the locked scans were evaluated. Written by the evaluate stage, tracked by git.
EXPOSURE_LOG = Path("locked_evaluations.jsonl")
# Withdrawals of patients, without their names; tracked by git.
WITHDRAWAL_LOG = Path("withdrawals.jsonl")

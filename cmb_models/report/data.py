"""The report's data, read from a workspace's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cmb_models.config.params import Decision, Evaluate, PipelineConfig
from cmb_models.dataset.entries import SubjectSplit
from cmb_models.detect.fusion import calibrated
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.rows import DETECTIONS, LESIONS, read_rows, read_table
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.files import read_json, sha256_of
from cmb_models.release.bundle import LINEAGE_FILE, MANIFEST_FILE, PIPELINE_FILE


@dataclass(frozen=True)
class Sources:
    """Paths of the files, relative to the workspace."""

    out_of_fold: Path
    locked: Path
    tuned_unet: Path
    tuned_cnn: Path
    bundle: Path
    index: Path
    split: Path


@dataclass(frozen=True)
class Evaluation:
    """The evaluation on one set of scans. All scores are calibrated, so that both sets share scale and threshold.

    key: "out_of_fold" or "locked". draws: (B, S), bootstrap.subject_draws. lesions, detections: the saved rows (evaluation/rows.py)
    with calibrated `score`, None without one.
    """

    key: str
    title: str
    scans: tuple[ScoredScan, ...]
    threshold: float
    metrics: dict
    table: list[dict]
    draws: np.ndarray
    lesions: list[dict]
    detections: list[dict]

    @property
    def cmbs(self) -> list[dict]:
        return [r for r in self.lesions if r["label"] == "cmb"]

    @property
    def missed(self) -> list[dict]:
        return [r for r in self.cmbs if r["hit"] == "0"]

    @property
    def hits(self) -> list[dict]:
        return [r for r in self.cmbs if r["hit"] == "1"]

    @property
    def false_positives(self) -> list[dict]:
        return [r for r in self.detections if r["at_threshold"] == "false_positive"]


@dataclass(frozen=True)
class ReportData:
    """Both evaluations, both searches (models/tuned/*.json), and the lineage.

    images: path of each scan's SWI by key.
    """

    out_of_fold: Evaluation
    locked: Evaluation
    searches: dict[str, dict]
    lineage: dict
    manifest_sha256: str
    config: PipelineConfig
    images: dict[str, Path]
    split: SubjectSplit
    settings: Evaluate

    @property
    def evaluations(self) -> tuple[Evaluation, Evaluation]:
        """Both evaluations, the locked set first."""
        return self.locked, self.out_of_fold


def load_report_data(sources: Sources, settings: Evaluate) -> ReportData:
    """Read a workspace's results. Raises InputError if a stage's rows are missing."""
    config = PipelineConfig.model_validate(read_json(sources.bundle / PIPELINE_FILE))
    return ReportData(
        # Out-of-fold rows hold uncalibrated scores, on which the calibration was fitted; locked rows are calibrated by the bundle.
        out_of_fold=_evaluation("out_of_fold", "out of fold", sources.out_of_fold, settings, config.decision),
        locked=_evaluation("locked", "held-out test set", sources.locked, settings, None),
        searches={"Stage 1, U-Net": read_json(sources.tuned_unet), "Stage 2, CNN": read_json(sources.tuned_cnn)},
        lineage=read_json(sources.bundle / LINEAGE_FILE),
        manifest_sha256=sha256_of(sources.bundle / MANIFEST_FILE),
        config=config,
        images={s["key"]: Path(s["path"]) for s in read_json(sources.index)["scans"]},
        split=read_json(sources.split),
        settings=settings,
    )


def _evaluation(key: str, title: str, folder: Path, settings: Evaluate, decision: Decision | None) -> Evaluation:
    saved = read_rows(folder)
    draws = subject_draws([s.subject for s in saved.scans], settings.bootstrap, np.random.default_rng(settings.seed))

    def scale(scores: np.ndarray) -> np.ndarray:
        return scores if decision is None else calibrated(scores, decision)

    scans = tuple(replace(s, scores=scale(s.scores)) for s in saved.scans)
    tables = (_scored(read_table(folder / name), scale) for name in (LESIONS, DETECTIONS))
    threshold = float(scale(np.array(saved.threshold)))
    metrics, table = read_json(folder / "metrics.json"), read_json(folder / "froc.json")
    table = [row | {"threshold": float(scale(np.array(row["threshold"])))} for row in table]
    return Evaluation(key, title, scans, threshold, metrics, table, draws, *tables)


def _scored(rows: Sequence[dict], scale) -> list[dict]:
    """The rows with `score` as a calibrated number, None where it is empty."""
    return [row | {"score": float(scale(np.array(float(row["score"])))) if row["score"] else None} for row in rows]

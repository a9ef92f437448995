"""The settings that travel in a bundle (PipelineConfig), and what a release must show to be promoted (Gate)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cmb_models.config.types import Count, Positive, Probability, Section, Seed, Size


class Preprocess(Section):
    """The grid and intensity scale both networks see.

    spacing_mm: working grid, RAS axes. multiple_vox: each axis is padded to a multiple of this (2 to the number of the U-Net's
    stride-2 levels). foreground_fraction: share of the 99th percentile above which a voxel counts as head, not air.
    clip: normalised intensities are cut at plus and minus this. phase: stage 2 gets the phase as a second channel (phase.py);
    false where it is left out, as in releases made before there was the choice.
    """

    spacing_mm: tuple[Positive, Positive, Positive]
    multiple_vox: Size
    foreground_fraction: Annotated[float, Field(gt=0, lt=1)]
    clip: Positive
    phase: bool = False


class Candidates(Section):
    """floor: lowest stage-1 score of a candidate. min_distance_mm: between two candidates. max_per_scan: best ones kept."""

    floor: Probability
    min_distance_mm: Positive
    max_per_scan: Count


class Fusion(Section):
    """How both stages' scores are joined (detect/fusion.py): a weighted mean of their log odds, or a geometric one of themselves.

    stage2_weight: stage 2's part. What is left out is as in releases made before there was the choice: geometric, of one half each.
    """

    stage2_weight: Probability = 0.5
    joint_mean: Literal["log_odds", "geometric"] = "geometric"


class Decision(Fusion):
    """Calibration of the joint score, sigmoid(slope * logit(joint) + intercept), and the threshold on the calibrated score."""

    slope: float
    intercept: float
    threshold: Probability


class PipelineConfig(Section):
    """All that turns a scan into detections besides the two networks; pipeline.json in the bundle. patch_vox: stage 2's patch."""

    preprocess: Preprocess
    candidates: Candidates
    patch_vox: Size
    decision: Decision

    @property
    def patch_channels(self) -> int:
        """Channels of stage 2's patches: the SWI, and the phase where it is used."""
        return 2 if self.preprocess.phase else 1


class SizeFloors(Section):
    """Lowest sensitivity by class of size (evaluation/statistics/strata.py), from the diameter in mm that the class begins at."""

    below_2_mm: Probability | None
    from_2_mm: Probability | None
    from_3_mm: Probability | None
    from_5_mm: Probability | None
    from_10_mm: Probability | None


class Gate(Section):
    """What a release must show on the locked scans before it may be promoted; None switches a check off.

    tolerance_mm, bootstrap, seed: how it is judged, as in `evaluate`; the gate's own, so that two releases are judged alike.
    `_low` and `_high` limit the lower and upper end of the 95 % interval over subjects. min_sensitivity, max_fp_per_scan: at the
    release's own threshold. min_sensitivity_at_fp: at `at_fp_per_scan` false positives a scan, whatever threshold that takes.
    max_fp_per_cmb_free_scan: on scans without CMBs. max_ece: calibration error of all candidates' scores. min_site_sensitivity,
    max_site_fp_per_scan: of every single dataset; min_size_sensitivity: of every class of size. With fewer than
    min_lesions or min_scans the check is reported as not judged and passes. sensitivity_margin, fp_margin: how much worse than
    production the release may be at most, by the end of the paired interval, on min_common_scans or more scans that both were
    evaluated on. max_parity: difference of ONNX to torch, as measured at export. max_seconds: for the bundle's golden scan, on the
    machine that asks.
    """

    tolerance_mm: Positive
    bootstrap: Annotated[int, Field(ge=100)]
    seed: Seed
    min_sensitivity: Probability | None
    min_sensitivity_low: Probability | None
    max_fp_per_scan: Positive | None
    max_fp_per_scan_high: Positive | None
    at_fp_per_scan: Positive
    min_sensitivity_at_fp: Probability | None
    min_sensitivity_at_fp_low: Probability | None
    max_fp_per_cmb_free_scan: Positive | None
    max_ece: Probability | None
    min_site_sensitivity: Probability | None
    max_site_fp_per_scan: Positive | None
    min_size_sensitivity: SizeFloors
    min_lesions: Count
    min_scans: Count
    sensitivity_margin: Probability | None
    fp_margin: Annotated[float, Field(ge=0)] | None
    min_common_scans: Annotated[int, Field(ge=2)]
    max_parity: Positive | None
    max_seconds: Positive | None

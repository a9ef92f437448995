"""params.yaml as typed settings; the part of them that travels in a bundle and the gate's are in release.py.

Unknown keys and impossible values are refused by name. This file holds ranges and shapes, no defaults: every value stands
in params.yaml, so a stage can never run on a number that DVC does not track.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

import cmb_models.config.types as settings
from cmb_models.config.release import Candidates, Gate, Preprocess
from cmb_models.config.release import Decision as Decision  # read from here by all that read settings
from cmb_models.config.release import Fusion as Fusion
from cmb_models.config.release import PipelineConfig as PipelineConfig
from cmb_models.config.types import (
    Count,
    Fraction,
    FractionRange,
    LevelRange,
    Levels,
    Positive,
    Probability,
    Range,
    Section,
    Seed,
    Size,
    Steps,
    explain,
)
from cmb_models.errors import InputError

RANDOM = "random"  # of train.init_from
RANDOM_RECIPE = "the steps and learning rates for random weights (see Upgrade in the documentation)"


class Ingest(Section):
    """raw_dir: folder of datasets, relative to the workspace. min_scans: fewest training scans that are worth starting with."""

    raw_dir: str
    min_scans: Count


class Split(Section):
    """folds: subject-wise folds. locked_datasets: whole datasets kept for the final test.

    locked_fraction: share of the subjects of each other dataset that is locked too.
    """

    folds: Annotated[int, Field(ge=2)]
    seed: Seed
    locked_datasets: tuple[str, ...]
    locked_fraction: Annotated[float, Field(ge=0, lt=1)]


class Unet(Section):
    """The candidate network: architecture and training recipe.

    channels: of each level, from full resolution down. strides: into each level, the first 1. sigma_mm: width of the Gaussian that
    marks a centre in the target heatmap. lesion_fraction: share of training patches placed around a CMB. hard_negative_fraction: of
    the others, share placed around false positives, which are mined again (hard_negatives.py) when the shares
    `hard_negatives_at` of the steps are done; none before. inserted_per_patch, inserted_mimics_per_patch: mean number of
    simulated CMBs and mimics put into a training
    patch (insertion.py), 0 for none. warped_fraction: share of the patches that are turned, tilted and scaled (spatial.py).
    focal_gamma, focal_beta: exponents of the loss (losses.py). frozen_levels: so many of the encoder's levels, from full resolution
    down, keep the weights and normalisation statistics of the release that training starts from.
    """

    channels: Annotated[tuple[Count, ...], Field(min_length=3)]
    strides: tuple[Annotated[int, Field(ge=1, le=2)], ...]
    patch_vox: Size
    batch: Count
    steps: Steps
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    sigma_mm: Positive
    lesion_fraction: Probability
    hard_negative_fraction: Probability
    hard_negatives_at: tuple[Fraction, ...]
    inserted_per_patch: Annotated[float, Field(ge=0)]
    inserted_mimics_per_patch: Annotated[float, Field(ge=0)]
    warped_fraction: Probability
    focal_gamma: Positive
    focal_beta: Positive
    frozen_levels: Levels

    @model_validator(mode="after")
    def _strides_fit(self) -> Unet:
        if len(self.strides) != len(self.channels) or self.strides[0] != 1:
            wanted = f"{len(self.channels)} numbers, as unet.channels has, the first 1"
            raise ValueError(f"unet.strides must be {wanted}; they are {list(self.strides)}")
        return self

    @model_validator(mode="after")
    def _levels_exist(self) -> Unet:
        _require_levels("unet.frozen_levels", self.frozen_levels, self.channels)
        return self


class Cnn(Section):
    """Stage 2: architecture and training recipe. jitter_vox: largest shift of a training patch off its candidate, per axis.

    inserted_fraction: share of the positive examples that are simulated CMBs put into the scans (insertion.py).
    inserted_mimic_fraction: of the negative ones that are simulated mimics. warped_fraction: of all, as in stage 1.
    kind_weight: in the loss, of telling the kinds of mimics apart (networks.cnn.KINDS), where annotations name them.
    phase_dropout: share of the patches whose phase is left out, so that the SWI alone still counts; only with preprocess.phase.
    match_mm: a candidate this near to a CMB's centre is a positive example. frozen_levels: as of `unet`; a level is its two
    convolutions.
    """

    channels: Annotated[tuple[Count, ...], Field(min_length=1)]
    patch_vox: Size
    batch: Annotated[int, Field(ge=2)]
    steps: Steps
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    positive_fraction: Annotated[float, Field(gt=0, lt=1)]
    inserted_fraction: Probability
    inserted_mimic_fraction: Probability
    warped_fraction: Probability
    kind_weight: Annotated[float, Field(ge=0)]
    phase_dropout: Probability
    jitter_vox: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    match_mm: Positive
    frozen_levels: Levels

    @model_validator(mode="after")
    def _levels_exist(self) -> Cnn:
        _require_levels("cnn.frozen_levels", self.frozen_levels, self.channels)
        return self


def _require_levels(key: str, frozen: int, channels: tuple[int, ...]) -> None:
    if frozen > len(channels):
        raise ValueError(f"{key} must be at most {len(channels)}, the number of levels; it is {frozen}")


class LesionBankSettings(Section):
    """lesions: simulated ones in all, shared among the voxel sizes of the training scans (lesion_bank.py); 0 for none."""

    lesions: Annotated[int, Field(ge=0)]
    seed: Seed


class UnetSearch(Section):
    """Lowest and highest value of each setting of `unet` that is searched; one that is left out stays as it is."""

    learning_rate: Range | None = None
    weight_decay: Range | None = None
    sigma_mm: Range | None = None
    lesion_fraction: FractionRange | None = None
    inserted_per_patch: Range | None = None
    frozen_levels: LevelRange | None = None


class CnnSearch(Section):
    """The same for `cnn`."""

    learning_rate: Range | None = None
    weight_decay: Range | None = None
    dropout: FractionRange | None = None
    positive_fraction: FractionRange | None = None
    inserted_fraction: FractionRange | None = None
    frozen_levels: LevelRange | None = None


class Tuning(Section):
    """Settings of a hyperparameter search.

    trials: completed Optuna trials required. parallel_trials: trials sampled and run at the same time; a setting rather than the
    number of cores, so that the search is the same on every machine. steps: optimizer steps of one fold's model in a trial.
    fp_per_scan: the objective is the mean sensitivity up to this rate.
    """

    trials: Count
    parallel_trials: Count
    steps: Steps
    fp_per_scan: Positive
    seed: Seed


class TuneUnet(Tuning):
    """max_candidates_per_scan: a limit on the mean, since each costs stage 2's time and is one more to mistake."""

    max_candidates_per_scan: Count
    search: UnetSearch


class TuneCnn(Tuning):
    search: CnnSearch


class DetectCandidates(Section):
    seed: Seed
    candidates: Candidates


class CrossValidate(Section):
    seed: Seed
    nested: bool  # also repeat tuning, mining and calibration inside each fold (training/validation/nested.py)


class Train(Section):
    """init_from: what all trainings of both networks start from: random, base, or a release by number, role or bundle folder."""

    seed: Seed
    init_from: Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value), Field(min_length=1)]


class Export(Section):
    """parity_tolerance: largest difference of a score between torch and ONNX that passes. golden_seed: of the known-answer scan."""

    parity_tolerance: Positive
    golden_seed: Seed


class Calibrate(Section):
    """max_fp_per_scan: the threshold is the most sensitive one with at most this many false positives a scan, out of fold."""

    max_fp_per_scan: Positive


class Evaluate(Section):
    """tolerance_mm: a detection within max(this, lesion radius) of a CMB's centre finds it. bootstrap: resamples of subjects."""

    tolerance_mm: Positive
    bootstrap: Count
    seed: Seed


class Params(Section):
    """All of params.yaml: one section a stage, `unet` and `cnn` for the recipes that several stages share, `gate` for promotion."""

    ingest: Ingest
    split: Split
    preprocess: Preprocess
    lesion_bank: LesionBankSettings
    unet: Unet
    cnn: Cnn
    tune_unet: TuneUnet
    detect_candidates: DetectCandidates
    tune_cnn: TuneCnn
    cross_validate: CrossValidate
    train: Train
    export: Export
    calibrate: Calibrate
    evaluate: Evaluate
    gate: Gate
    promotion: settings.Promotion = settings.Promotion()

    @model_validator(mode="after")
    def _patch_fits_network(self) -> Params:
        factor = math.prod(self.unet.strides)
        for name, size in (("unet.patch_vox", self.unet.patch_vox), ("preprocess.multiple_vox", self.preprocess.multiple_vox)):
            if any(s % factor for s in size):
                raise ValueError(f"{name} must be multiples of {factor}, the product of unet.strides")
        return self

    @model_validator(mode="after")
    def _lesions_to_insert(self) -> Params:
        unet, cnn = self.unet, self.cnn
        wanted = (unet.inserted_per_patch, unet.inserted_mimics_per_patch, cnn.inserted_fraction, cnn.inserted_mimic_fraction)
        if any(wanted) and not self.lesion_bank.lesions:
            raise ValueError("lesion_bank.lesions must be above 0, or all inserted_ settings of unet and cnn 0")
        return self

    @model_validator(mode="after")
    def _searches_hold_their_recipe(self) -> Params:
        """Trial 0 is the recipe: outside the ranges, the search would not know where it began."""
        for name, search, recipe in (("unet", self.tune_unet.search, self.unet), ("cnn", self.tune_cnn.search, self.cnn)):
            ranges = search.model_dump(exclude_none=True)
            if not ranges:
                raise ValueError(f"tune_{name}.search must name at least one setting")
            for key, (low, high) in ranges.items():
                if not low <= getattr(recipe, key) <= high:
                    raise ValueError(f"tune_{name}.search.{key} must hold {name}.{key}, where the search begins")
        return self

    @model_validator(mode="after")
    def _levels_to_keep(self) -> Params:
        """Frozen random weights would stay random."""
        for name, search, recipe in (("unet", self.tune_unet.search, self.unet), ("cnn", self.tune_cnn.search, self.cnn)):
            searched = search.frozen_levels[1] if search.frozen_levels else 0
            for key, most in ((f"{name}.frozen_levels", recipe.frozen_levels), (f"tune_{name}.search.frozen_levels", searched)):
                _require_levels(key, most, recipe.channels)
                if most and self.train.init_from == RANDOM:
                    raise ValueError(f"{key} must be 0 with train.init_from: {RANDOM}; it is {most}")
        return self


def load_params(path: Path) -> Params:
    """Read and check params.yaml. All unknown keys and impossible values are named in one InputError."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            "file-not-found", path, "a params.yaml", "no such file", "run inside a workspace, as `cmb init` creates it"
        )
    try:
        raw = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise InputError("params-not-yaml", path, "valid YAML", " ".join(str(error).split()), "correct the file") from error
    try:
        return Params.model_validate(raw or {})
    except ValidationError as error:
        raise InputError("params-invalid", path, "known keys with possible values", explain(error), "correct these keys") from error

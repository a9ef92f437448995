"""The ways to find microbleeds that are compared: each is trained on one draw's scans and answers for every test scan."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from cmb_models.config.params import Params
from cmb_models.dataset.layout import ScanFile, find_scans
from cmb_models.detect.detector import detect, propose
from cmb_models.detect.preprocess import Prepared, prepare
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.operating_point import fusion_for
from cmb_models.files import atomic_write
from cmb_models.io.nifti import read_volume
from cmb_models.networks.cnn import Score
from cmb_models.networks.unet import Heatmap
from cmb_models.runtime.torch import as_callable
from cmb_models.training.data.examples import load_training
from cmb_models.training.data.samplers import UnetSampler
from cmb_models.training.final import train_both
from cmb_models.training.loop import best_device, train_unet
from cmb_models.training.validation.cross_validation import candidates_out_of_fold
from cmb_models.training.validation.jobs import UNDECIDED, pipeline_config, save_candidates
from research.accuracy.scans import POOL, TEST, code_hash, only, short_hash
from research.alternatives import nnunet, radial_symmetry, single_stage

OURS, STAGE1, STAGE1_LONG = "two-stage (ours)", "stage 1 alone", "stage 1 alone, whole budget"
UNPLANTED = "two-stage, nothing inserted"
SEGMENTATION, RADIAL, NNUNET = "U-Net segmentation", "radial symmetry", "nnU-Net v2"
NOTES = {
    OURS: "fold networks for candidates, both networks on all scans, joint score; not tuned by Optuna",
    STAGE1: "the first of the same two networks, its own score; a quarter of the budget",
    STAGE1_LONG: "stage 1 trained for the whole budget",
    UNPLANTED: "ours without simulated lesions in the training scans, all else the same",
    SEGMENTATION: "same network, patches and augmentation for the whole budget; nothing inserted; the best of three thresholds on "
    "the test scans themselves, which favours it",
    RADIAL: "no network; given the simulator's brain masks; settings chosen out of fold, weights fitted on the training scans",
    NNUNET: "the package's own plans, the longest of its trainers whose steps are within the budget; far larger steps than ours",
}
TUNED_UP_TO_FP = 2.0  # per scan: the alternatives' settings are chosen by their mean sensitivity up to here


@dataclass(frozen=True)
class Task:
    """One training. method: a key of METHODS. split: folds of the training subjects, test subjects locked. prepared: the pool's
    images. extra: folder for what several tasks share. params: the recipe, its steps already scaled."""

    method: str
    size: int
    draw: int
    split: dict
    raw: Path
    prepared: Path
    extra: Path
    params: Params
    nnunet: nnunet.How = nnunet.How()  # noqa: RUF009 - frozen

    @property
    def work(self) -> Path:
        """Folder of nnU-Net's files until its points are saved; a killed training of this code on these scans continues there."""
        about = [self.split["folds"], total_steps(self.params), self.nnunet.memory_gb, code_hash(CODE["nnunet"])]
        return self.extra / f"nnunet-{short_hash(about)}"

    @property
    def training(self) -> list[ScanFile]:
        return [s for s in find_scans(self.raw / POOL) if s.subject_key in self.split["folds"]]

    @property
    def test(self) -> list[ScanFile]:
        return find_scans(self.raw / TEST)


@dataclass(frozen=True)
class Outcome:
    """One method's findings in every test scan, with the training steps that they took and what was chosen on the way."""

    name: str
    scans: list[ScoredScan]
    steps: int
    chosen: dict = field(default_factory=dict)


def total_steps(params: Params) -> int:
    """Batches that the two stages train on in all: stage 1 in every fold and on all scans, stage 2 once."""
    return (params.split.folds + 1) * params.unet.steps + params.cnn.steps


def two_stage(task: Task) -> list[Outcome]:
    """Ours as production does it: folds for candidates, both networks on all scans, `detect` on the stored test scans."""
    params = task.params
    with only(task.prepared, [s.key for s in task.training]) as prepared, tempfile.TemporaryDirectory() as folder:
        for scan in candidates_out_of_fold(params, params.unet, prepared, task.split):
            save_candidates(Path(folder), scan)
        examples = load_training(prepared, task.split)
        unet, cnn, _ = train_both(params.unet, params.cnn, prepared, Path(folder), task.split, params.train.seed)
    decision = UNDECIDED.model_copy(update=fusion_for(examples).model_dump())
    config = pipeline_config(params, params.cnn, decision)
    networks = [as_callable(m.to(best_device()), best_device()) for m in (Heatmap(unet), Score(cnn))]
    joint, first = [], []
    for scan in task.test:
        found = detect(read_volume(scan.path), config, *networks, scan.key).candidates
        centres = np.array([c.position_mm for c in found]).reshape(-1, 3)
        joint.append(_scored(scan, centres, [c.score for c in found]))
        first.append(_scored(scan, centres, [c.stage1_score for c in found]))
    return [Outcome(OURS, joint, total_steps(params)), Outcome(STAGE1, first, params.unet.steps)]


def unplanted(task: Task) -> list[Outcome]:
    """Ours with nothing inserted: what the simulated lesions are worth."""
    params = task.params.model_dump()
    params["unet"] |= {"inserted_per_patch": 0.0, "inserted_mimics_per_patch": 0.0}
    params["cnn"] |= {"inserted_fraction": 0.0, "inserted_mimic_fraction": 0.0}
    params["tune_unet"]["search"]["inserted_per_patch"] = params["tune_cnn"]["search"]["inserted_fraction"] = None
    ours, _ = two_stage(replace(task, params=Params.model_validate(params)))
    return [replace(ours, name=UNPLANTED)]


def stage1_long(task: Task) -> list[Outcome]:
    """Our stage 1 alone, trained for as many steps as both stages and all folds have together."""
    settings = task.params.unet.model_copy(update={"steps": total_steps(task.params)})
    config = pipeline_config(task.params, task.params.cnn)
    with only(task.prepared, [s.key for s in task.training]) as prepared:
        model = train_unet(UnetSampler(load_training(prepared, task.split), settings), task.params.train.seed)
    network, scans = as_callable(Heatmap(model), best_device()), []
    for scan in task.test:
        prepared = _prepared(scan, task.params)
        found, _ = propose(network(prepared.image[None, None])[0, 0], prepared, config)
        scans.append(_scored(scan, found.centre_mm, found.stage1_score))
    return [Outcome(STAGE1_LONG, scans, settings.steps)]


def segmentation(task: Task) -> list[Outcome]:
    """The plain single stage, trained for as many steps as both stages and all folds have together, at its best threshold."""
    params = task.params
    settings = params.unet.model_copy(update={"steps": total_steps(params)})
    with only(task.prepared, [s.key for s in task.training]) as prepared:
        model = single_stage.train(load_training(prepared, task.split), settings, params.train.seed)
    network = as_callable(model, best_device())
    found: dict[float, list[ScoredScan]] = {t: [] for t in single_stage.THRESHOLDS}
    for scan in task.test:
        prepared = _prepared(scan, params)
        said = single_stage.logits(prepared, network)
        for threshold, scans in found.items():
            scans.append(_scored(scan, *single_stage.components(said, prepared.affine, threshold)))
    chosen = single_stage.best_threshold(found, params.evaluate.tolerance_mm, TUNED_UP_TO_FP)
    return [Outcome(SEGMENTATION, found[chosen["threshold"]], settings.steps, chosen)]


def radial(task: Task) -> list[Outcome]:
    """Radial symmetry with a logistic regression over the candidates' features: its settings chosen out of fold, its weights then
    fitted on all training scans."""
    tolerance = task.params.evaluate.tolerance_mm
    training, test = ([(s, _spots(s, task)) for s in scans] for scans in (task.training, task.test))
    best = radial_symmetry.choose(training, task.split["folds"], tolerance, TUNED_UP_TO_FP)
    weights = radial_symmetry.fit_scans([(s, spots[best]) for s, spots in training], tolerance)
    scans = [radial_symmetry.scored(s, spots[best], weights) for s, spots in test]
    weights_by_feature = dict(zip(radial_symmetry.FEATURES, weights.weight.tolist(), strict=True))
    return [Outcome(RADIAL, scans, 0, {**asdict(radial_symmetry.GRID[best]), "weights": weights_by_feature})]


def nnunet_v2(task: Task) -> list[Outcome]:
    """nnU-Net from its package, trained for whole epochs within the budget's steps."""
    scans, chosen = nnunet.run(task.training, task.split, task.test, total_steps(task.params), task.nnunet, task.work)
    return [Outcome(NNUNET, scans, chosen["steps"], chosen)]


METHODS: dict[str, Callable[[Task], list[Outcome]]] = {
    "two-stage": two_stage,
    "unplanted": unplanted,
    "segmentation": segmentation,
    "stage1-long": stage1_long,
    "radial": radial,
    "nnunet": nnunet_v2,
}
_LEARNING = ["cmb_models/detect", "cmb_models/networks", "cmb_models/phantom", "cmb_models/training"]  # phantom: what is inserted
_CHOOSING = [f"cmb_models/evaluation/{name}.py" for name in ("froc", "matching")]
CODE = {  # what a method's findings depend on, besides its scans and settings
    "two-stage": _LEARNING,
    "unplanted": _LEARNING,
    "stage1-long": _LEARNING,
    "segmentation": [*_LEARNING, *_CHOOSING, "research/alternatives/single_stage.py"],
    "radial": ["cmb_models/detect", *_CHOOSING, "research/alternatives/radial_symmetry.py"],
    "nnunet": [f"research/alternatives/{name}.py" for name in ("nnunet", "nnunet_entry", "single_stage")],
}


def run(task: Task) -> tuple[list[Outcome], float]:
    """The outcomes of one task and the seconds they took; what the library prints of its progress is swallowed."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        outcomes = METHODS[task.method](task)
    return outcomes, time.perf_counter() - start


def extract_spots(scan: ScanFile, task: Task) -> None:
    """Compute and store a scan's radial-symmetry candidates for every setting, unless they are there: they need no training."""
    if _spots_file(scan, task).is_file():
        return
    brain = scan.path.parents[2] / "derivatives" / "masks" / scan.subject / f"{scan.subject}_brain.nii.gz"
    found = radial_symmetry.spots(read_volume(scan.path), read_volume(brain), task.params.preprocess, scan.key)
    arrays = {f"{name}{n}": getattr(s, name) for n, s in enumerate(found) for name in ("centres_mm", "features")}
    with atomic_write(_spots_file(scan, task)) as temporary:
        np.savez_compressed(temporary, **arrays)


def _spots(scan: ScanFile, task: Task) -> list[radial_symmetry.Spots]:
    extract_spots(scan, task)
    with np.load(_spots_file(scan, task)) as arrays:
        return [radial_symmetry.Spots(arrays[f"centres_mm{n}"], arrays[f"features{n}"]) for n in range(len(radial_symmetry.GRID))]


def _spots_file(scan: ScanFile, task: Task) -> Path:
    return task.extra / f"{scan.key}.npz"


def _prepared(scan: ScanFile, params: Params) -> Prepared:
    return prepare(read_volume(scan.path), params.preprocess, scan.key)


def _scored(scan: ScanFile, centres_mm: np.ndarray, scores) -> ScoredScan:
    return ScoredScan(scan.key, scan.subject_key, scan.annotations, centres_mm, np.asarray(scores, dtype=np.float64))

"""The weights that every training of a workspace starts from: random ones, or those of a release (train.init_from).

Stage initialise fetches them; the preprocess stage adds them to the prepared scans, on which every stage that trains depends.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmb_models.config.params import RANDOM
from cmb_models.errors import InputError
from cmb_models.files import atomic_write, read_json, sha256_of, write_json

if TYPE_CHECKING:
    import torch
    from torch import nn

INITIAL = "initial"  # folder among the prepared scans
SOURCE = "source.json"
NETWORKS = ("unet", "cnn")
FIRST = "features.0.0.weight"  # of PatchClassifier: (out, in, I, J, K), phase last of the inputs


@dataclass(frozen=True)
class Initial:
    """One network's weights to start from, and the SHA-256 of their file."""

    weights: dict[str, np.ndarray]
    sha256: str
    name: str


def write_state(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Weights as .npz, by name: readable without torch, and nothing in it is code."""
    arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in state.items()}
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def write_initial(folder: Path, source: Mapping[str, Any], weights_dir: Path | None) -> None:
    """Write the weights to start from, and where they come from.

    Args:
        folder: Folder to write to, models/initial.
        source: What lineage.json is to say about them; its "name" is train.init_from.
        weights_dir: Folder with unet.npz and cnn.npz of a release; None for random weights.

    Raises:
        InputError: For a release that carries no weights.
    """
    for name in NETWORKS if weights_dir else ():
        file = Path(weights_dir or "") / f"{name}.npz"
        if not file.is_file():
            raise InputError(
                "bundle-incomplete",
                f"train.init_from {source['name']}",
                f"a release with the weights weights/{name}.npz",
                "none, as in releases of earlier versions",
                "retrain that release with this version, or set train.init_from: random",
            )
        with atomic_write(Path(folder) / file.name) as temporary:
            temporary.write_bytes(file.read_bytes())
    write_json(Path(folder) / SOURCE, dict(source))


def initial_source(prepared_dir: Path) -> dict[str, Any]:
    """What `write_initial` was given as source; random weights for scans prepared by earlier versions."""
    file = Path(prepared_dir) / INITIAL / SOURCE
    return read_json(file) if file.is_file() else {"name": RANDOM}


def load_initial(prepared_dir: Path, network: str) -> Initial | None:
    """The weights that "unet" or "cnn" starts from; None for random ones. Raises InputError for a damaged file."""
    source, file = initial_source(prepared_dir)["name"], Path(prepared_dir) / INITIAL / f"{network}.npz"
    if source == RANDOM:
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Initial(dict(arrays), sha256_of(file), str(source))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            "prepared-outdated", file, "weights to start from", f"{error}", "remove data/prepared and run `dvc repro`"
        ) from error


def frozen_levels(levels: Sequence[nn.Module], count: int, initial: Initial | None) -> list[nn.Module]:
    """Exclude the first `count` levels of a network from training: the optimizer leaves their weights alone.

    Their normalisation statistics stay too if they are in evaluation mode at each step, which is left to the training loop.

    Args:
        levels: Of the network, in order.
        count: Number of levels to freeze.
        initial: What the network starts from.

    Returns:
        The frozen levels.

    Raises:
        InputError: For levels to freeze in a network that starts from random weights, or whose phase channel does.
    """
    if count and initial is None:
        remedy = "set frozen_levels to 0, or train.init_from to a release"
        raise InputError("params-invalid", "frozen_levels", "initial weights of a release", "random ones", remedy)
    if count and initial is not None and FIRST in initial.weights:
        theirs, own = (array.shape[1] for array in (initial.weights[FIRST], next(levels[0].parameters())))
        if own != theirs:  # start_from added the phase channel, whose zeros would stay
            expected = f"0 for phase, which train.init_from {initial.name} does not use"
            remedy = "set cnn.frozen_levels and its search to 0, or train.init_from to a release with phase"
            raise InputError("params-invalid", "cnn.frozen_levels", expected, f"{count}", remedy)
    frozen = list(levels[:count])
    for level in frozen:
        level.requires_grad_(False)
    return frozen


def start_from(model: nn.Module, initial: Initial, network: str) -> None:
    """Load weights into a network. Raises InputError unless they fit it name by name and shape by shape.

    A classifier with phase can start from one without: the weights of its phase channel are zero at first, which ignores phase.
    """
    import torch  # imported here: stage initialise does without, which spares it seconds

    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = _with_phase_channel(initial.weights, own)
    theirs = {name: array.shape for name, array in weights.items()}
    if own != theirs:
        other = sorted(set(own.items()) ^ set(theirs.items()))[0]
        raise InputError(
            "params-invalid",
            f"train.init_from {initial.name}",
            f"a release whose {network} has the architecture that params.yaml describes",
            f"{other[0]} of another shape, or missing",
            f"set {network}.channels and {'unet.strides' if network == 'unet' else 'preprocess.phase'} to the release's own, "
            "or train.init_from: random",
        )
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})


def _with_phase_channel(weights: Mapping[str, np.ndarray], own: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The weights, those of FIRST with zeros for a last input channel, phase, that only the network with shapes `own` has."""
    found = dict(weights)
    first, shape = found.get(FIRST), own.get(FIRST)
    if first is not None and shape is not None and shape == (len(first), first.shape[1] + 1, *first.shape[2:]):
        found[FIRST] = np.concatenate([first, np.zeros_like(first[:, :1])], axis=1)
    return found

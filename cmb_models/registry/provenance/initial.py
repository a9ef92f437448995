"""The release whose weights trainings start from, and that it has seen none of this workspace's scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmb_models.base_release import BASE
from cmb_models.config.params import RANDOM, RANDOM_RECIPE, Cnn, Unet
from cmb_models.dataset.entries import ScanEntry
from cmb_models.errors import InputError


def starting_point(
    init_from: str,
    scans: Sequence[ScanEntry],
    unet: Unet,
    cnn: Cnn,
    workspace: Path = Path("."),
    base: Path | None = None,
    frozen_with_phase: int = 0,
) -> tuple[dict[str, Any], Path | None]:
    """What train.init_from names.

    Args:
        init_from: "random", "base" for the base release, a release (number, `latest` or role), or a bundle folder; one named
            base is "./base".
        scans: Entries of data/index.json.
        unet: Settings of the candidate network to train.
        cnn: Settings of the classifier to train.
        workspace: A folder inside the workspace.
        base: Folder with the base release and its key (release/base.py); the package's if None.
        frozen_with_phase: Most levels of a classifier with phase that are to be frozen; 0 without phase.

    Returns:
        What lineage.json says about it ("name" and, for a release, "manifest_sha256" and the number of its "training_scans"), and
        the folder of its weights, None for random ones.

    Raises:
        InputError: For no such release, no base release in this build, one whose files were changed or that no trusted key
            signed, one that was trained on a scan of this workspace, and one whose networks have other channels or strides.
    """
    if init_from == RANDOM:
        return {"name": RANDOM}, None
    from cmb_models.registry.mlflow.store import fetch_release
    from cmb_models.release.base import load_base
    from cmb_models.release.bundle import WEIGHTS_DIR, load_bundle
    from cmb_models.release.keys import bundle_keys, trusted_keys

    folder = Path(init_from)
    if init_from == BASE:
        bundle = load_base(trusted_keys(workspace), base)
    elif folder.is_dir():
        bundle = load_bundle(folder, bundle_keys(folder, workspace))
    else:
        bundle = load_bundle(fetch_release(init_from, workspace).bundle_dir)
    require_unseen(init_from, bundle.lineage, scans)
    require_architecture(init_from, bundle.lineage, unet, cnn)
    if frozen_with_phase and not bundle.config.preprocess.phase:
        expected, remedy = (
            "0 with preprocess.phase and a release without",
            "set it and its search to 0, or name a release with phase",
        )
        raise InputError("params-invalid", "cnn.frozen_levels", expected, f"{frozen_with_phase}", remedy)
    source = {"name": init_from, "manifest_sha256": bundle.manifest_sha256, "training_scans": len(bundle.lineage["training_scans"])}
    return source, bundle.path / WEIGHTS_DIR


def require_unseen(name: str, lineage: Mapping[str, Any], scans: Sequence[ScanEntry]) -> None:
    """Refuse a release that saw one of these scans: out-of-fold and held-out figures of what starts from it would be too good.

    Raises InputError; a scan counts by its file or by its content, in training and in calibration.
    """
    parts = ("training_scans", "training_contents", "training_phases")
    seen = {sha256 for part in parts for sha256 in lineage.get(part, {}).values()}
    known = [s["key"] for s in scans if seen & {s["sha256"], s["content_sha256"], s.get("phase_sha256", s["sha256"])}]
    if known:
        shown = ", ".join(known[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")
        raise InputError(
            "leakage",
            f"train.init_from {name}",
            "a release that was trained on none of this workspace's scans",
            f"{shown} among its training scans",
            "name a release of another site, or set train.init_from: random",
        )


def require_architecture(name: str, lineage: Mapping[str, Any], unet: Unet, cnn: Cnn) -> None:
    """Refuse a release whose networks are not those of params.yaml, before anything is prepared or trained.

    Raises InputError with the settings that fit. Lineages of earlier versions do not name them: there, loading the weights fails.
    """
    networks = lineage.get("networks", {})
    ours = {"unet.channels": unet.channels, "unet.strides": unet.strides, "cnn.channels": cnn.channels}
    differing = {}
    for key, value in ours.items():
        network, setting = key.split(".")
        theirs = networks.get(network, {}).get(setting)
        if theirs is not None and list(theirs) != list(value):
            differing[key] = list(theirs)
    if differing:
        raise InputError(
            "params-invalid",
            f"train.init_from {name}",
            " and ".join(f"{key} {list(theirs)}" for key, theirs in differing.items()) + ", as the release has",
            ", ".join(str(list(ours[key])) for key in differing),
            f"change params.yaml, or set train.init_from: random with {RANDOM_RECIPE}",
        )

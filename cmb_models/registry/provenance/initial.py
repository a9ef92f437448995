"""The release whose weights trainings start from, and that it has seen none of this workspace's scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmb_models.dataset.entries import ScanEntry
from cmb_models.errors import InputError


def starting_point(init_from: str, scans: Sequence[ScanEntry], workspace: Path = Path(".")) -> tuple[dict[str, Any], Path | None]:
    """What train.init_from names.

    Args:
        init_from: "random", a release (number, `latest` or role), or a bundle folder.
        scans: Entries of data/index.json.
        workspace: A folder inside the workspace.

    Returns:
        What lineage.json says about it ("name" and, for a release, "manifest_sha256" and the number of its "training_scans"), and
        the folder of its weights, None for random ones.

    Raises:
        InputError: For no such release, one whose files were changed or that no trusted key signed, and one that was trained on a
            scan of this workspace.
    """
    from cmb_models.training.initial import RANDOM

    if init_from == RANDOM:
        return {"name": RANDOM}, None
    from cmb_models.registry.mlflow.store import fetch_release
    from cmb_models.release.bundle import WEIGHTS_DIR, load_bundle
    from cmb_models.release.keys import bundle_keys

    folder = Path(init_from)
    if folder.is_dir():
        bundle = load_bundle(folder, bundle_keys(folder, workspace))
    else:
        bundle = load_bundle(fetch_release(init_from, workspace).bundle_dir)
    require_unseen(init_from, bundle.lineage, scans)
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

"""The accuracy benchmark from simulated scans to its report with every real part, far too short to find anything."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import yaml

from cmb_models.files import read_json
from research.accuracy.__main__ import main
from research.accuracy.methods import OURS, RADIAL, SEGMENTATION, STAGE1, STAGE1_LONG, UNPLANTED
from research.accuracy.scans import ScanRequest, short_hash
from tests.support.imports import ROOT

pytestmark = [pytest.mark.ci, pytest.mark.slow, pytest.mark.timeout(540)]
TINY = {
    "lesion_bank": {"lesions": 30},
    "unet": {"channels": [4, 4, 8], "strides": [1, 2, 1], "patch_vox": [16, 16, 8], "batch": 2, "steps": 4},
    "cnn": {"channels": [4, 8], "batch": 4, "steps": 4},
    "split": {"folds": 2},
    "detect_candidates": {"candidates": {"floor": 0.0, "min_distance_mm": 4.0, "max_per_scan": 10}},  # untrained networks have some
    "evaluate": {"bootstrap": 20},
}


@pytest.fixture
def run(tmp_path, capsys):
    """run() gives the report of a far too short benchmark in tmp_path, and what it printed."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, values in params.items():
        values.update(TINY.get(section, {}))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    def run() -> tuple[dict, str]:
        main(
            sizes="2,3",
            draws=1,
            steps_scale=1.0,
            methods="two-stage,unplanted,segmentation,stage1-long,radial,nnunet",
            workers=1,
            cache=tmp_path / "cache",
            out=tmp_path,
            params_file=tmp_path / "params.yaml",
            pool_scans=3,
            test_scans=2,
            preset=["small"],
            scans_seed=31,
            nnunet_python="",
            nnunet_memory_gb=0,
            nnunet_sizes="",
            nnunet_draws=0,
        )
        return read_json(tmp_path / "accuracy.json"), capsys.readouterr().out

    return run


def test_a_run_is_reported_and_never_repeated(tmp_path, run):
    report, printed = run()
    assert "10 trainings, 0 of them done" in printed and "0 min left" in printed
    assert report["sizes"] == [2, 3] and report["test"] == {"scans": 2, "lesions": 5, "without": 1}
    own_scans = f"scans-{short_hash(asdict(ScanRequest(3, 2, ('small',), seed=31)))}"
    assert report["scans_seed"] == 31 and [p.name for p in (tmp_path / "cache").glob("scans-*")] == [own_scans]
    assert report["budget"] | {"steps": 3 * 4 + 4, "unet_steps": 4, "folds": 2} == report["budget"]
    points = {m["name"]: m["points"] for m in report["methods"]}
    names = [OURS, STAGE1, UNPLANTED, SEGMENTATION, STAGE1_LONG, RADIAL]
    assert {name: [p["scans"] for p in own] for name, own in points.items() if own} == {name: [2, 3] for name in names}
    assert points[STAGE1_LONG][0]["steps"] == points[OURS][0]["steps"] == 4 * points[STAGE1][0]["steps"]
    assert report["methods"][-1]["name"] == "nnU-Net v2" and report["methods"][-1]["not_run"].startswith("not run: ")
    assert all(0 <= p["sensitivity"] <= 1 and len(p["froc"]) == 7 for own in points.values() for p in own)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache/points").iterdir()}
    assert len(kept) == 10

    again, printed = run()
    assert "10 trainings, 10 of them done" in printed and again == report

    gone = next(p for p in kept if p.name.startswith("radial-3-0-"))
    gone.unlink()
    again, printed = run()
    assert "10 trainings, 9 of them done" in printed
    assert all(p.stat().st_mtime_ns == before for p, before in kept.items() if p != gone) and gone.is_file()
    assert again["means"] == report["means"]

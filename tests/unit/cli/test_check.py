"""`cmb check`: exit codes, table, JSON, page."""

from __future__ import annotations

import json

import numpy as np

from cmb_models.dataset.check.dataset import check_dataset
from cmb_models.hash_chain import append_entry
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE, BLOBS_MM, head
from tests.support.command_line import cmb
from tests.support.imports import ROOT
from tests.unit.dataset.check.test_dataset import dataset


def sound(folder):
    return dataset(folder, {"sub-1": head(shape=(80, 80, 48))}, [("sub-1", place) for place in BLOBS_MM])


def test_sound_data_exit_0(tmp_path):
    result = cmb("check", str(sound(tmp_path / "site")))
    assert result.exit_code == 0, result.output
    assert "site: scans 1 (0 without microbleeds, 0 unread, 0 brain-extracted), subjects 1, microbleeds 3" in result.output
    assert result.output.splitlines()[-1] == "errors 0, warnings 0"


def test_warnings_exit_0_and_errors_exit_1(tmp_path):
    warned = cmb("check", str(dataset(tmp_path / "a", {"sub-1": head(seed=1)})))
    assert (warned.exit_code, warned.output.splitlines()[-1]) == (0, "errors 0, warnings 2")
    wrong = cmb("check", str(dataset(tmp_path / "b", {"sub-1": Volume(np.full((80, 80, 48), 3.0), AFFINE)}, empty=["sub-1"])))
    assert (wrong.exit_code, wrong.output.splitlines()[-1]) == (1, "errors 1, warnings 0")
    assert "scan-constant" in wrong.output


def test_json_has_the_parts_of_each_message(tmp_path):
    dataset(tmp_path / "data/site", {"sub-1": head(seed=1), "sub-2": head(seed=1)}, empty=["sub-1"])
    result = cmb("check", str(tmp_path / "data"), "--json")
    found = json.loads(result.output)
    assert result.exit_code == 1
    assert [e["code"] for e in found["errors"]] == ["scan-repeated"]
    assert set(found["errors"][0]) == {"code", "case", "expected", "got", "remedy"}
    assert found["datasets"]["site"]["unread"] == [str(tmp_path / "data/site/sub-2/swi/sub-2_swi.nii.gz")]


def test_the_page_shows_every_scan_and_every_microbleed(tmp_path):
    site = sound(tmp_path / "site")
    (site / "sub-2/swi").mkdir(parents=True)
    (site / "sub-2/swi/sub-2_swi.nii.gz").write_bytes(b"no image")
    result = cmb("check", str(site), "--page", str(tmp_path / "check.html"))
    page = (tmp_path / "check.html").read_text()
    assert result.exit_code == 1
    assert page.count("<img src=") == 1 + len(BLOBS_MM)  # the scan that can be read, and its marks
    assert page.count("cannot be read") >= 1 and "scan-file" in page


def test_no_place_on_the_page_has_a_negative_zero(tmp_path):
    cmb(
        "check",
        str(dataset(tmp_path / "site", {"sub-1": head(seed=1)}, [("sub-1", (-0.3, 2, 3))])),
        "--page",
        str(tmp_path / "a.html"),
    )
    assert "(0, 2, 3)" in (tmp_path / "a.html").read_text()


def test_images_that_are_not_used_are_counted_with_the_reason(tmp_path):
    site = sound(tmp_path / "site")
    for name in ("part-phase_swi", "part-mag_swi", "T1w", "T2w"):
        (site / f"sub-1/swi/sub-1_{name}.nii.gz").write_bytes(b"")
    lines = [line for line in cmb("check", str(site)).output.splitlines() if line.startswith("not used")]
    assert (
        lines[0]
        == f"not used (not named sub-*/[ses-*/](swi|anat)/sub-*_swi.nii[.gz]): 2 images, such as {site}/sub-1/swi/sub-1_T1w.nii.gz"
    )
    assert lines[1] == f"not used (magnitude): {site}/sub-1/swi/sub-1_part-mag_swi.nii.gz" and "(phase, read with" in lines[2]


def test_a_mark_that_is_not_dark_is_flagged_on_the_page(tmp_path):
    site = dataset(tmp_path / "site", {"sub-1": head(shape=(80, 80, 48))}, [("sub-1", BLOBS_MM[0]), ("sub-1", (25, 25, 3))])
    cmb("check", str(site), "--page", str(tmp_path / "check.html"))
    assert (tmp_path / "check.html").read_text().count('<figure class="bright">') == 1


def test_in_a_workspace_the_raw_data_and_the_split_are_checked(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    sound(tmp_path / "data/raw/site")
    monkeypatch.chdir(tmp_path)
    result = cmb("check")
    assert result.exit_code == 1 and "training-too-few" in result.output and "no settings fit" in result.output
    assert cmb("check", "data/raw/site").exit_code == 0  # a dataset alone is not split


def test_a_withdrawn_scan_that_came_back_is_refused(tmp_path, monkeypatch):
    """From another import, a backup or an older commit; compressed again, it is the same scan."""
    site = dataset(tmp_path / "site", {"sub-1": head(seed=1), "sub-2": head(seed=2)}, empty=["sub-1", "sub-2"])
    monkeypatch.chdir(tmp_path)
    content = check_dataset(site).entries[site / "sub-1/swi/sub-1_swi.nii.gz"]["content_sha256"]
    append_entry(tmp_path / "withdrawals.jsonl", scans=[content], files=[])
    found = json.loads(cmb("check", "site", "--json").output)
    assert [(e["code"], e["case"]) for e in found["errors"]] == [("scan-withdrawn", "site/sub-1/swi/sub-1_swi.nii.gz")]


def test_outside_a_workspace_a_dataset_must_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cmb("check").exception.code == "options-conflict"

"""The datasets and the parent of a release, as lineage.json has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cmb_models.files import write_json
from cmb_models.io.annotations import Annotation, EmptyReading, write_annotations
from cmb_models.registry.mlflow.store import Release
from cmb_models.registry.provenance.datasets import dataset_records
from cmb_models.registry.register import _parent

MARKS = [Annotation("sub-1", "ses-01", x, 0.0, 0.0, 3.0, label, "AB") for x, label in ((1.0, "cmb"), (9.0, "mimic:vein"))]


def record(workspace: Path, marks=MARKS, name: str = "site", subject: str = "sub-1", contents=("a", "b")) -> dict:
    """The record of a dataset of two scans, of which the first has the marks."""
    entries = [
        {"key": f"{name}_{s}_{session}", "dataset": name, "subject": f"{name}_{s}", "session": session, "content_sha256": content}
        | {"n_cmbs": sum(m.is_cmb for m in marks) if s == subject else 0}
        for s, session, content in ((subject, "ses-01", contents[0]), ("sub-2", "", contents[1]))
    ]
    write_json(workspace / "data/index.json", {"scans": entries})
    (workspace / "dvc.lock").write_text(yaml.safe_dump({"stages": {"ingest": {"outs": [{"path": "data/index.json"}]}}}))
    (workspace / "data/raw" / name).mkdir(parents=True, exist_ok=True)
    empty = [EmptyReading("sub-2", "", "AB")]
    write_annotations(workspace / "data/raw" / name / "annotations.csv", [replace(m, subject=subject) for m in marks], empty)
    records = dataset_records(workspace)
    assert list(records) == [name]
    return records[name]


def test_a_record_counts_scans_and_microbleeds(tmp_path):
    assert {k: v for k, v in record(tmp_path).items() if k != "sha256"} == {"scans": 2, "cmbs": 1}


SAME = {
    "another name of the dataset": {"name": "other"},
    "another name of the subject": {"subject": "sub-9"},
    "rows in another order": {"marks": MARKS[::-1]},
    "another rater": {"marks": [replace(m, rater="CD") for m in MARKS]},
}
OTHER = {
    "another scan": {"contents": ("a", "c")},
    "marks of the other scan": {"contents": ("b", "a")},
    "a mark moved": {"marks": [replace(MARKS[0], z_mm=0.5), MARKS[1]]},
    "a mark relabelled": {"marks": [replace(MARKS[0], label="possible"), MARKS[1]]},
    "a mark removed": {"marks": MARKS[:1]},
}


@pytest.mark.parametrize("case", [*SAME, *OTHER])
def test_the_hash_is_of_contents_and_marks(tmp_path, case):
    before, after = record(tmp_path / "before"), record(tmp_path / "after", **(SAME | OTHER)[case])
    assert (before["sha256"] == after["sha256"]) == (case in SAME)


def test_a_workspace_without_an_index_has_no_records(tmp_path):
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    assert dataset_records(tmp_path) == {}


def test_the_parent_is_production_else_the_latest():
    releases = [Release(n, "", {"manifest_sha256": f"{n}" * 64}, ()) for n in (1, 2)]
    assert _parent([], "") == {}
    assert _parent(releases, "") == {"release": 2, "manifest_sha256": "2" * 64, "was": "latest"}
    assert _parent(releases, "1") == {"release": 1, "manifest_sha256": "1" * 64, "was": "production"}

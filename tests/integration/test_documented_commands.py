"""Every shell and Python block of README and docs runs, in an order in which a reader may follow the pages."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator

import pytest

from cmb_models.hash_chain import read_entries
from cmb_models.registry.promote import promote
from tests.integration.registry_site import make_site
from tests.integration.registry_workspace import git
from tests.support.documented import DOCUMENTS, Block, Session, blocks
from tests.support.imports import ROOT

# A document's blocks by number. A tour starts in an empty folder; what one block leaves, the next one uses.
Tour = list[tuple[str, tuple[int, ...]]]
FIRST: Tour = [
    ("docs/get-started/first-detection.md", (0, 1)),
    ("docs/how-to/use-results.md", (0,)),
    ("docs/how-to/scan-report.md", (0,)),
]
PYTHON: Tour = [("README.md", (2, 3)), ("docs/reference/python.md", (0,))]
PHANTOM: Tour = [("docs/explanation/phantom.md", (0, 1))]
PREPARE: Tour = [("docs/how-to/prepare-data.md", (0, 3, 4, 5))]
COMPARE: Tour = [("docs/how-to/compare-scans.md", (1, 2, 3))]
SITE: Tour = [
    ("README.md", (4,)),
    ("docs/how-to/serve.md", (0, 1, 2, 3)),
    ("docs/how-to/retrain.md", (0, 1, 2, 3, 4)),
    ("docs/how-to/withdraw-a-patient.md", (1, 2)),
    ("docs/how-to/train.md", (0, 1, 2)),
    ("docs/how-to/promote.md", (0, 1, 2, 3)),
    ("docs/how-to/withdraw-a-patient.md", (3,)),
    ("docs/how-to/roll-back.md", (0,)),
    ("docs/how-to/monitor.md", (1,)),
    ("docs/how-to/deploy.md", (0,)),
    ("docs/how-to/upgrade.md", (1,)),
    ("docs/how-to/back-up.md", (0, 1)),
    ("docs/how-to/withdraw-a-patient.md", (4,)),
    ("docs/how-to/sign-releases.md", (0, 2)),
]
BACK_UP: Tour = [("docs/how-to/back-up.md", (0, 1, 2))]
SCAN = "data/raw/site/sub-003/swi/sub-003_swi.nii.gz"
# Text that stands for something of the reader's own, by what a tour puts in its place.
REPLACED = {
    "cmb import ~/export --into data/raw/site": "cmb simulate data/raw/site --seed 1",
    "cmb import marks ~/marks --into data/raw/site": ":",
    "cmb detect scan.nii.gz": f"cmb detect {SCAN}",
    "/tmp/cmb-backup": "../backup",
}


def chosen(tour: Tour) -> list[Block]:
    return [blocks(ROOT / document)[number] for document, numbers in tour for number in numbers]


@pytest.fixture
def session(tmp_path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    session.close()


def test_every_block_is_run_or_says_why_not():
    run = {(b.document, b.number) for tour in (FIRST, PYTHON, PHANTOM, PREPARE, COMPARE, BACK_UP, SITE) for b in chosen(tour)}
    marked = {(b.document, b.number) for document in DOCUMENTS for b in blocks(document) if b.why_not}
    everything = {(b.document, b.number) for document in DOCUMENTS for b in blocks(document)}
    assert sorted(everything - run - marked) == [], "blocks in no tour, without `<!-- not run: REASON -->`"
    assert sorted(run & marked) == [], "blocks that run, marked as not run"


def test_a_block_that_fails_is_noticed(session, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```bash\ncmb simulate\n```\n\n1. Step\n\n    <!-- not run: a reason -->\n    ```python\n    1 / 0\n    ```\n")
    shell, python = blocks(page)
    assert (shell.why_not, python.why_not, python.code) == ("", "a reason", "1 / 0\n")
    with pytest.raises(AssertionError, match=r"page.md, block 0"):
        session.run(shell)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        session.run(python)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("tour", [PYTHON, PHANTOM, PREPARE, COMPARE], ids=["python", "phantom", "prepare", "compare"])
def test_steps_before_training(tour, session):
    for block in chosen(tour):
        session.run(block)


@pytest.mark.slow
def test_the_first_detection_is_what_the_pages_say(session):
    """All four microbleeds, and the iron of a dentate nucleus."""
    for block in chosen(FIRST):
        session.run(block)
    marks = list(csv.DictReader((session.folder / "try/annotations.csv").open(newline="")))
    detections = json.loads((session.folder / "results/detections.json").read_text())["scans"][0]["detections"]
    nearest = [min(marks, key=lambda m: distance_mm(m, d["world_mm"])) for d in detections]
    assert all(distance_mm(m, d["world_mm"]) < 3 for m, d in zip(nearest, detections, strict=True))
    assert [m["label"] for m in nearest] == ["cmb", "cmb", "cmb", "cmb", "mimic:iron"] and nearest[4]["region"] == "dentate"
    assert sum(m["label"] == "cmb" for m in marks) == 4


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_workspace_on_a_lost_disk_is_restored_by_the_page(session, tmp_path, monkeypatch):
    """Scans, roles and a release that was never promoted, from a local folder."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", session.variables["DVC_SITE_CACHE_DIR"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    site = make_site(tmp_path / "my-site", n_good=2, weak=False)
    promote("1", "first", site)
    git(site, "add", "-A")
    git(site, "commit", "-qm", "Promote")
    lineage = session.run(Block("test", 0, "bash", "cd ~/my-site; cmb release lineage 2 --json", ""))
    *saving, restoring = chosen(BACK_UP)
    replaced = {"/tmp/cmb-backup": str(tmp_path / "backup")}
    for block in saving:
        session.run(block, replaced)
    site.rename(tmp_path / "lost")
    session.folder = tmp_path
    session.run(restoring, replaced)
    assert (site / "data/raw/phantom/annotations.csv").is_file()
    again = session.run(Block("test", 1, "bash", "cmb release lineage 2 --json; cmb release reproduce 2 > ~/reproduced.txt", ""))
    assert again == lineage
    assert session.run(Block("test", 2, "bash", "cmb release register", "")) == "release 2 is already registered\n"


def distance_mm(mark: dict[str, str], world_mm: list[float]) -> float:
    return sum((float(mark[f"{axis}_mm"]) - at) ** 2 for axis, at in zip("xyz", world_mm, strict=True)) ** 0.5


@pytest.mark.ci
@pytest.mark.serving
@pytest.mark.timeout(1800)
def test_a_site_follows_the_pages(session):
    """After some blocks, what they did is read by other commands."""
    checks = {
        ("docs/how-to/retrain.md", 2): second_site_is_named,
        ("docs/how-to/retrain.md", 4): release_follows_the_first,
        ("docs/how-to/withdraw-a-patient.md", 2): patient_is_withdrawn,
    }
    for block in chosen(SITE):
        session.run(block, REPLACED)
        if check := checks.pop((block.document, block.number), None):
            check(session)
    assert not checks


def shown(session: Session, command: str) -> dict:
    return json.loads(session.run(Block("test", 0, "bash", f"{command} --json", "")))


def second_site_is_named(session):
    changed = shown(session, "cmb data diff release:production")
    assert changed["datasets"] == {"added": ["site-b"], "removed": []} and not changed["marks"]
    assert {(s["kind"], s["after"]["dataset"]) for s in changed["scans"]} == {("added", "site-b")}


def release_follows_the_first(session):
    first, second = (shown(session, f"cmb release lineage {n}") for n in "12")
    added = {n: d for n, d in second["datasets"].items() if n not in first["datasets"]}
    assert list(added) == ["site-b"] and {n: second["datasets"][n] for n in first["datasets"]} == first["datasets"]
    assert second["parent"] == {"release": 1, "manifest_sha256": first["manifest_sha256"], "was": "production"}
    assert len(second["training_scans"]) > len(first["training_scans"]) and first["parent"] == {}
    compared = shown(session, "cmb release compare 1 2")
    assert compared["first"]["n_scans"] == compared["second"]["n_scans"] > 0  # on the held-out scans of both


def patient_is_withdrawn(session):
    """From site's scans, which both releases have used; what depends on index and split is to be run again, these are not."""
    split = json.loads((session.folder / "data/split.json").read_text())
    assert "site_sub-001" not in {*split["folds"], *split["locked"]} and any(s.startswith("site_") for s in split["folds"])
    (entry,) = read_entries(session.folder / "withdrawals.jsonl")
    assert [use["release"] for use in entry["releases"]] == [1, 2]
    outdated = json.loads(session.run(Block("test", 0, "bash", "dvc status --json", "")))
    assert "preprocess" in outdated and not {"ingest", "split"} & set(outdated)

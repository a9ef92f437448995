"""Two branches each retrained, and each promoted and evaluated: git cannot merge their logs, `cmb release merge` can."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cmb_models.evaluation.exposure_log import count_evaluation
from cmb_models.hash_chain import append_entry, first_fault, read_entries
from cmb_models.registry.history.audit import audit_fault
from cmb_models.registry.history.state import registry_state
from cmb_models.registry.mlflow.store import MODEL, open_registry
from cmb_models.registry.promote import promote, rollback
from cmb_models.registry.provenance.audit_package import export_evidence
from cmb_models.workspace.paths import AUDIT_LOG, EXPOSURE_LOG, WITHDRAWAL_LOG
from cmb_models.workspace.withdrawals import withdrawn_hashes
from tests.integration.registry_site import aliases, copy_site
from tests.integration.registry_workspace import GOOD, git
from tests.support.command_line import cmb
from tests.support.refused import refused

LOCKED = ["scan 1", "scan 2"]


def work(folder: Path, numbers: str, bundle: str) -> str:
    """Promote releases and evaluate a bundle, commit both logs; the hash of the audit log's last entry."""
    for number in numbers:
        promote(number, f"release {number}", folder, force=True)
    count_evaluation(folder / EXPOSURE_LOG, bundle, LOCKED, "", GOOD | {"hits": 18})
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", f"Promote {numbers}")
    return read_entries(folder / AUDIT_LOG)[-1]["sha256"]


@pytest.fixture
def branches(site, made, tmp_path) -> tuple[str, str]:
    """The heads of two audit logs: this one promoted release 1, that of another clone releases 3 and 2. Git reports a conflict."""
    clone = copy_site(made, tmp_path / "clone")
    heads = work(site, "1", "bundle a"), work(clone, "32", "bundle b")
    git(site, "fetch", "-q", str(clone), "site:other")
    git_merge(site)
    return heads


def git_merge(site: Path) -> None:
    done = subprocess.run(["git", "merge", "other"], cwd=site, capture_output=True, text=True)
    assert done.returncode == 1 and all(f"conflict in {name}" in done.stdout for name in (AUDIT_LOG, EXPOSURE_LOG)), done


def keep_both_sides(site: Path) -> None:
    for file in (AUDIT_LOG, EXPOSURE_LOG):
        lines = (site / file).read_text().splitlines()
        (site / file).write_text("".join(f"{line}\n" for line in lines if line.startswith("{")))


def test_history_shows_both_branches(site, branches):
    """The entries of the other one before that which merges them, and the heads of both in it."""
    cmb("release", "merge")
    shown = cmb("release", "history", env={"COLUMNS": "250"}).output
    own, other = (head[:8] for head in branches)
    rows = [line for line in shown.splitlines() if "20" in line]
    assert [row.count("other branch)") for row in rows] == [0, 1, 1, 0]
    assert "release 1" in rows[0] and "release 3" in rows[1] and f"joins {own} and {other} of the other branch" in rows[3]
    assert own in rows[0] and other in rows[2]


def commit(site: Path) -> None:
    git(site, "add", "-A")
    git(site, "commit", "-qm", "Merge")


def assert_merged(site: Path, kept: str, other: str, entries: int) -> None:
    entry = read_entries(site / AUDIT_LOG)[-1]
    assert (entry["previous_sha256"], entry["merged_sha256"], len(entry["merged"])) == (kept, other, entries)
    assert first_fault(site / AUDIT_LOG) == first_fault(site / EXPOSURE_LOG) == audit_fault(site) == ""


def test_one_entry_names_both_heads_and_moves_no_role(site, branches):
    assert cmb("release", "verify").exit_code == 1
    shown = cmb("release", "merge")
    assert shown.exit_code == 0 and f"{AUDIT_LOG}: 2 entries of the other branch added" in shown.output, shown.output
    assert_merged(site, *branches, entries=2)
    assert registry_state(site).aliases == aliases(site) == {"production": 1}
    assert "production 2, previous 3" in read_entries(site / AUDIT_LOG)[-1]["reason"]
    before = (site / AUDIT_LOG).read_text()
    assert "nothing to merge" in cmb("release", "merge").output
    commit(site)
    assert "nothing to merge" in cmb("release", "merge").output and (site / AUDIT_LOG).read_text() == before
    promote("2", "after the merge", site)
    rollback("and back", site)
    assert audit_fault(site) == "" and "merge" in cmb("release", "history").output


def test_evaluations_of_both_branches_count(site, branches):
    cmb("release", "merge")
    counted = count_evaluation(site / EXPOSURE_LOG, "bundle c", LOCKED, "", GOOD | {"hits": 18})
    assert (counted["evaluations"], counted["bundles"]) == (3, 3)


def test_the_roles_stay_those_of_the_branch_that_a_common_registry_follows(site, branches):
    ours, theirs = branches
    other = [line for line in git(site, "show", f"other:{AUDIT_LOG}").splitlines() if line]
    with open_registry(site) as registry:
        registry.move({"production": 2, "previous": 3}, f"{len(other)} {theirs}")
    cmb("release", "merge")
    assert_merged(site, theirs, ours, entries=1)
    assert registry_state(site).aliases == aliases(site) == {"production": 2, "previous": 3}


@pytest.mark.parametrize("state", ["conflict", "both sides kept", "both sides committed"])
def test_nothing_is_appended_to_a_broken_chain(site, branches, state):
    if state != "conflict":
        keep_both_sides(site)
    if state == "both sides committed":
        commit(site)
    before = [(site / file).read_text() for file in (AUDIT_LOG, EXPOSURE_LOG)]
    for attempt in (
        lambda: promote("2", "on top", site),
        lambda: rollback("on top", site),
        lambda: count_evaluation(site / EXPOSURE_LOG, "bundle c", LOCKED, "", GOOD | {"hits": 18}),
        lambda: append_entry(site / AUDIT_LOG, action="any"),
    ):
        with refused("log-damaged"):
            attempt()
    assert [(site / file).read_text() for file in (AUDIT_LOG, EXPOSURE_LOG)] == before
    assert cmb("release", "merge").exit_code == 0
    assert_merged(site, *branches, entries=2)


def test_a_log_that_one_branch_alone_continued_is_that_one(site):
    git(site, "branch", "other")
    work(site, "1", "bundle a")
    git(site, "merge", "other")
    with refused("git-no-merge"):
        raise cmb("release", "merge").exception


def test_a_log_that_is_broken_on_a_branch_is_not_merged(site, branches):
    git(site, "merge", "--abort")
    (site / AUDIT_LOG).write_text((site / AUDIT_LOG).read_text().replace("release 1", "release 9"))
    commit(site)
    git_merge(site)
    with refused("log-damaged", got="was changed after it was written"):
        raise cmb("release", "merge").exception


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_what_was_logged_after_a_side_was_taken_is_kept(site, branches, side):
    git(site, "checkout", f"--{side}", "--", str(AUDIT_LOG), str(EXPOSURE_LOG))
    commit(site)
    for bundle in ("bundle c", "bundle d"):
        count_evaluation(site / EXPOSURE_LOG, bundle, LOCKED, "", GOOD | {"hits": 18})
    before = (site / EXPOSURE_LOG).read_text()
    assert cmb("release", "merge").exit_code == 0
    assert (site / EXPOSURE_LOG).read_text().startswith(before)
    counted = count_evaluation(site / EXPOSURE_LOG, "bundle e", LOCKED, "", GOOD | {"hits": 18})
    assert (counted["evaluations"], counted["bundles"]) == (5, 5)


def test_a_promotion_after_a_side_was_taken_is_kept(site, branches):
    git(site, "checkout", "--ours", "--", str(AUDIT_LOG), str(EXPOSURE_LOG))
    commit(site)
    promote("2", "after ours", site, force=True)
    before = (site / AUDIT_LOG).read_text()
    assert cmb("release", "merge").exit_code == 0
    assert (site / AUDIT_LOG).read_text().startswith(before) and audit_fault(site) == ""
    assert registry_state(site).aliases == aliases(site) == {"production": 2, "previous": 1}


def test_entries_that_continue_neither_branch_are_not_lost(site, branches):
    (site / EXPOSURE_LOG).unlink()
    count_evaluation(site / EXPOSURE_LOG, "bundle c", LOCKED, "", GOOD | {"hits": 18})
    before = (site / EXPOSURE_LOG).read_text()
    with refused("log-damaged", got="1 that neither has"):
        raise cmb("release", "merge").exception
    assert (site / EXPOSURE_LOG).read_text() == before


def test_patients_who_withdrew_on_both_branches_are_both_withdrawn(site, made, tmp_path):
    clone = copy_site(made, tmp_path / "clone")
    for folder, scan in ((site, "scan a"), (clone, "scan b")):
        append_entry(folder / WITHDRAWAL_LOG, scans=[scan], files=[f"file of {scan}"])
        commit(folder)
    git(site, "fetch", "-q", str(clone), "site:other")
    subprocess.run(["git", "merge", "other"], cwd=site, capture_output=True, check=False)
    with refused("log-damaged") as caught:
        withdrawn_hashes(site)
    assert "cmb release merge" in caught.value.remedy
    assert "1 entries of the other branch added" in cmb("release", "merge").output
    assert withdrawn_hashes(site) == {"scan a", "file of scan a", "scan b", "file of scan b"}
    assert first_fault(site / WITHDRAWAL_LOG) == "" and "nothing to merge" in cmb("release", "merge").output


def test_releases_that_only_the_other_branch_named_are_still_known(site, branches):
    cmb("release", "merge")
    commit(site)
    assert sorted(registry_state(site).manifests) == [1, 2, 3]
    shown = cmb("release", "show", "3")
    assert "promote (gate overridden)" in shown.output and "release 3" in shown.output, shown.output
    with refused("report-missing", case="3-.*gate"):  # it is archived where the other branch was
        export_evidence("3", site / "evidence", site)
    with open_registry(site) as registry:
        registry.client.delete_model_version(MODEL, "3")
        assert [release.number for release in registry.known_releases()] == [1, 2, 3]

"""Promotion, rollback and challenge: what each leaves in the aliases, the log and the store, and what each refuses."""

from __future__ import annotations

import json
import shutil
import stat

import pytest
import yaml

from cmb_models.errors import InputError
from cmb_models.files import sha256_of
from cmb_models.hash_chain import read_entries
from cmb_models.registry.history.audit import audit, audit_fault
from cmb_models.registry.mlflow.store import MODEL, fetch_release, open_registry
from cmb_models.registry.promote import challenge, promote, resume, rollback, withdraw_challenger
from tests.integration.registry_site import aliases, set_alias
from tests.integration.registry_workspace import PARAMS, git
from tests.support.command_line import cmb
from tests.support.refused import refused


def log(folder):
    return read_entries(folder / "audit.jsonl")


def test_a_challenger_runs_beside_and_is_one_no_more_once_promoted(site):
    promote("1", "first", site)
    assert challenge("2", "looks better", site).moved
    assert aliases(site) == {"production": 1, "challenger": 2}
    assert challenge("2", start=site).moved is False
    promote("challenger", "it is better", site)
    assert aliases(site) == {"production": 2, "previous": 1}
    assert [(e["action"], e["before"], e["after"]) for e in log(site)] == [
        ("promote", {}, {"production": 1}),
        ("challenge", {"production": 1}, {"production": 1, "challenger": 2}),
        ("promote", {"production": 1, "challenger": 2}, {"production": 2, "previous": 1}),
    ]
    assert audit_fault(site) == ""


def test_a_challenger_need_not_pass_and_can_be_withdrawn(site):
    promote("1", start=site)
    assert [c.passed for c in challenge("3", start=site).failed] == [False]
    assert withdraw_challenger("no", site).release == 3
    assert aliases(site) == {"production": 1}
    with refused("role-empty"):
        withdraw_challenger("no", site)
    with refused("role-taken"):
        challenge("1", start=site)


def test_a_rollback_to_the_challenger_ends_its_challenge(site):
    promote("1", start=site)
    promote("2", start=site)
    challenge("1", start=site)
    rollback("worse than it looked", site)
    assert aliases(site) == {"production": 1, "previous": 2}


@pytest.mark.parametrize("reason", ["", "  "])
def test_force_and_rollback_need_a_reason(site, reason):
    for move in (lambda: promote("3", reason, site, force=True), lambda: rollback(reason, site)):
        with refused("reason-missing"):
            move()
    assert not (site / "audit.jsonl").exists()


def test_force_is_shouted_and_marked(site):
    result = cmb("release", "promote", "3", "--override-gate", "--reason", "the only one for thick slices")
    assert result.exit_code == 0
    assert "THE GATE FAILED AND WAS OVERRIDDEN" in result.output
    assert aliases(site) == {"production": 3}
    (entry,) = log(site)
    assert (entry["forced"], entry["reason"]) == (True, "the only one for thick slices")
    assert "FORCED" in cmb("release", "history").output
    (report,) = (site / "releases").glob("3-*.gate-*.json")
    assert json.loads(report.read_text())["forced"] is True


def test_force_on_a_release_that_passes_is_no_forced_promotion(site):
    assert promote("1", "sure", site, force=True).forced is False
    assert log(site)[0]["forced"] is False


def test_who_registered_may_not_promote_where_the_site_says_so(site):
    (site / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"promotion": {"approver_differs": True}}))
    with refused("approver-needed"):
        promote("1", start=site)
    git(site, "config", "user.name", "S. Engineer")  # another spelling is not another person
    with refused("approver-needed"):
        promote("1", "forced", site, force=True)
    git(site, "config", "user.email", "head@site.example")
    promote("1", start=site)
    (entry,) = log(site)
    assert (entry["user"], entry["registered_by"]) == (
        "S. Engineer <head@site.example>",
        "Site Engineer <engineer@site.example>",
    )


def test_what_was_promoted_is_kept_for_ever_with_its_report(site):
    promote("1", start=site)
    (entry,) = log(site)
    (kept,) = (p for p in (site / "releases").iterdir() if p.is_dir())
    assert kept.name == f"1-{entry['manifest_sha256'][:8]}"
    files = [p for p in kept.rglob("*") if p.is_file()]
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o444}
    (report,) = (site / "releases").glob("*.gate-*.json")
    assert sha256_of(report) == entry["gate_report_sha256"] and report.name.endswith(f"{entry['gate_report_sha256'][:8]}.json")
    with open_registry(site) as registry:
        run = registry.resolve("1").run_id
        assert [f.path for f in registry.client.list_artifacts(run, "gate")] == [f"gate/{report.name}"]
    assert git(site, "status", "--porcelain") == "?? audit.jsonl"


def test_a_store_elsewhere_needs_no_gitignore(site, tmp_path, monkeypatch):
    monkeypatch.setenv("CMB_RELEASES", str(tmp_path / "share"))
    promote("1", start=site)
    assert fetch_release("production", site).bundle_dir.parent == tmp_path / "share"
    assert not (site / "releases").exists()


def test_another_content_under_a_kept_number_is_refused(site, tmp_path):
    (site / "releases/1-00000000").mkdir(parents=True)
    with refused("release-changed"):
        promote("1", start=site)
    assert aliases(site) == {} and not (site / "audit.jsonl").exists()


def test_deleting_everything_in_mlflow_does_not_orphan_production(site):
    promote("1", start=site)
    promote("2", start=site)
    with open_registry(site) as registry:
        run = registry.resolve("2").run_id
        for number in ("1", "2"):
            registry.client.delete_model_version(MODEL, number)
        registry.client.delete_run(run)
    shutil.rmtree(site / "mlartifacts", ignore_errors=True)
    shutil.rmtree(site / "serving-state")
    assert fetch_release("production", site).release == 2
    report = audit(site)
    assert report.faults == ()
    assert f"release 2 (production) is not in MLflow; its files are in {site / 'releases'}" in "\n".join(report.notes)
    listed = {r["release"]: r["is_registered"] for r in json.loads(cmb("release", "list", "--json").output)}
    assert listed == {1: False, 2: False, 3: True}
    assert rollback("2 is gone", site).release == 1
    assert fetch_release("production", site).release == 1
    assert audit_fault(site) == ""


def test_an_alias_moved_in_mlflow_is_noticed_not_followed_and_put_back(site):
    promote("1", start=site)
    promote("2", start=site)
    set_alias(site, "production", 3)
    assert audit_fault(site).startswith(
        "the aliases are production 3, previous 1 but audit.jsonl ends with production 2, previous 1"
    )
    assert fetch_release("production", site).release == 2
    with refused("registry-disagrees", got="cmb release repair"):
        promote("3", "forced", site, force=True)
    assert resume(site) == ["the aliases were production 3, previous 1 and are production 2, previous 1"]
    assert resume(site) == []
    assert aliases(site) == {"production": 2, "previous": 1}
    set_alias(site, "production", None)
    assert rollback("never mind the alias", site).release == 1  # an emergency goes by the log
    assert log(site)[-1]["found"] == {"previous": 1}
    assert audit_fault(site) == ""


def test_an_alias_set_without_any_promotion_is_no_production(site):
    set_alias(site, "production", 3)
    with refused("release-unknown"):
        fetch_release("production", site)
    assert audit_fault(site).startswith("the aliases are production 3 but audit.jsonl ends with unset")


def test_a_log_cut_off_or_written_anew_is_noticed(site):
    promote("1", start=site)
    whole = (site / "audit.jsonl").read_text()
    promote("2", start=site)
    longer = (site / "audit.jsonl").read_text()
    (site / "audit.jsonl").write_text(whole)
    for attempt in (lambda: promote("2", start=site), lambda: resume(site), lambda: fetch_release("production", site)):
        with refused("log-behind"):
            attempt()
    assert "the 2 entries that the registry knows of" in audit_fault(site)
    (site / "audit.jsonl").unlink()
    assert "got 0" in audit_fault(site)
    from cmb_models.hash_chain import append_entry

    for entry in map(json.loads, longer.splitlines()):
        fields = {k: v for k, v in entry.items() if k not in ("n", "time", "sha256", "previous_sha256")}
        append_entry(site / "audit.jsonl", **fields | {"reason": "a better one"})
    assert "line 2 is not the one that moved the registry's aliases: the log was rewritten" in audit_fault(site)


def test_changed_kept_files_and_reports_are_named(site):
    promote("1", start=site)
    (report,) = (site / "releases").glob("*.gate-*.json")
    report.chmod(0o644)
    report.write_text(report.read_text().replace("0.95", "0.99"))
    assert f"{report.name}: expected SHA-256" in audit_fault(site)
    (kept,) = (p for p in (site / "releases").iterdir() if p.is_dir())
    file = kept / "unet.onnx"
    content = bytearray(file.read_bytes())
    content[100] ^= 1  # one bit
    file.chmod(0o644)
    file.write_bytes(content)
    result = cmb("release", "verify")
    assert result.exit_code == 1 and "got unet.onnx was changed" in result.output.replace("\n", " ")
    assert fetch_release("production", site).bundle_dir.parent == site / "serving-state/releases"  # survived: fetched again
    shutil.rmtree(site / "mlartifacts", ignore_errors=True)
    shutil.rmtree(site / "serving-state")
    with refused("artifact-missing"):
        fetch_release("production", site)


def test_a_changed_tag_cannot_pass_off_another_bundle_as_production(site):
    promote("1", start=site)
    with open_registry(site) as registry:
        registry.client.set_model_version_tag(MODEL, "1", "manifest_sha256", "f" * 64)
    with refused("release-changed"):
        fetch_release("production", site)
    assert "got ffffffffffff in its tags" in audit_fault(site)


def test_history_tells_what_ran_on_any_day(site, monkeypatch):
    days = iter(["2026-01-05T10:00:00Z", "2026-01-07T09:00:00Z", "2026-01-07T15:00:00Z"])
    monkeypatch.setattr("cmb_models.hash_chain.utc_now", lambda: next(days))
    promote("1", "first", site)
    promote("2", "better", site)
    rollback("too many false alarms", site)

    def ran(when):
        found = json.loads(cmb("release", "history", "--at", when, "--json").output)
        return {stage: (e["release"], e["by"]["reason"]) for stage, e in found.items()}

    assert ran("2026-01-04") == {}
    assert ran("2026-01-05") == ran("2026-01-06") == {"production": (1, "first")}
    assert ran("2026-01-07T12:00:00Z") == {"production": (2, "better"), "previous": (1, "better")}
    assert ran("2026-01-07") == {"production": (1, "too many false alarms"), "previous": (2, "too many false alarms")}
    assert "nothing had been promoted by 2026-01-04" in cmb("release", "history", "--at", "2026-01-04").output
    assert "first" in cmb("release", "history", "--at", "2026-01-06").output
    assert isinstance(cmb("release", "history", "--at", "yesterday").exception, InputError)


def test_entries_of_an_older_log_stay_valid(site):
    """Entries as they were before there were challengers, kept bundles and gate reports."""
    from cmb_models.hash_chain import append_entry

    with open_registry(site) as registry:
        manifests = {r.number: r.tags["manifest_sha256"] for r in registry.releases()}
    old = {"user": "A <a@site.example>", "action": "promote", "reason": "", "gate": []}
    append_entry(site / "audit.jsonl", **old, release=1, manifest_sha256=manifests[1], before={}, after={"production": 1})
    append_entry(
        site / "audit.jsonl",
        **old, release=2, manifest_sha256=manifests[2], before={"production": 1}, after={"production": 2, "previous": 1},
    )  # fmt: skip
    set_alias(site, "production", 2)
    set_alias(site, "previous", 1)
    assert audit_fault(site) == ""
    assert rollback("back", site).release == 1
    assert audit_fault(site) == ""
    assert [e["action"] for e in json.loads(cmb("release", "history", "--json").output)] == ["promote", "promote", "rollback"]
    assert "rollback" in cmb("release", "history").output


def test_every_command_speaks_json(site):
    assert json.loads(cmb("release", "promote", "1", "--json").output)["moved"] is True
    assert json.loads(cmb("release", "challenge", "2", "--json").output)["release"] == 2
    assert json.loads(cmb("release", "challenge", "--clear", "--json").output)["moved"] is True
    failed = cmb("release", "promote", "3", "--json")
    assert (failed.exit_code, json.loads(failed.output)["moved"]) == (1, False)
    cmb("release", "promote", "2")
    assert json.loads(cmb("release", "rollback", "--reason", "back", "--json").output)["release"] == 1
    assert json.loads(cmb("release", "repair", "--json").output) == {"done": []}
    assert json.loads(cmb("release", "verify", "--json").output)["holds"] is True
    listed = json.loads(cmb("release", "list", "--json").output)
    assert [(r["release"], r["role"], r["is_registered"]) for r in listed] == [
        (1, "production", True), (2, "previous", True), (3, None, True)
    ]  # fmt: skip
    assert all(r["age_s"] >= 0 and len(r["data_sha256"]) == 64 for r in listed)

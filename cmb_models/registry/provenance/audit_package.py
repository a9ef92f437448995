"""The audit package of a release for a quality system: one folder with all evidence for its approval."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import atomic_directory, read_json, write_json, write_text
from cmb_models.hash_chain import read_entries, utc_now, with_merged
from cmb_models.registry.history.archive import gate_report, read_report
from cmb_models.registry.history.audit import audit
from cmb_models.registry.history.state import state_from_log
from cmb_models.registry.mlflow.store import ReleaseFiles, open_registry
from cmb_models.registry.provenance.sbom import bill_of_materials, locked_environment
from cmb_models.release.bundle import CARD_FILE, LINEAGE_FILE, MANIFEST_FILE, METADATA_FILE
from cmb_models.release.checksums import write_checksums
from cmb_models.workspace.paths import AUDIT_LOG
from cmb_models.workspace.versioning import user_name

INDEX_FILE, SBOM_FILE, APPROVAL_FILE = "index.json", "sbom.cdx.json", "approval.json"
EXTRACT_FILE, VERIFIED_FILE = "audit_extract.jsonl", "audit_verification.json"
FROM_BUNDLE = (MANIFEST_FILE, METADATA_FILE, LINEAGE_FILE, CARD_FILE)


def export_evidence(ref: str, out: Path, start: Path = Path(".")) -> list[str]:
    """Write a release's evidence to the folder `out`, which must not exist; return the names of its files.

    Gate reports and approvals come from the audit log and are verified; index.json lists every file with its SHA-256.

    Raises:
        InputError: For a release or log that fails verification, and for an existing `out`.
    """
    out = Path(out)
    if out.exists():
        raise InputError(
            "folder-taken", out, "a folder that does not exist yet", "one that does", "name another: evidence is never overwritten"
        )
    report = audit(start)
    if not report.holds:
        raise InputError("log-damaged", AUDIT_LOG, "a valid log", report.faults[0], "see `cmb release verify`")
    with open_registry(start) as registry:
        release, workspace = registry.resolve(ref), registry.workspace
        files = registry.fetch(release)
        entries = read_entries(workspace / AUDIT_LOG)
        relevant = [e for e in entries if any(_concerns(part, release.number) for part in (e, *e.get("merged", ())))]
        decisions = [e for e in with_merged(entries) if e["release"] == release.number]
        with atomic_directory(out) as folder:
            for name in FROM_BUNDLE:
                shutil.copyfile(files.bundle_dir / name, folder / name)
            _copy_reports(workspace, folder, files, decisions)
            write_json(folder / APPROVAL_FILE, [_approval(e) for e in decisions])
            write_text(folder / EXTRACT_FILE, "".join(json.dumps(e, sort_keys=True) + "\n" for e in relevant))
            logged = state_from_log(entries)
            write_json(
                folder / VERIFIED_FILE,
                {"holds": True, "entries": logged.n, "last_sha256": logged.sha256, "stages": logged.aliases,
                 "notes": list(report.notes)}
            )  # fmt: skip
            lineage = read_json(files.bundle_dir / LINEAGE_FILE)
            lock = locked_environment(workspace, lineage.get("git_commit", ""), lineage.get("environment_sha256", ""))
            sbom = bill_of_materials(lock, release.number, files.manifest_sha256, lineage.get("created", ""))
            write_text(folder / SBOM_FILE, sbom)
            return _write_index(folder, files, user_name(workspace))


def _concerns(entry: dict[str, Any], number: int) -> bool:
    return number in (entry["release"], *entry["before"].values(), *entry["after"].values())


def _approval(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of a log entry that document a decision."""
    keys = ("n", "time", "action", "user", "registered_by", "reason", "forced", "gate_report_sha256", "manifest_sha256", "sha256")
    return {key: entry[key] for key in keys if key in entry}


def _copy_reports(workspace: Path, folder: Path, files: ReleaseFiles, entries: list[dict[str, Any]]) -> None:
    """Copy the release's gate reports, verified against the log. Raises InputError for one that is not in this archive."""
    for entry in entries:
        digest = entry.get("gate_report_sha256", "")
        if digest:
            report = read_report(workspace, files.release, files.manifest_sha256, digest)
            if report is None:
                place = gate_report(workspace, files.release, files.manifest_sha256, digest)
                raise InputError(
                    "report-missing", place, "the gate report of the audit log", "no file", "export where the release was promoted"
                )
            shutil.copyfile(
                gate_report(workspace, files.release, files.manifest_sha256, digest), folder / f"gate_report-{digest[:8]}.json"
            )


def _write_index(folder: Path, files: ReleaseFiles, user: str) -> list[str]:
    names = sorted(p.name for p in folder.iterdir())
    header = {"release": files.release, "manifest_sha256": files.manifest_sha256, "exported": utc_now(), "exported_by": user}
    write_checksums(folder / INDEX_FILE, names, header)
    return [INDEX_FILE, *names]

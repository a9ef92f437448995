"""The folder for a quality system: complete, hashed, and refused where something does not hold."""

from __future__ import annotations

import json

from cmb_models.files import sha256_of
from cmb_models.registry.mlflow.store import fetch_release
from cmb_models.registry.promote import promote
from cmb_models.registry.provenance.audit_package import export_evidence
from cmb_models.registry.provenance.sbom import bill_of_materials, pins
from tests.support.command_line import cmb
from tests.support.refused import refused


def test_everything_about_a_release_in_one_folder(site, tmp_path):
    promote("3", "the only one for thick slices", site, force=True)
    promote("1", "better", site)
    out = tmp_path / "evidence"
    names = json.loads(cmb("release", "export", "3", "--out", str(out), "--json").output)["files"]
    assert sorted(names) == sorted(p.name for p in out.iterdir())
    index = json.loads((out / "index.json").read_text())
    assert index["files"] == {p.name: sha256_of(p) for p in out.iterdir() if p.name != "index.json"}
    bundle = fetch_release("3", site)
    assert index["manifest_sha256"] == bundle.manifest_sha256 == sha256_of(out / "manifest.json")
    (approval,) = json.loads((out / "approval.json").read_text())
    assert (approval["action"], approval["forced"], approval["reason"]) == ("promote", True, "the only one for thick slices")
    assert index["files"][f"gate_report-{approval['gate_report_sha256'][:8]}.json"] == approval["gate_report_sha256"]
    extract = [json.loads(line) for line in (out / "audit_extract.jsonl").read_text().splitlines()]
    assert [(e["action"], e["release"]) for e in extract] == [("promote", 3), ("promote", 1)]  # it left by the second
    sbom = json.loads((out / "sbom.cdx.json").read_text())
    assert (sbom["specVersion"], [c["purl"] for c in sbom["components"]]) == ("1.6", ["pkg:pypi/numpy@2.4.6"])
    assert sbom["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": bundle.manifest_sha256}]
    with refused("folder-taken"):
        export_evidence("3", out, site)


def test_evidence_of_a_log_that_does_not_hold_is_refused(site, tmp_path):
    promote("1", "first", site)
    log = site / "audit.jsonl"
    log.write_text(log.read_text().replace("first", "worst"))
    with refused("log-damaged"):
        export_evidence("1", tmp_path / "evidence", site)
    assert not (tmp_path / "evidence").exists()


def test_a_bill_of_materials_names_every_pin():
    lock = "# head\nnumpy==2.4.6\nruamel.yaml==0.18.6 ; python_version > '3'\n"
    assert pins(lock) == [("numpy", "2.4.6"), ("ruamel.yaml", "0.18.6")]
    purls = [c["purl"] for c in json.loads(bill_of_materials(lock, 1, "a" * 64, "2026-01-01"))["components"]]
    assert purls == ["pkg:pypi/numpy@2.4.6", "pkg:pypi/ruamel-yaml@0.18.6"]
    with refused("environment-unknown"):
        pins("# nothing\n")

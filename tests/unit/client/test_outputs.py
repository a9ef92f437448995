"""detections.csv and detections.json, to the letter."""

import json

import jsonschema
import pytest

from cmb_models.client.outputs import FORMAT, ScanResult, write_candidates, write_csv, write_summary
from cmb_models.detection import Detection, DetectionResult
from cmb_models.files import read_json
from tests.support.imports import ROOT

HIGH = Detection((1.0, -20.12345, 3.5), (4, 5, 6), 2.345, 0.9, 0.8, 0.95)
LOW = Detection((0.0, 0.0, 0.0), (1, 2, 3), 5.0, 0.4, 0.30000001, 0.6)
ANSWER = DetectionResult((HIGH, LOW), 0.5, 7, "ab" * 32)
HEADER = "scan,x_mm,y_mm,z_mm,i,j,k,diameter_mm,score,stage1_score,release,manifest_sha256\n"
HIGH_ROW = "1.000,-20.123,3.500,4,5,6,2.35,0.900000,0.800000,7," + "ab" * 32 + "\n"
LOW_ROW = "0.000,0.000,0.000,1,2,3,5.00,0.400000,0.300000,7," + "ab" * 32 + "\n"


def test_csv_has_these_columns_and_the_findings_above_the_threshold(tmp_path):
    results = [
        ScanResult("b", "x/b.nii", ANSWER),
        ScanResult("refused", "x/refused.nii", error="x/refused.nii: expected a scan"),
        ScanResult("a,1", "x/a,1.nii", ANSWER, threshold=0.4),  # a score at the threshold counts
        ScanResult("none", "x/none.nii", ANSWER, threshold=0.95),
    ]
    write_csv(tmp_path / "d.csv", results)
    assert (tmp_path / "d.csv").read_text() == HEADER + "b," + HIGH_ROW + '"a,1",' + HIGH_ROW + '"a,1",' + LOW_ROW


def test_csv_of_nothing_is_the_header(tmp_path):
    write_csv(tmp_path / "d.csv", [])
    assert (tmp_path / "d.csv").read_text() == HEADER


def test_json_has_every_digit_the_release_and_the_refused(tmp_path):
    write_summary(tmp_path / "d.json", [ScanResult("a", "x/a.nii", ANSWER), ScanResult("r", "x/r.nii", error="why")])
    summary = read_json(tmp_path / "d.json")
    assert "not a medical device" in summary["note"]
    assert summary["refused"] == [{"scan": "r", "file": "x/r.nii", "code": "", "error": "why"}]
    (scan,) = summary["scans"]
    assert {k: scan[k] for k in ("scan", "file", "release", "manifest_sha256", "threshold", "release_threshold")} == {
        "scan": "a",
        "file": "x/a.nii",
        "release": 7,
        "manifest_sha256": "ab" * 32,
        "threshold": 0.5,
        "release_threshold": 0.5,
    }
    assert scan["detections"] == [
        {
            "world_mm": [1.0, -20.12345, 3.5],
            "index": [4, 5, 6],
            "diameter_mm": 2.345,
            "score": 0.9,
            "stage1_score": 0.8,
            "stage2_score": 0.95,
        }
    ]


def test_json_tells_both_thresholds(tmp_path):
    write_summary(tmp_path / "d.json", [ScanResult("a", "a.nii", ANSWER, threshold=0.95)])
    (scan,) = read_json(tmp_path / "d.json")["scans"]
    assert (scan["threshold"], scan["release_threshold"], scan["detections"]) == (0.95, 0.5, [])


def test_candidates_have_both_scores_and_their_outcome(tmp_path):
    results = [
        ScanResult("a", "a.nii", ANSWER),
        ScanResult("r", "r.nii", error="why"),
        ScanResult("b", "b.nii", ANSWER, threshold=0.4),
    ]
    write_candidates(tmp_path / "c.csv", results)
    header, *lines = (tmp_path / "c.csv").read_text().splitlines()
    assert header.endswith("score,stage1_score,stage2_score,detection,lower_score,release,manifest_sha256")
    ends = [",".join(line.split(",")[8:13]) for line in lines]
    high, low = "0.900000,0.800000,0.950000,1,unet", "0.400000,0.300000,0.600000,{},unet"
    assert ends == [high, low.format(0), high, low.format(1)]
    assert [line.split(",")[0] for line in lines] == ["a", "a", "b", "b"]


def schema() -> dict:
    return json.loads((ROOT / f"docs/reference/detections-{FORMAT}.schema.json").read_text())


def test_json_follows_its_published_schema(tmp_path):
    scan = ScanResult("a", "a.nii", ANSWER, input_sha256="cd" * 32)
    unplaced = Detection((float("nan"),) * 3, (4, 5, 6), 2.3, 0.9, 0.8, 0.95)
    other = ScanResult("b", "b.nii", DetectionResult((unplaced,), 0.5), input_sha256="ef" * 32, warning="no place")
    write_summary(tmp_path / "d.json", [scan, other, ScanResult("r", "r.nii", error="why", code="scan-file")])
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(read_json(tmp_path / "d.json"), schema())
    found = read_json(tmp_path / "d.json")
    del found["scans"][0]["threshold"]
    with pytest.raises(jsonschema.ValidationError, match="threshold"):
        jsonschema.validate(found, schema())

"""Production against challenger on one scan, over many, and beside a client that must never wait for it."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.detection import Detection, DetectionResult
from cmb_models.shadow.compare import Answered, compare_challenger, compared
from cmb_models.shadow.page import render
from cmb_models.shadow.summary import summarise
from cmb_models.volume import Volume

SCAN = Volume(np.ones((4, 4, 4), dtype=np.float32), np.eye(4))


def answer(release: int, threshold: float, *rows: tuple) -> DetectionResult:
    """rows: (x_mm, diameter_mm, score), on a line."""
    found = [Detection((x, 0.0, 0.0), (0, 0, 0), diameter, score, score, score) for x, diameter, score in rows]
    return DetectionResult(tuple(sorted(found, key=lambda d: -d.score)), threshold, release, f"{release:064d}")


def places(entry: dict, kind: str) -> list:
    return [(place["world_mm"][0], *place["scores"]) for place in entry[kind]]


@pytest.mark.parametrize(
    ("production", "challenger", "both", "only_production", "only_challenger"),
    [
        ([(0, 4, 0.9)], [(2.9, 4, 0.7)], [(0, 0.9, 0.7)], [], []),
        ([(0, 4, 0.9)], [(3.1, 4, 0.7)], [], [(0, 0.9, None)], [(3.1, None, 0.7)]),
        ([(0, 8, 0.9)], [(3.9, 4, 0.7)], [(0, 0.9, 0.7)], [], []),
        ([(0, 4, 0.9)], [(1, 4, 0.5)], [], [(0, 0.9, 0.5)], []),
        ([(0, 4, 0.4)], [(1, 4, 0.8)], [], [], [(1, 0.4, 0.8)]),
        ([(0, 4, 0.9)], [(1, 4, 0.8), (-1.5, 4, 0.7)], [(0, 0.9, 0.8)], [], [(-1.5, 0.9, 0.7)]),
        ([(0, 4, 0.9), (2, 4, 0.8)], [(1.5, 4, 0.7)], [(2, 0.8, 0.7)], [(0, 0.9, None)], []),
        ([], [], [], [], []),
        ([(0, 0, 0.9)], [(0, 500, 0.7)], [(0, 0.9, 0.7)], [], []),
    ],
    ids=["near", "too far", "within a large one's radius", "below its own threshold", "below production's", "split", "merged",
         "nothing", "odd diameters"],
)  # fmt: skip
def test_each_place_at_each_ones_threshold(production, challenger, both, only_production, only_challenger):
    entry = compared(answer(1, 0.5, *production), answer(2, 0.6, *challenger))
    assert (places(entry, "both"), places(entry, "only_production"), places(entry, "only_challenger")) == (
        both,
        only_production,
        only_challenger,
    )
    assert entry["production"]["release"] == 1 and entry["challenger"]["threshold"] == 0.6


def test_a_challenger_that_fails_is_only_noted():
    def fails(*_, **__):
        raise RuntimeError("the server failed")

    entry = compare_challenger(Answered("a", SCAN, answer(1, 0.5, (0, 4, 0.9))), fails)
    assert (entry["outcome"], entry["reason"], entry["production"]["detections"]) == ("failed", "the server failed", 1)


def line(day: str, scan: str, both: int, first: int, second: int, releases=(1, 2)) -> dict:
    """A line with that many places, of scores .9 and .8 where both report."""
    sides = {
        side: {"release": r, "manifest_sha256": f"{r:064d}", "threshold": 0.5, "candidates": 9, "detections": 9}
        for side, r in zip(("production", "challenger"), releases, strict=True)
    }
    kinds = {
        "both": [{"world_mm": [0, 0, 0], "apart_mm": 0, "scores": [0.9, 0.8]}] * both,
        "only_production": [{"world_mm": [0, 0, 0], "scores": [0.9, None]}] * first,
        "only_challenger": [{"world_mm": [0, 0, 0], "scores": [0.1, 0.8]}] * second,
    }
    return {
        "time": f"{day}T12:00:00.000Z",
        "scan": scan,
        "input_sha256": f"hash of {scan}",
        "outcome": "compared",
        **sides,
        **kinds,
    }


LINES = [
    line("2026-11-02", "a", 3, 1, 0),
    line("2026-11-03", "b", 0, 0, 0),
    line("2026-11-10", "c", 2, 0, 3),
    line("2026-11-11", "a", 3, 0, 0),  # sent again
    {"time": "2026-11-11T12:00:00.000Z", "scan": "d", "outcome": "failed", "reason": "no phase"},
    line("2026-11-12", "a", 1, 0, 0, (2, 3)),
]


def test_the_report_counts_each_scan_once_by_pair_and_week():
    summary = summarise(LINES)
    later, pair = summary["pairs"]
    assert (later["production"]["release"], later["challenger"]["release"], later["scans"]) == (2, 3, 1)
    assert (pair["scans"], pair["scans_alike"]) == (3, 2)
    assert (pair["both"], pair["only_production"], pair["only_challenger"]) == (5, 0, 3)
    assert pair["agreement"] == 5 / 8 and pair["agreement_95"][0] <= 5 / 8 <= pair["agreement_95"][1]
    assert pair["agreement_95"] == pytest.approx([0.3057, 1.0], abs=1e-4)  # Wilson's lower end for 5 of 8; resamples of a alone
    assert pair["score_shift"]["mean"] == pytest.approx(-0.1) and pair["more_per_scan"] == 1
    weeks = [(w["week"], w["scans"], w["agreement"]) for w in pair["weeks"]]
    assert weeks == [("2026-W45", 1, None), ("2026-W46", 2, 5 / 8)]
    assert [scan["scan"] for scan in pair["most_different"]] == ["c"]
    assert summary["not_compared"] == [{"outcome": "failed", "reason": "no phase", "scans": 1}]


def test_nothing_compared_is_an_empty_report():
    assert summarise([]) == {"pairs": [], "not_compared": []}
    assert "No scans have been compared" in render(summarise([]))


def test_the_page_shows_them_and_takes_names_as_text():
    page = render(summarise([*LINES, line("2026-11-20", "<b>x</b>", 0, 2, 0)]))
    assert "Release 2 shadowing release 1" in page and "no candidate" in page and "2026-W46" in page
    assert "<b>x</b>" not in page and "&lt;b&gt;x&lt;/b&gt;" in page
    assert page.count("data:image/svg+xml") == 2

"""The plan of a large cohort from measured rates."""

from __future__ import annotations

import pytest

from scripts.results.planning import Rates


def test_the_longest_part_of_a_plan_is_its_bottleneck():
    """10^5 scans of 125 MB, 1 s of reading and 6 s of serving: a link of 1 Gbit/s carries one in 1 s."""
    rates = Rates(read_s=1.0, server_s=6.0, read=1, sent=125_000_000, written=1.0, server_cores=2)
    hours = rates.hours(readers=2, servers=3, gbit=1)
    assert hours == pytest.approx(
        {
            "reading": 1e5 / 7200,
            "the readers' network": 1e5 / 7200,
            "the servers": 2e5 / 3600,
            "the servers' network": 1e5 / 3 / 3600,
        }
    )

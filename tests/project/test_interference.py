"""The benchmark of what warming does to others runs, and shows all its figures."""

import json
import subprocess
import sys

import pytest

from benchmarks.interference.__main__ import Result, Spread, table
from benchmarks.interference.measure import percentile
from tests.project.distribution import ROOT


@pytest.mark.slow
def test_it_measures_invalidations_and_reads_while_warming_is_held_back() -> None:
    command = [sys.executable, "-m", "benchmarks.interference", "--quick", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert (result["invalidations"]["samples"], result["idle"]["samples"]) == (40, 1000)
    assert result["warming"]["samples"] == 1000
    assert result["evicted"] > 0
    assert 0 < result["capped_rate"] < result["full_rate"]


def test_the_table_shows_every_figure_beside_its_aim() -> None:
    spread = Spread.of([0.001, 0.002, 0.003])
    result = Result(
        True, 20_000, 10_000, 9_990, spread, spread, Spread.of([0.004]), spread, spread, 7, 1.333, 1.0
    )
    lines = list(table(result))
    assert lines[1:3] == [
        "app and background on a core each: yes",
        "warming: 20,000 keys/s; with a limit of 10,000, 9,990 meanwhile",
    ]
    assert lines[-5:] == [
        "| invalidation by task, until it is effective | 2.00 | 3.00 | 3.00 | 3 | p99 at most 100 |",
        "| read, nothing else to do | 2.00 | 3.00 | 3.00 | 3 |  |",
        "| read, while warming | 4.00 | 4.00 | 4.00 | 1 | p99 at most 3 times that, is 1.333 times |",
        "| read, while warming, invalidating and sweeping | 2.00 | 3.00 | 3.00 | 3 |  |",
        "| read, while 7 entries are evicted | 2.00 | 3.00 | 3.00 | 3 | p99 at most 3 times idle, is 1 times |",
    ]


def test_a_percentile_is_one_of_the_times() -> None:
    times = [float(n) for n in range(1, 101)]
    assert (percentile(times, 0.5), percentile(times, 0.99), percentile(times, 1)) == (51, 100, 100)

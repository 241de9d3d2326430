"""The benchmarks run, with whichever of the other libraries are installed, and count what they are to count."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import endurance, memory_peers, redis_peers
from benchmarks.consistency.__main__ import main, table
from benchmarks.consistency.peers import CONTENDERS
from benchmarks.consistency.stage import MIXES, Result
from tests.project.distribution import ROOT

OURS = ("stoker", "stoker-async")
COMMAND = [sys.executable, "-m", "benchmarks.consistency", "--seconds=0.6", "--json"]


def measured(contender: str, *options: str) -> dict[str, Any]:
    """What came of one contender in a short run. Forks, so it has a process of its own."""
    command = [*COMMAND, f"--contenders={contender}", *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    if run.returncode == 2:
        pytest.skip(run.stderr.splitlines()[-1])
    assert run.returncode == 0, run.stderr
    [result] = json.loads(run.stdout)["results"]
    return dict(result)


@pytest.mark.parametrize(
    "contender",
    [
        pytest.param(name, marks=[] if name in ("stoker", "redis-py") else pytest.mark.slow)
        for name in CONTENDERS
    ],
)
def test_a_contender_reads_loads_and_forgets(contender: str) -> None:
    trouble = []
    for _ in range(3):  # a machine that is held up makes for time-outs, but not three times in a row
        result = measured(contender, "--mixes=quiet")
        counts = result["counts"]
        assert counts["wrong"] == 0, result
        assert counts["stale"] == 0 or contender not in OURS, result
        done = min(counts[name] for name in ("reads", "loads", "acks"))
        if done and not (counts["errors"] or counts["unacked"] or result["hung"]):
            return
        trouble.append(result)
    raise AssertionError(trouble)


@pytest.mark.slow
@pytest.mark.parametrize("mix", [mix for mix, faults in MIXES.items() if faults])
def test_what_is_to_go_wrong_goes_wrong_and_stoker_serves_nothing_stale(mix: str) -> None:
    result = measured("stoker", f"--mixes={mix}", "--seconds=5")
    assert set(result["struck"]) == set(MIXES[mix])
    assert (result["counts"]["stale"], result["counts"]["wrong"], result["counts"]["errors"]) == (0, 0, 0), (
        result
    )


def test_the_table_shows_every_count() -> None:
    counts = {"reads": 1000, "hits": 250, "stale": 7, "wrong": 0, "loads": 800, "acks": 90, "errors": 3}
    [*_, line] = table([Result("redis-py", "quiet", counts, {}, 0, "valkey 9", [])]).splitlines()
    assert line == "| quiet | redis-py | 1,000 | 250 | 25% | 7 | 0 | 800 | 90 | 3 |"


@pytest.mark.parametrize("option", ["--contenders=nobody", "--mixes=quiet,nothing"])
def test_an_unknown_name_is_refused_with_those_there_are(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([option])
    assert "choose of" in capsys.readouterr().err


def test_the_memory_benchmark_runs_and_writes_what_it_found(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.memory", "--quick", f"--json={tmp_path / 'found.json'}"]
    run = subprocess.run(
        [*command, f"--plots={tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert run.returncode == 0, run.stderr
    tables = {
        table["title"]: table["rows"] for table in json.loads((tmp_path / "found.json").read_text())["tables"]
    }
    ours = {"stoker", "stoker s3fifo", "stoker max_bytes"}
    for title, rows in tables.items():
        left_out = {"stoker max_bytes"} if title == "Hit ratios" else set()
        assert ours - left_out <= {row[0] for row in rows}, title
    assert [row for row in tables["Four threads"] if row[0] in ours and row[-1]] == []
    assert all(f"| {name} |" in run.stdout for name in ours)
    assert len(list(tmp_path.glob("*.svg"))) == 3


def test_the_benchmark_of_the_near_cache_runs() -> None:
    command = [sys.executable, "-m", "benchmarks.near", "--quick"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert run.returncode == 0, run.stderr
    for row in ("stoker near, text", "stoker near, dict", "redis-py client-side cache", "redis-py GET"):
        assert f"| {row} |" in run.stdout


@pytest.mark.slow
def test_every_contender_in_memory_that_is_installed_takes_part() -> None:
    command = [sys.executable, "-m", "benchmarks.memory", "--quick"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    for contender in memory_peers.CONTENDERS:
        assert f"| {contender.name} |" in run.stdout or f"{contender.name} is left out" in run.stderr


def test_the_redis_benchmark_runs_and_writes_what_it_found(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.redis_speed", "--quick"]
    ours = "stoker,redis-py,stoker async,redis.asyncio"
    run = subprocess.run(
        [*command, f"--only={ours}", f"--json={tmp_path / 'found.json'}", f"--plots={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    tables = json.loads((tmp_path / "found.json").read_text())["tables"]
    assert len(tables) == 10
    assert all(row[1] > 0 for table in tables for row in table["rows"])
    assert len(list(tmp_path.glob("*.svg"))) == 3


@pytest.mark.slow
def test_every_contender_on_redis_that_is_installed_takes_part() -> None:
    command = [sys.executable, "-m", "benchmarks.redis_speed", "--quick"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    for contender in redis_peers.CONTENDERS:
        assert f"| {contender.name} |" in run.stdout or f"{contender.name} is left out" in run.stderr


@pytest.mark.slow
def test_a_sweep_is_measured_beside_deletion_by_hand() -> None:
    command = [sys.executable, "-m", "benchmarks.sweeping", "--quick"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr
    for row in ("nothing", "SCAN and UNLINK, 1,000 a call", "stoker, sweep"):
        assert f"| {row} |" in run.stdout


@pytest.mark.slow
def test_warming_is_measured_against_a_pipeline_of_plain_sets() -> None:
    command = [sys.executable, "-m", "benchmarks.warming", "--quick"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    for row in ("redis-py, pipeline of SETs", "Cache.warm", "job, two workers", "2 workers"):
        assert f"| {row} |" in run.stdout


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="only Linux tells what a process uses this way"
)
def test_millions_of_operations_leave_nothing_behind() -> None:
    command = [sys.executable, "-m", "benchmarks.endurance", "--operations=1500000", "--every=500000"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "grown since the first look: nothing" in run.stdout


def test_what_has_grown_is_told() -> None:
    first = endurance.Use(1, 50.0, 16, 2, 4, 7.0, 90)
    assert endurance.growth(first, first) == []
    assert endurance.growth(first, first._replace(megabytes=64.0, descriptors=25)) == ["MB", "descriptors"]

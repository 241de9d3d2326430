"""The benchmark of evictions runs: what is counted adds up, and the job leaves the server nothing to evict."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pressure_noisy import JOB, QUOTA, hit_rates, scene
from benchmarks.pressure_traces import REQUESTS, SCANNER, mixed, noisy
from stoker.cache import evict, quotas
from stoker.cache.quotas import Quota, Quotas
from tests.project.distribution import ROOT


def measured(tmp_path: Path, module: str, *only: str) -> dict[str, dict[str, Any]]:
    """The rows of a quick run, by their names."""
    found = tmp_path / "found.json"
    command = [
        sys.executable,
        "-m",
        f"benchmarks.{module}",
        "--quick",
        f"--only={','.join(only)}",
        f"--json={found}",
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert run.returncode == 0, run.stderr
    [table] = json.loads(found.read_text())["tables"]
    return {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}


@pytest.mark.slow
def test_the_job_costs_less_than_the_servers_own_policy(tmp_path: Path) -> None:
    found = measured(tmp_path, "pressure", "volatile-lfu", "stoker volatile-lfu")
    ours, server = found["stoker volatile-lfu"], found["volatile-lfu"]
    assert ours["miss cost, s"] < server["miss cost, s"]
    assert (ours["evicted by the server"], ours["not stored"]) == (0, 0)
    assert server["evicted by the server"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nine_tenants_lose_two_points_of_hits_at_most_beside_one_that_scans(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fifth of trace N, played as `pressure_noisy` does."""
    monkeypatch.setattr(evict, "REST", 0.0)
    monkeypatch.setattr(quotas, "LOOK_EVERY_S", 0.0)
    alone, beside, lost, scanner = hit_rates(
        *scene(seed, requests=REQUESTS // 5), JOB, Quotas(tenants={SCANNER: Quota(hard=QUOTA)})
    )
    told = (
        f"seed {seed}: {alone:.2f} alone, {beside:.2f} beside him, {lost:.2f} lost; the scanner {scanner:.1f}"
    )
    sys.stdout.write(f"{told}\n")
    assert lost <= 2


def test_traces_are_those_of_their_seeds_and_their_scanner_asks_every_second_time() -> None:
    assert mixed(5, 100, 500).asked == mixed(5, 100, 500).asked != mixed(6, 100, 500).asked
    trace = noisy(5, 50_000, 175, 100, 500)
    assert [tenant == SCANNER for tenant, _ in trace.asked] == [False, True] * 250
    scanned = sum(size + 175 for (tenant, _), size in trace.sizes.items() if tenant == SCANNER)
    assert 50_000 <= scanned < 60_000
    assert trace.sizes.keys() == trace.costs_us.keys()

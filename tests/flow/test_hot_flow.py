"""Hot keys with real workers: learned while apps read, warmed again after invalidations, replayed after a crash."""

import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from benchmarks import hot_keys as hot_keys_benchmark
from stoker.config import Settings, open_cache
from stoker.tasks import hot_keys, runtime, send
from stoker.worker import last_snapshot
from stoker.worker.processes import Processes
from tests.flow import loaders  # noqa: F401 - this process asks for what they can load
from tests.flow.broker import Broker
from tests.flow.conftest import ROOT, Deployment
from tests.waiting import wait_until


def read(deployment: Deployment, *keys: str) -> None:
    """As an app does that ends afterwards."""
    with open_cache(deployment.settings) as app:
        for key in keys:
            app.get(key, "acme")


def hottest() -> list[str]:
    return [key for _, key in hot_keys.hottest(9, "acme")]


@pytest.mark.slow
@pytest.mark.soak
def test_a_worker_learns_what_apps_read_warms_it_again_and_leaves_a_snapshot_when_it_ends(
    deployment: Deployment,
) -> None:
    # Given keys that apps read, more and less often
    worker = deployment.worker("a", 1, STOKER_HOT__SNAPSHOT_EVERY="86400")
    deployment.launch("beat", "beat", STOKER_BEAT__HOT_EVERY="0.2")
    read(deployment, "slow:1", "slow:2", "slow:2", "slow:3", "slow:3", "slow:3")
    wait_until(lambda: hottest() == ["slow:3", "slow:2", "slow:1"])
    # When all of them are invalidated, and the two hottest shall be warmed again
    send.invalidate_pattern("slow:*", "acme", rewarm=2).wait(timeout=60)
    # Then they are
    wait_until(lambda: deployment.loads() == 2)
    assert {key for call in deployment.calls() for key in call.keys} == {"slow:3", "slow:2"}
    # And what was learned since the last snapshot is in the one of the worker's end
    read(deployment, "slow:4")
    wait_until(lambda: "slow:4" in hottest())
    assert deployment.end(worker) == 0
    snapshot = runtime.current().hot_snapshots.before("another life")
    assert snapshot is not None
    assert ("acme", "slow:4") in snapshot.keys


@pytest.mark.slow
def test_a_state_server_that_hangs_does_not_keep_a_worker_from_ending(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert environment
    with Processes() as processes:
        state = Broker(processes, tmp_path)
        monkeypatch.setenv("STOKER_STATE_URL", state.url)
        state.freeze()
        began = monotonic()
        last_snapshot.take(Settings())
        assert monotonic() - began < 4
        state.thaw()


@pytest.mark.slow
def test_the_sample_costs_a_read_little() -> None:
    found = [on_the_processor for _, on_the_processor in hot_keys_benchmark.ratios(pairs=600, seed=1)]
    assert statistics.median(found) < 1.05  # 1.01 on a quiet machine


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_after_a_crash_a_replay_spares_the_origin_half_of_the_loads() -> None:
    seed = random.randrange(2**16)
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    command = [sys.executable, "-m", "benchmarks.replay", "--json", "--reads=80000", f"--seed={seed}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    print(run.stdout)  # noqa: T201
    assert found["replayed"]["loads"] <= found["plain"]["loads"] / 2

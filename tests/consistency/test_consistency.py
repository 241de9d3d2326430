"""No read is stale, whatever goes wrong; and a checker that says so would notice.

Each run is `stoker verify` in a process of its own, prints its seed and its figures, and can be repeated with that
seed, though not step by step: processes race as they like.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stoker.worker.verify import guards

COMMAND = "from stoker.worker.cli import main; main()"
SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))
URL = os.environ.get("STOKER_TEST_REDIS_URL", "")
REDIS = shutil.which("redis-server")

MIXES = [
    "kill,pause",
    "restart,kill",
    "failover,kill",
    "control,flush",
    "evict,kill",
    "full,kill",
    "cut,pause",
    "scripts,broker,kill",
    "freeze,disconnect",
    "kill,pause,restart,control,cut,full",
    "reshard,kill,pause,restart,control",
]
MIXES_WITH_COPIES = [
    ("kill,pause", 2),
    ("restart,failover,kill", 1),
    ("control,flush,cut", 2),
    ("reshard,disconnect,kill", 2),
    ("evict,full,scripts", 1),
    ("freeze,disconnect,pause", 2),
]
"""Faults and shards."""
GUARDS: dict[str, list[str]] = {
    "lease": ["--faults=none"],
    "batch-writes": ["--faults=none"],
    "batch-place": ["--faults=none"],
    "stamp": ["--faults=none"],
    "closing": ["--faults=none"],
    "second-read": ["--faults=none"],
    "boot-fence": ["--faults=restart"],
    "same-rules": ["--faults=none"],
    "sentinel": ["--faults=control"],
    "missing-control": ["--faults=control"],
    "follower-in-time": ["--faults=none"],
    "follower-check": ["--faults=none"],
    "set-ends-lease": ["--faults=none"],
    "delete-ends-lease": ["--faults=none"],
    "map-life": ["--faults=control,flush", "--strangers"],
    "new-places": ["--faults=reshard", "--strangers"],
    "near-bound": ["--near", "--faults=none"],
    "near-control": ["--near", "--faults=none"],
    "near-changes": ["--near", "--faults=none"],
    "near-flush": ["--near", "--faults=disconnect"],
    "near-barrier": ["--near", "--faults=none"],
    "near-own": ["--near", "--faults=none"],
}
"""Each guard with the faults that it is there for."""
GUARDS_ON_A_CLUSTER: dict[str, list[str]] = {
    "lease": ["--faults=none"],
    "delete-ends-lease": ["--faults=none"],
    "boot-fence": ["--faults=failover"],
    "near-bound": ["--near", "--faults=none"],
    "near-changes": ["--near", "--faults=none"],
}
NO_GUARD = "mark-age"
"""What can be taken away and is not missed."""
SOAKED = ("lease", "boot-fence", "map-life", "near-bound")
"""Guards that every run of CI removes."""
ATTEMPTS = 20


def run(seconds: float, *options: str, seed: int = SEED) -> dict[str, Any]:
    """Run the checker, show its figures, and return its outcome. Nothing of it is left, come what may."""
    command = [sys.executable, "-c", COMMAND, "verify", "--json", f"--seed={seed}", f"--seconds={seconds}"]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, complaints = process.communicate(timeout=seconds + 60)
    finally:
        with suppress(ProcessLookupError):  # the whole session: crew and servers too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert printed, complaints
    outcome: dict[str, Any] = json.loads(printed)
    show(outcome)
    return outcome


def show(outcome: dict[str, Any]) -> None:
    """One line of figures, and the first lines about what should not be."""
    plan = outcome["plan"]
    head = f"seed={plan['seed']} faults={','.join(plan['faults'])} without={','.join(plan['broken'])}"
    figures = " ".join(f"{name}={n}" for name, n in (outcome["totals"] | outcome["struck"]).items() if n)
    sys.stdout.write(f"\n{head} {figures}\n" + "".join(f"  {line}\n" for line in outcome["notes"][:10]))


def assert_consistent(outcome: dict[str, Any]) -> None:
    """Nothing stale, nothing wrong, no surprise, nobody stuck, no rubbish; and enough was done to mean it."""
    assert outcome["problems"] == [], outcome["notes"][:5]


def test_nothing_stale_is_served_while_everybody_reads_and_writes() -> None:
    outcome = run(4, *([f"--url={URL}"] if URL else ["--faults=none"]))
    assert_consistent(outcome)
    assert outcome["totals"]["tokens_stored"] > 0


def test_nothing_stale_is_served_while_processes_die_the_server_restarts_and_control_state_is_lost() -> None:
    assert_consistent(run(5, "--faults=kill,pause,restart,control"))


def test_nothing_stale_is_served_of_copies_after_a_barrier_or_beyond_their_bound() -> None:
    assert_consistent(run(4, "--near", "--faults=pause,disconnect"))


@pytest.mark.slow
@pytest.mark.parametrize(("faults", "shards"), MIXES_WITH_COPIES)
def test_nothing_stale_is_served_of_copies_under(faults: str, shards: int) -> None:
    assert_consistent(run(20, "--near", "--no-jobs", f"--shards={shards}", f"--faults={faults}"))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(300)
def test_bans_retire_under_everybodys_feet() -> None:
    """Which tenants are invalidated again and again, so that their bans never grow old, differs from run to run."""
    for seed in range(SEED, SEED + ATTEMPTS):
        outcome = run(4, *([f"--url={URL}"] if URL else ["--faults=none"]), seed=seed)
        assert_consistent(outcome)
        if outcome["totals"]["retired"] > 0:
            return
    raise AssertionError("no ban retired")


@pytest.mark.slow
@pytest.mark.soak
def test_nothing_stale_is_served_for_a_minute_in_which_everything_goes_wrong() -> None:
    outcome = run(60, "--faults=all")
    assert_consistent(outcome)
    totals = outcome["totals"]
    for name in ("job_acks", "job_sweeps", "duplicates", "cancelled", "refreshes", "tokens_stored"):
        assert totals[name] > 0, name
    assert outcome["struck"]["kill"] >= 10


@pytest.mark.slow
@pytest.mark.parametrize("faults", ["kill,pause,control", "restart,evict", "failover,flush"])
def test_nothing_stale_is_served_from_two_shards_under(faults: str) -> None:
    assert_consistent(run(20, "--shards=2", f"--faults={faults}"))


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2])
def test_processes_that_place_keys_otherwise_are_refused_and_cause_nothing_stale(shards: int) -> None:
    outcome = run(20, f"--shards={shards}", "--strangers", "--faults=control,flush,kill")
    totals = outcome["totals"]
    assert (totals["stale"], totals["wrong"], totals["errors"]) == (0, 0, 0), outcome["notes"][:5]
    assert totals["refused"] > 100
    assert totals["hits"] > 100
    assert totals["acks"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("faults", MIXES)
def test_nothing_stale_is_served_under(faults: str) -> None:
    assert_consistent(run(20, f"--faults={faults}"))


@pytest.mark.slow
@pytest.mark.skipif(REDIS is None, reason="no redis-server installed")
@pytest.mark.parametrize("faults", ["restart,kill", "failover,control"])
def test_nothing_stale_is_served_by_redis_under(faults: str) -> None:
    assert_consistent(run(20, f"--faults={faults}", f"--binary={REDIS}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "guard", [pytest.param(guard, marks=[pytest.mark.soak] if guard in SOAKED else []) for guard in GUARDS]
)
@pytest.mark.timeout(ATTEMPTS * 30)
def test_without_this_guard_the_checker_finds_stale_values(guard: str) -> None:
    for attempt in range(ATTEMPTS):
        options = [f"--break={guard}", "--until-stale", "--no-jobs", *GUARDS[guard]]
        if run(20, *options, seed=SEED + attempt)["totals"]["stale"]:
            return
    pytest.fail(
        f"{ATTEMPTS} runs without the guard {guard!r} served nothing stale: the checker has gone blind"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults",
    [
        pytest.param("kill,pause,failover,move", marks=pytest.mark.soak),
        "failover,control,disconnect",
        "move,flush,freeze,scripts",
        "reshard,kill,pause,move,failover",
    ],
)
def test_nothing_stale_is_served_by_a_cluster_under(faults: str) -> None:
    assert_consistent(run(20, "--cluster", "--no-jobs", f"--faults={faults}"))


@pytest.mark.slow
@pytest.mark.parametrize("faults", ["kill,pause,failover,move", "move,control,flush,freeze,disconnect"])
def test_nothing_stale_is_served_of_copies_of_what_is_on_a_cluster_under(faults: str) -> None:
    assert_consistent(run(30, "--cluster", "--near", "--no-jobs", f"--faults={faults}"))


@pytest.mark.slow
def test_a_cluster_that_is_well_refuses_nobody_anything() -> None:
    outcome = run(20, "--cluster", "--no-jobs", "--faults=none")
    assert_consistent(outcome)
    assert outcome["totals"]["unavailable"] == 0
    assert outcome["totals"]["evicted"] > 0


@pytest.mark.slow
def test_nothing_stale_is_served_by_a_cluster_while_workers_do_jobs() -> None:
    assert_consistent(run(30, "--cluster", "--jobs"))


@pytest.mark.slow
@pytest.mark.parametrize("guard", GUARDS_ON_A_CLUSTER)
@pytest.mark.timeout(ATTEMPTS * 60)
def test_without_this_guard_the_checker_finds_stale_values_on_a_cluster(guard: str) -> None:
    for attempt in range(ATTEMPTS):
        options = [f"--break={guard}", "--until-stale", "--no-jobs", *GUARDS_ON_A_CLUSTER[guard]]
        if run(20, "--cluster", *options, seed=SEED + attempt)["totals"]["stale"]:
            return
    pytest.fail(f"{ATTEMPTS} runs without the guard {guard!r} served nothing stale")


@pytest.mark.slow
@pytest.mark.parametrize("faults", ["none", "control,flush,kill"])
def test_safety_does_not_rest_on_the_age_of_marks(faults: str) -> None:
    assert_consistent(run(20, f"--break={NO_GUARD}", "--no-jobs", f"--faults={faults}"))


def test_every_guard_is_removed_here_and_stands_in_the_documentation() -> None:
    assert {*GUARDS, NO_GUARD} == set(guards.GUARDS)
    documented = (Path(__file__).parents[2] / "docs" / "consistency.md").read_text()
    assert [guard for guard in guards.GUARDS if f"`{guard}`" not in documented] == []

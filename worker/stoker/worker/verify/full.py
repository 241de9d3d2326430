"""`stoker verify --full`: fourteen minutes of faults in mixes, a long run without, and what all of it must come to."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from stoker.worker.verify.harness import Outcome
from stoker.worker.verify.plan import Plan

MIXES: tuple[tuple[str, int, float, bool], ...] = (
    ("kill,pause,restart,failover,control,scripts,flush,evict,full,cut,broker", 1, 60, False),
    ("kill,pause,control,broker", 2, 140, False),
    ("restart,kill,cut,pause", 1, 80, False),
    ("failover,flush,kill,broker", 2, 120, False),
    ("evict,full,pause,scripts,broker", 1, 80, False),
    ("kill,restart,failover,flush,control,broker", 1, 120, False),
    ("kill,pause,restart,failover,control,flush,freeze,disconnect", 1, 60, True),
    ("freeze,disconnect,pause,cut", 2, 60, True),
)
"""Faults, shards, seconds, and whether processes keep copies."""
ON_A_CLUSTER: tuple[tuple[str, int, float, bool], ...] = (
    ("kill,pause,failover,move,control,flush,broker", 6, 60.0, False),
    ("kill,pause,failover,move,disconnect", 6, 60.0, True),
)
"""Likewise; left out where another binary is tried."""
QUIET = (2, 400.0)
"""Shards and seconds of the run without faults."""
MUST = {
    "reads": 300_000,
    "acks": 10_000,
    "kills": 100,
    "pauses": 100,
    "control_deletions": 100,
    "crashes": 30,
    "failovers": 30,
    "flushes": 30,
    "broker_restarts": 15,
}
"""Of the runs with faults together."""
MUST_HIT = 0.3
MUST_READ_QUIETLY = 1_000_000


def plans(seed: int, binary: str) -> Iterator[Plan]:
    """The runs, the quiet one last."""
    for number, (faults, shards, seconds, near) in enumerate(MIXES):
        yield Plan(
            seed + number, seconds, faults.split(","), binary=binary, shards=shards, jobs=True, near=near
        )
    for faults, shards, seconds, near in () if binary else ON_A_CLUSTER:
        yield Plan(seed, seconds, faults.split(","), shards=shards, jobs=True, near=near, cluster=True)
    shards, seconds = QUIET
    yield Plan(seed + len(MIXES), seconds, binary=binary, shards=shards, jobs=True)


def figures(outcomes: Iterable[Outcome]) -> Mapping[str, int]:
    """The figures of several runs, added up."""
    total: Counter[str] = Counter()
    for outcome in outcomes:
        total.update(outcome.figures)
    return total


def problems(faulty: Mapping[str, int], quiet: Mapping[str, int]) -> Iterator[str]:
    """What the runs together fall short of, a line each."""
    for name, least in MUST.items():
        if faulty[name] < least:
            yield f"too little was done under faults: {name}={faulty[name]}, at least {least} were to be"
    if faulty["hits"] < MUST_HIT * faulty["reads"]:
        yield f"too few hits under faults: {faulty['hits']} of {faulty['reads']} reads"
    if quiet["reads"] < MUST_READ_QUIETLY:
        yield f"too little was read without faults: {quiet['reads']}, at least {MUST_READ_QUIETLY} were to be"

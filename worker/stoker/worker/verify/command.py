"""What `stoker verify` is asked, and what it prints: a line of figures with the seed, then what was wrong."""

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import redis

from stoker.worker.processes import ChildEnded, NotReady
from stoker.worker.terminal import counted
from stoker.worker.up import stop_on_signals
from stoker.worker.verify import full, verdict
from stoker.worker.verify.cluster_faults import known
from stoker.worker.verify.guards import GUARDS
from stoker.worker.verify.harness import Outcome, play
from stoker.worker.verify.plan import Plan

MOST_NOTES = 20
DEFAULT_FAULTS = ("kill", "pause", "restart", "failover", "move", "control", "flush", "broker")
LEAST_SECONDS_WITH_JOBS = 20.0


def plan(
    seconds: float, seed: int | None, faults: str | None, broken: str, jobs: bool | None, **rest: Any
) -> Plan:
    """The plan that the options ask for. `rest` is the plan's own fields.

    Raises:
        ValueError: There is no such fault or guard, or they do not go together.
    """
    if jobs is None:
        jobs = seconds >= LEAST_SECONDS_WITH_JOBS and not rest["strangers"]
    return Plan(
        seed=_new(seed),
        seconds=seconds,
        faults=_faults(faults, rest["url"], jobs, cluster=rest["cluster"]),
        broken=_names(broken, GUARDS),
        jobs=jobs,
        **rest,
    )


def _new(seed: int | None) -> int:
    return random.randrange(10**6) if seed is None else seed


def _faults(text: str | None, url: str, jobs: bool, *, cluster: bool) -> Sequence[str]:
    faults = known(cluster=cluster)
    if text == "none" or (text is None and url):
        return ()
    if text is None or text == "all":
        some = tuple(faults) if text == "all" else [name for name in DEFAULT_FAULTS if name in faults]
        return [name for name in some if jobs or name != "broker"]
    return _names(text, faults)


def _names(text: str, known: Mapping[str, object]) -> Sequence[str]:
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in known:
            raise ValueError(f"there is no {name!r}: choose of {', '.join(known)}")
    return names


def run(plan: Plan, *, as_json: bool) -> int:
    """Play the plan, print what came of it, and return the exit code of the command: 0 if all was well."""
    return _until_interrupted(lambda: not _played(plan, as_json)[1])


def run_full(seed: int | None, binary: str, *, as_json: bool) -> int:
    """Play all plans of `full`, print each and their total, and return the exit code of the command."""
    return _until_interrupted(lambda: _all_played([*full.plans(_new(seed), binary)], as_json))


def _until_interrupted(play: Callable[[], bool]) -> int:
    stop_on_signals()
    try:
        return 0 if play() else 1
    except (ChildEnded, NotReady, redis.RedisError) as error:
        sys.stderr.write(f"stoker verify: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        return 130


def _played(plan: Plan, as_json: bool) -> tuple[Outcome, list[str]]:
    outcome = play(plan)
    found = [*verdict.problems(outcome)]
    if as_json:
        _say(json.dumps({**asdict(outcome), "problems": found}))
        return outcome, found
    _say(str(outcome), *found, *(f"  {note}" for note in outcome.notes[:MOST_NOTES]))
    if len(outcome.notes) > MOST_NOTES:
        _say(f"  and {counted(len(outcome.notes) - MOST_NOTES, 'more line')}")
    return outcome, found


def _all_played(plans: Sequence[Plan], as_json: bool) -> bool:
    outcomes, found = [], []
    for plan in plans:
        outcome, problems = _played(plan, as_json)
        outcomes.append(outcome)
        found += problems
    faulty = full.figures(outcome for outcome in outcomes if outcome.plan.faults)
    quiet = full.figures(outcome for outcome in outcomes if not outcome.plan.faults)
    short = [*full.problems(faulty, quiet)]
    if as_json:
        _say(json.dumps({"with_faults": faulty, "without_faults": quiet, "problems": short}))
    else:
        _say(f"with faults, in all:    {_line(faulty)}", f"without faults, in all: {_line(quiet)}", *short)
    return not (found or short)


def _line(figures: Mapping[str, int]) -> str:
    rate = figures["hits"] / max(figures["reads"], 1)
    return " ".join([*(f"{name}={n}" for name, n in figures.items()), f"hit_rate={rate:.0%}"])


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()

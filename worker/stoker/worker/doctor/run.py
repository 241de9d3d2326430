"""Runs the checks one after the other, each for a bounded time, and turns whatever goes wrong into a finding."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import redis
from kombu.exceptions import OperationalError

from stoker.cache import CacheError
from stoker.config import Settings
from stoker.tasks import TaskError
from stoker.worker.doctor import (
    beat,
    broker,
    cluster,
    events,
    flower,
    invalidation,
    jobs,
    latency,
    memory,
    misses,
    plans,
    pressure,
    redis_server,
    sharding,
    warming,
    workers,
)
from stoker.worker.doctor.check import CannotCheck, Finding, error, note
from stoker.worker.doctor.system import System

WHOLE_RUN_S = 15.0
ONE_CHECK_S = 9.0

Check = Callable[[System], Iterator[Finding]]

CHECKS: dict[str, Check] = {  # from the ground up: what later ones need is judged before
    "redis": redis_server.check,
    "broker": broker.check,
    "workers": workers.check,
    "beat": beat.check,
    "invalidation": invalidation.check,
    "misses": misses.check,
    "memory": memory.check,
    "pressure": pressure.check,
    "latency": latency.check,
    "sharding": sharding.check,
    "warming": warming.check,
    "plans": plans.check,
    "events": events.check,
    "jobs": jobs.check,
    "flower": flower.check,
}


def diagnose(settings: Settings, only: Collection[str] = ()) -> Iterator[Finding]:
    """Run the checks, or only those named, and yield what they find, check by check. Never raises for what it meets.

    The process goes on with these settings, as after `stoker.tasks.configure`.
    """
    deadline = time.monotonic() + WHOLE_RUN_S
    told: set[Finding] = set()
    checks = CHECKS | {"redis": cluster.check} if settings.cache_cluster else CHECKS
    with _quiet(), System(settings) as system:
        for name, check in checks.items():
            if not only or name in only:
                seconds = min(ONE_CHECK_S, deadline - time.monotonic())
                found = _bounded(check, system, seconds, told)
                yield from (replace(finding, check=name) for finding in found)


def _bounded(check: Check, system: System, seconds: float, told: set[Finding]) -> list[Finding]:
    """What a check finds in time. One that hangs is left alone, in a thread that does not keep the process alive."""
    if seconds <= 0:
        return [_late(f"this was not looked at: the {WHOLE_RUN_S:g} s of a whole run were over")]
    found: list[Finding] = []
    thread = threading.Thread(target=_collect, args=(check, system, found, told), daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return [*found, _late(f"this check did not end within {seconds:.0f} s")]
    return found


def _collect(check: Check, system: System, found: list[Finding], told: set[Finding]) -> None:
    try:
        for finding in check(system):
            told.add(finding)
            found.append(finding)  # one by one: what was found before it breaks off or hangs counts
    except CannotCheck as missing:
        found.append(_told_once(missing.finding, told))
    except (redis.RedisError, OperationalError, CacheError, TaskError) as failure:
        found.append(_broke_off(failure))
    except BaseException as failure:
        found.append(_fault(failure))


def _told_once(finding: Finding, told: set[Finding]) -> Finding:
    if finding in told:
        return note(f"not looked at: {finding.seen}")
    told.add(finding)
    return finding


def _late(seen: str) -> Finding:
    return error(
        seen,
        "something it waits for hangs: a server, a worker or this machine",
        "see the findings above; run it alone with `stoker doctor --only <check>`",
    )


def _broke_off(failure: Exception) -> Finding:
    return error(
        f"this check broke off: {type(failure).__name__}: {failure}",
        "a server stopped answering, or refused a command, while it was asked",
        "run `stoker doctor` again; if it stays, look at that server's log",
    )


def _fault(failure: BaseException) -> Finding:
    return error(
        f"this check failed itself: {type(failure).__name__}: {failure}",
        "it met something that it does not know",
        "look at what it names; the other checks are not concerned",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """What the cache and the tasks would log of the trouble they meet, the findings say better."""
    ours = logging.getLogger("stoker")
    before = ours.level
    ours.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ours.setLevel(before)

"""Who asks for jobs, as an app does: invalidations that count once their job has succeeded, warming, sweeps.

It also sends what beat would: looks for orphaned jobs, and scheduled sweeps.
"""

import os
import random
import threading
import time
from collections.abc import Callable

from kombu.exceptions import OperationalError

from stoker.cache import Hooks
from stoker.config import Settings
from stoker.tasks import (
    JobFailed,
    JobHandle,
    JobLost,
    JobStatus,
    NotSent,
    StateUnavailable,
    configure,
    names,
    send,
)
from stoker.tasks.app import app
from stoker.tasks.base import ALWAYS_DIES
from stoker.worker.verify.duplicates import deliver_twice
from stoker.worker.verify.post import Desk, Post, in_threads
from stoker.worker.verify.world import (
    KEYS,
    PATTERNS,
    TAGS,
    TENANTS,
    World,
    keys_that_match,
    keys_with_tag,
)
from stoker.worker.verify.writers import Change, Writer

JOB_WITHIN_S = 4.0
"""Then the job counts as not acknowledged, whatever becomes of it, and another is sent."""
BEAT_S = 1.0
_LOOK_EVERY_S = 0.25
_OF_FAULTS = (ALWAYS_DIES, "the cache server changed", "no key was written (0 failed, 0 missing)")
"""How reasons begin for which a job may fail while workers are killed, and servers come and go and refuse to store."""


class NotDone(Exception):
    """A job was not sent, was lost, or has not ended well in time: what it was to do may not have happened."""


def produce(post: Post) -> None:
    """Change one tenant's truth and have workers tell the cache; have them warm and sweep besides."""
    connect(post)

    def choose(chance: random.Random, tenant: int, key: int) -> Change:
        return _change(post.world, chance, tenant, key)._replace(barrier=not post.near)

    writer = Writer(post.slot, choose, (NotDone,), ("acks", "job_acks"))
    in_threads(post, writer.write, writer.pass_on, Errands().run)


def connect(post: Post) -> None:
    """Let this process send tasks."""
    os.environ |= post.environment
    configure(Settings())
    deliver_twice(app, random.Random(post.seed), lambda: post.world.count(post.slot, {"duplicates": 1}))


def workers_refresh(post: Post) -> Hooks | None:
    """Hooks for a cache that has workers refresh what its readers find stale; none in a run without workers."""
    if not post.environment:
        return None
    connect(post)
    counting = threading.Lock()

    def ask(key: str, tenant_id: str | None) -> None:
        send.refresh(key, tenant_id)
        with counting:
            post.world.count(post.slot, {"refreshes_sent": 1})

    return Hooks(on_refresh=ask)


def _change(world: World, chance: random.Random, tenant: int, key: int) -> Change:
    name = TENANTS[tenant]
    kind = chance.random()
    if kind < 0.5:
        return Change([key], lambda _: done(world, lambda: send.invalidate([KEYS[key]], tenant_id=name)))
    tag = chance.choice(TAGS)
    if kind < 0.7:
        return Change(keys_with_tag(tag), lambda _: done(world, lambda: send.invalidate_tags([tag], name)))
    pattern = chance.choice(PATTERNS)
    if kind < 0.9 or name is None:
        keys = keys_that_match(pattern)
        return Change(keys, lambda _: done(world, lambda: send.invalidate_pattern(pattern, name)))
    return Change(list(range(len(KEYS))), lambda _: done(world, lambda: send.invalidate_tenant(name)))


class Errands:
    """Everything a producer asks for that nobody's promise depends on."""

    def __init__(self) -> None:
        self._beat_due = time.monotonic()

    def run(self, desk: Desk) -> None:
        """One of them, and what beat sends when it is time."""
        try:
            if time.monotonic() >= self._beat_due:
                self._beat_due += BEAT_S
                _beat()
            kind = desk.chance.random()
            if kind < 0.2:
                _sweep(desk)
            elif kind < 0.6:
                _warm(desk)
            else:
                send.warm(desk.chance.sample(KEYS, 6))  # and do not wait for it
        except (NotDone, NotSent, StateUnavailable):
            desk.judge.add("unavailable")
        time.sleep(desk.chance.random() * 0.2)


def _beat() -> None:
    try:
        app.send_task(names.REAP, kwargs={}, expires=BEAT_S)
        app.send_task(names.SWEEP, kwargs={"again": False}, expires=BEAT_S)
    except OperationalError as error:
        raise NotDone from error


def _sweep(desk: Desk) -> None:
    status = done(desk.post.world, send.sweep)
    desk.judge.add("job_sweeps")
    desk.judge.add("retired", status.report["retired"])


def _warm(desk: Desk) -> None:
    tenants = desk.chance.sample(TENANTS[1:], 2)
    keys = {name: desk.chance.sample(KEYS, 6) for name in tenants if name is not None}
    status = done(desk.post.world, lambda: send.warm(keys))
    desk.judge.add("warmed", status.report["written"])
    if status.report["failed"]:
        desk.judge.error("warm", RuntimeError(str(status.report["errors"])))


def done(world: World, ask: Callable[[], JobHandle]) -> JobStatus:
    """Ask for a job and wait until it has succeeded.

    Raises:
        NotDone: It has not, for a reason that a fault can be.
        JobFailed: It has not, for another.
    """
    deadline = time.monotonic() + JOB_WITHIN_S
    try:
        job = ask()
        while True:
            try:
                return job.wait(timeout=_LOOK_EVERY_S)
            except TimeoutError:
                if world.stopped or time.monotonic() > deadline:
                    raise
    except (NotSent, StateUnavailable, JobLost, TimeoutError) as error:
        raise NotDone from error
    except JobFailed as error:
        if error.reason.startswith(_OF_FAULTS):
            raise NotDone from error
        raise

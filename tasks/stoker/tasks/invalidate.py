"""Invalidation: the task. What it means is `stoker.cache`'s business; a producer may also call the cache directly.

Every message writes its own bans, however often it is delivered and whatever became of its job's record: losing
that record must not lose an invalidation. Only the sweep that follows is shared. What was hot among the invalidated is
warmed again if that is asked for, once the invalidation is acknowledged and never before.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, cast

from celery.exceptions import Ignore

from stoker.cache import Cache, CacheUnavailable
from stoker.tasks import names, runtime, send
from stoker.tasks.app import app
from stoker.tasks.base import ALWAYS_DIES, LONGEST_WAIT, MAX_STARTS, MAX_TRIES, JobTask
from stoker.tasks.errors import JobFailed, JobLost, NotSent, StateUnavailable
from stoker.tasks.hot_keys import hot_among
from stoker.tasks.job import ANY

log = logging.getLogger(__name__)

KEEP_SUCCEEDED = 600.0  # seconds: there can be hundreds a second, and nobody asks about them for long


@app.task(name=names.INVALIDATE, bind=True, shared=False, base=JobTask)
def invalidate(self: JobTask, /, **message: Any) -> dict[str, Any]:
    """Invalidate keys, tags, a pattern or a tenant (see `names.Invalidate`), then ask for a warm and a sweep.

    Safe to run twice. While the cache does not answer it is tried again, for about eight minutes; then the job has
    failed, and what it names may be stale.
    """
    here = runtime.current()
    job_id, arguments = _arguments(self, message)
    try:
        report = apply(here.cache, arguments)
    except CacheUnavailable as error:
        _try_again(self, job_id, error)
    with _even_without_its_record(job_id):
        here.jobs.finish(
            job_id,
            "succeeded",
            ANY,
            {"report": report, "error": "", "done": report["done"], "total": report["done"]},
            keep=KEEP_SUCCEEDED,
        )
    if arguments.rewarm:
        rewarm(here, arguments, job_id)
    if report["bans"]:
        _ask_for_a_sweep()
    return report


def apply(cache: Cache, arguments: names.Invalidate) -> dict[str, Any]:
    """Do what the arguments name.

    Returns:
        `done`: rules and keys handled; `deleted`: keys that existed; `bans`: rules written.

    Raises:
        InvalidationNotAcknowledged: The cache did not confirm one of them; those before it hold.
    """
    tenant = arguments.tenant_id
    bans = 0
    if arguments.whole_tenant and tenant is not None:
        cache.invalidate_tenant(tenant)
        bans += 1
    if arguments.pattern is not None:
        cache.invalidate_pattern(arguments.pattern, tenant)
        bans += 1
    if arguments.tags:
        cache.invalidate_tags(arguments.tags, tenant)
        bans += len(arguments.tags)
    deleted = sum(cache.delete(key, tenant) for key in arguments.keys)
    return {"done": bans + len(arguments.keys), "deleted": deleted, "bans": bans}


def rewarm(here: runtime.Runtime, arguments: names.Invalidate, cause: str) -> None:
    """Have the hot keys among those that were just invalidated warmed again, by a job of their own.

    It is a favour: if it cannot be asked for, they are loaded when they are read.
    """
    try:
        if keys := hot_among(here, arguments):
            send.warm(keys, arguments.tenant_id, cause=cause)
    except (NotSent, StateUnavailable) as error:
        log.warning("what was hot among the invalidated is not warmed again: %s", error)


def _arguments(task: JobTask, message: dict[str, Any]) -> tuple[str, names.Invalidate]:
    """The job and what to invalidate, from the message; one from the reaper leaves that in the job."""
    jobs = runtime.current().jobs
    given, arguments = task.accept_in_worker(message)
    job_id = given or str(task.request.id)
    if arguments is None:
        stored = jobs.arguments(job_id)
        if stored is None:
            raise JobLost(job_id, "the state server does not know it, or it is over")
        arguments = task.accept_stored(job_id, stored)
    with _even_without_its_record(job_id):
        if given is None:
            jobs.open(job_id, names.kind(task.name), arguments.model_dump(), None)
        _begin(task, job_id)
    return job_id, cast("names.Invalidate", arguments)


def _begin(task: JobTask, job_id: str) -> None:
    state, starts = runtime.current().jobs.begin(job_id)
    if state in ("aborted", "failed"):
        raise Ignore(f"job {job_id} is {state}")
    if starts > MAX_STARTS:
        task.give_up(job_id, ALWAYS_DIES)
        raise JobFailed(job_id, ALWAYS_DIES)


def _try_again(task: JobTask, job_id: str, error: CacheUnavailable) -> NoReturn:
    tries = int(task.request.retries or 0)
    wait = min(2.0 ** min(tries, MAX_TRIES), LONGEST_WAIT)
    with _even_without_its_record(job_id):
        if tries >= MAX_TRIES:
            task.give_up(job_id, str(error))
        else:
            runtime.current().jobs.postpone(job_id, wait, str(error))
    raise task.retry(exc=error, countdown=wait, max_retries=MAX_TRIES) from error


@contextmanager
def _even_without_its_record(job_id: str) -> Iterator[None]:
    """Go on if the state server is away: the invalidation counts, not its record."""
    try:
        yield
    except StateUnavailable as error:
        log.warning("record of invalidation %s not written: %s", job_id, error)


def _ask_for_a_sweep() -> None:
    try:
        send.sweep(delay=runtime.current().settings.job.sweep_delay)
    except NotSent as error:  # readers are safe; what is banned is deleted by the next scheduled sweep
        log.warning("%s", error)

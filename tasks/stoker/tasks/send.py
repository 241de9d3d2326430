"""Asking for jobs, by name: for producers, which need no worker code, and for the tasks themselves.

Each function writes the job down, publishes its task and returns a handle. Nothing here hangs: with the servers
down it takes about a tenth of a second, with them frozen about one, and then raises `NotSent`.
"""

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from kombu.exceptions import OperationalError

from stoker.tasks import names, runtime
from stoker.tasks.app import app
from stoker.tasks.errors import NotSent, StateUnavailable
from stoker.tasks.handle import JobHandle

log = logging.getLogger(__name__)


def invalidate(
    keys: Iterable[str] | None = None,
    tags: Iterable[str] | None = None,
    pattern: str | None = None,
    tenant_id: str | None = None,
    *,
    rewarm: int = 0,
) -> JobHandle:
    """Invalidate keys (at most 10,000), tags and a pattern of one tenant: all that are given, in one job.

    Args:
        rewarm: Of the hot keys among them at most so many are warmed again at once, hottest first.

    Raises:
        InvalidArguments: Nothing is named, or a name is malformed.
        NotSent: The broker or the state server did not take it.
    """
    arguments = {
        "keys": list(keys or ()),
        "tags": list(tags or ()),
        "pattern": pattern,
        "tenant_id": tenant_id,
        "rewarm": rewarm,
    }
    return _send(names.INVALIDATE, arguments)


def invalidate_pattern(pattern: str, tenant_id: str | None = None, *, rewarm: int = 0) -> JobHandle:
    """Invalidate every key of the tenant that matches, such as `user:*`. `rewarm` and errors as of `invalidate`."""
    return _send(names.INVALIDATE, {"pattern": pattern, "tenant_id": tenant_id, "rewarm": rewarm})


def invalidate_tags(tags: Iterable[str], tenant_id: str | None = None, *, rewarm: int = 0) -> JobHandle:
    """Invalidate every entry of the tenant that carries one of the tags. `rewarm` and errors as of `invalidate`."""
    return _send(names.INVALIDATE, {"tags": list(tags), "tenant_id": tenant_id, "rewarm": rewarm})


def invalidate_tenant(tenant_id: str, *, rewarm: int = 0) -> JobHandle:
    """Invalidate everything of a tenant. `rewarm` and errors as of `invalidate`."""
    return _send(names.INVALIDATE, {"tenant_id": tenant_id, "whole_tenant": True, "rewarm": rewarm})


def warm(
    keys: Iterable[str] | Mapping[str, Iterable[str]],
    tenant_id: str | None = None,
    *,
    cause: str | None = None,
) -> JobHandle:
    """Load keys by their loaders in a worker: at most 100,000, of one tenant or as `{tenant: keys}`.

    A second request for the same keys joins the unfinished job of the first, if it has the same `cause`: a warm that
    follows an invalidation must not join one that may have passed the keys before. Raises as `invalidate`.
    """
    wanted: Any = {t: list(k) for t, k in keys.items()} if isinstance(keys, Mapping) else list(keys)
    return _send(names.WARM, {"keys": wanted, "tenant_id": tenant_id, "cause": cause})


def warm_plan(name: str, *, cause: str | None = None) -> JobHandle:
    """Run a warm plan now, whatever its schedule says. Joins a run of the same `cause` that is not over.

    Whether there is such a plan turns out in the worker: the job fails if not. Raises as `invalidate`.
    """
    return _send(names.WARM, {"plan": name, "cause": cause})


def sweep(*, delay: float = 0) -> JobHandle:
    """Delete what is banned, `delay` seconds from now. Raises as `invalidate`.

    Joins a sweep that is not over; one that is running then makes another pass.
    """
    return _send(names.SWEEP, {}, delay)


def evict(target_bytes: int | None = None) -> JobHandle:
    """Bring memory down to `target_bytes`, or to the low watermark. Joins an eviction that is not over.

    Raises as `invalidate`.
    """
    return _send(names.EVICT, {"target_bytes": target_bytes})


def reshard(
    num_shards: int | None = None,
    *,
    pin: Mapping[str, int] | None = None,
    unpin: Iterable[str] = (),
    function: bool = False,
) -> JobHandle:
    """Have the namespace's keys live elsewhere; everything begins cold. See `Cache.reshard`.

    `function` is the worker's `STOKER_SHARD_KEY_FUNC`. Raises as `invalidate`.
    """
    wanted = {"num_shards": num_shards, "pin": dict(pin or {}), "unpin": list(unpin), "function": function}
    return _send(names.RESHARD, wanted)


def rebalance(*, by: str = "keys", weights: Mapping[str, float] | None = None, act: bool = True) -> JobHandle:
    """Move slots of the cluster so that each node has its share; or with `act=False` only plan, in the job's report.

    Joins a run that is not over, whatever its weights. Arguments as of `Cache.plan_rebalance`; raises as `invalidate`.
    """
    given = {name: float(weight) for name, weight in (weights or {}).items()}
    return _send(names.REBALANCE, {"by": by, "weights": given, "act": act})


def refresh(key: str, tenant_id: str | None = None) -> None:
    """Have a worker load the key's value anew. Not a job: one that is not begun within a lease is dropped.

    Raises:
        InvalidArguments: The key or the tenant cannot be used.
        NotSent: The broker did not take it.
    """
    arguments = names.check(names.REFRESH, {"key": key, "tenant_id": tenant_id})
    try:
        app.send_task(
            names.REFRESH,
            kwargs=arguments.model_dump(exclude_defaults=True),
            expires=runtime.current().settings.lease,
        )
    except OperationalError as error:
        raise NotSent(names.REFRESH, str(error)) from error


def helpers(job_id: str, count: int) -> None:
    """Ask for workers that help with a warm. Not jobs: none need come. Raises NotSent."""
    arguments = names.check(names.WARM_BATCH, {"job": job_id})
    for _ in range(count):
        _publish(names.WARM_BATCH, f"{job_id}.{uuid4().hex[:6]}", arguments, 0)


def again(job_id: str, kind: str) -> None:
    """Publish an unfinished job once more. Raises NotSent."""
    _publish(f"stoker.{kind}", job_id, None, 0)


def instead(job_id: str, task: str) -> None:
    """Publish an unfinished job under the id of another task, as its own was revoked. Raises NotSent."""
    _publish(task, job_id, None, 0, str(uuid4()))


def _send(task: str, given: Mapping[str, Any], delay: float = 0) -> JobHandle:
    arguments = names.check(task, given)
    kind, about = names.kind(task), arguments.target()
    jobs = runtime.current().jobs
    job_id = str(uuid4())
    try:
        stands = jobs.open(
            *(job_id, kind, arguments.model_dump(), about), again=arguments.wants_another_pass(), delay=delay
        )
    except StateUnavailable as error:
        raise NotSent(task, error.reason) from error
    if stands == job_id:
        try:
            _publish(task, job_id, arguments if about is None else None, delay)
        except NotSent:
            with suppress(StateUnavailable):  # then the reaper sends it, late rather than never
                jobs.forget(job_id, kind, about)
            raise
    return JobHandle(stands)


def _publish(
    task: str, job_id: str, arguments: names.Arguments | None, delay: float, task_id: str | None = None
) -> None:
    """An invalidation carries its arguments, so that a lost record does not lose it; the rest is in the record."""
    message = names.message(job_id, arguments)
    try:
        app.send_task(task, kwargs=message, task_id=task_id or job_id, countdown=delay or None)
    except OperationalError as error:
        raise NotSent(task, str(error)) from error

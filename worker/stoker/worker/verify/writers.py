"""Who changes the truth and tells the cache, and who warms and sweeps it, against the public `Cache` only."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

from stoker.cache import (
    AsyncCache,
    Cache,
    CacheConfig,
    CacheMonitor,
    CacheUnavailable,
    InvalidationNotAcknowledged,
)
from stoker.cache.quotas import Quota, Quotas
from stoker.worker.verify.post import Desk, Post, in_threads
from stoker.worker.verify.source import TTL_S, load, often_the_same
from stoker.worker.verify.world import (
    KEYS,
    PATTERNS,
    TAGS,
    TENANTS,
    keys_that_match,
    keys_with_tag,
    tag_of,
    value,
)

AGAIN = 0.3
"""Share of changes to the key that was changed last."""
PAUSE_S = 0.09
_BOUND_S = CacheConfig().near_bound
"""After it copies of what was changed without a barrier are stale."""
SWEEP_PAUSE_S = 0.1
EVICTS, EVICTED_BYTES, EVICTED_BYTES_OF_A_CLUSTER = 0.3, 20_000, 120_000
"""How often a sweep is followed by an eviction, and how much that is to free. Nodes differ by some."""
FILLS_UP = 0.02
"""How often, by the statement that a tenant is full."""

Versions = dict[int, int]
"""Versions by places in KEYS."""


class _How(TypedDict):
    barrier: bool


class Change(NamedTuple):
    """Keys that change together, and how the cache is told.

    Attributes:
        read: How the same process reads one of the keys, if it may have a copy of it.
        barrier: Whether nobody has an old copy once telling has ended; if not, copies may live on for their bound.
    """

    keys: list[int]
    tell: Callable[[Versions], object]
    read: Callable[[int], Any] | None = None
    barrier: bool = True


class Writer:
    """The only writer of one tenant: changes the truth, then tells the cache until that is acknowledged.

    Args:
        choose: What to change and how to tell it, for a tenant and a key.
        unsure: What telling raises if it may not have happened.
        counts: What an acknowledgement counts as.
    """

    def __init__(
        self,
        tenant: int,
        choose: Callable[[random.Random, int, int], Change],
        unsure: tuple[type[Exception], ...],
        counts: tuple[str, ...],
    ) -> None:
        self._tenant = tenant
        self._choose = choose
        self._unsure = unsure
        self._counts = counts
        self._last = 0
        self._passing: deque[tuple[float, Versions]] = deque()

    def write(self, desk: Desk) -> None:
        """One change. Often the next follows at once, while what this one has caused is under way."""
        chance, world = desk.chance, desk.post.world
        key = self._last if chance.random() < AGAIN else often_the_same(chance)
        change = self._choose(chance, self._tenant, key)
        self._last = change.keys[0]
        if change.read is not None:
            for _ in range(2):  # so that there is a copy
                change.read(self._last)
        versions = world.change(self._tenant, change.keys)
        while not world.stopped:
            try:
                change.tell(versions)
            except Exception as error:
                if isinstance(error, self._unsure):
                    desk.judge.add("unacked")
                else:
                    desk.judge.error("write", error)
                time.sleep(0.02)
            else:
                if change.barrier:
                    world.acknowledge(self._tenant, versions)
                else:
                    self._passing.append((time.monotonic() + _BOUND_S, versions))
                if change.read is not None and (got := change.read(self._last)) is not None:
                    desk.judge.served("own get", self._tenant, self._last, versions[self._last], got)
                for name in self._counts:
                    desk.judge.add(name)
                break
        time.sleep(chance.random() ** 2 * PAUSE_S)

    def pass_on(self, desk: Desk) -> None:
        """Write down as acknowledged what was, once the bound of all copies of it has passed."""
        time.sleep(0.001)
        while self._passing and self._passing[0][0] <= time.monotonic():
            desk.post.world.acknowledge(self._tenant, self._passing.popleft()[1])


def write(post: Post) -> None:
    """Change one tenant's truth and tell the cache directly. The slot is also the tenant."""
    with post.cache() as cache:
        in_threads(post, *_works(post, cache))


def write_async(post: Post) -> None:
    """As `write`, with an `AsyncCache`."""
    with asyncio.Runner() as runner:
        cache = _Awaited(runner, AsyncCache(post.cache()))
        in_threads(post, *_works(post, cache))
        cache.close()


def _works(post: Post, cache: "Cache | _Awaited") -> list[Callable[[Desk], None]]:
    def choose(chance: random.Random, tenant: int, key: int) -> Change:
        if not post.near:
            return _change(cache, chance, tenant, key)
        barrier = chance.random() < 0.5
        change = _change(cache, chance, tenant, key, barrier=barrier)
        return change._replace(read=lambda k: cache.get(KEYS[k], TENANTS[tenant]), barrier=barrier)

    writer = Writer(post.slot, choose, (InvalidationNotAcknowledged,), ("acks",))
    return [writer.write, writer.pass_on] if post.near else [writer.write]


class _Awaited:
    """The methods of a `Cache`, each of which waits for that of an `AsyncCache`."""

    def __init__(self, runner: asyncio.Runner, cache: AsyncCache) -> None:
        self._runner = runner
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self._runner.run(getattr(self._cache, name)(*args, **kwargs))


def _change(
    cache: Cache | _Awaited, chance: random.Random, tenant: int, key: int, *, barrier: bool = False
) -> Change:
    name, how = TENANTS[tenant], _How(barrier=barrier)
    kind = chance.random()
    if kind < 0.3:
        return Change([key], lambda _: cache.delete(KEYS[key], name, **how))
    if kind < 0.6:
        tags = [tag_of(key)]
        return Change(
            [key], lambda v: cache.set(KEYS[key], value(tenant, key, v[key]), name, TTL_S, tags=tags, **how)
        )
    tag = chance.choice(TAGS)
    if kind < 0.65:
        return Change(
            keys_with_tag(tag),
            lambda v: cache.set_many(
                {KEYS[k]: value(tenant, k, n) for k, n in v.items()}, name, TTL_S, tags=[tag], **how
            ),
        )
    if kind < 0.8:
        return Change(keys_with_tag(tag), lambda _: cache.invalidate_tags([tag], name, **how))
    if kind < 0.95:
        pattern = chance.choice(PATTERNS)
        return Change(keys_that_match(pattern), lambda _: cache.invalidate_pattern(pattern, name, **how))
    return Change(list(range(len(KEYS))), lambda _: cache.invalidate_tenant(name, **how))


def warm(post: Post) -> None:
    """Warm keys of every tenant, and compute single values under a snapshot."""
    with post.cache() as cache:

        def warm_some(desk: Desk) -> None:
            try:
                if desk.chance.random() < 0.5:
                    _compute(cache, desk)
                _warm(cache, desk)
            except (CacheUnavailable, InvalidationNotAcknowledged):
                desk.judge.add("unavailable")
            time.sleep(desk.chance.random() * 0.05)

        in_threads(post, warm_some)


HOT_USERS = KEYS[:8]
"""Those that are changed most often."""


def _warm(cache: Cache, desk: Desk) -> None:
    tenants = desk.chance.sample(TENANTS[1:], 2)
    for _ in range(3):
        hot = desk.chance.sample(HOT_USERS, 3)
        for key in hot:
            cache.delete(key)
        _warm_keys(cache, desk, hot)  # of one batch loader, and none is there: a batch
    for keys in (
        {name: desk.chance.sample(KEYS, 6) for name in tenants if name is not None},
        desk.chance.sample(KEYS, 6),
    ):
        _warm_keys(cache, desk, keys)


def _warm_keys(cache: Cache, desk: Desk, keys: dict[str, list[str]] | list[str]) -> None:
    report = cache.warm(keys)
    desk.judge.add("warmed", report.written)
    if report.failed:
        desk.judge.error("warm", RuntimeError(str(report.errors)))


def _compute(cache: Cache, desk: Desk) -> None:
    tenant, key = desk.chance.randrange(len(TENANTS)), often_the_same(desk.chance)
    token = cache.snapshot(KEYS[key], TENANTS[tenant], hold=1.0)
    result = load(desk.post.world, desk.chance, tenant, key)
    stored = cache.set(KEYS[key], result, TENANTS[tenant], TTL_S, tags=[tag_of(key)], token=token)
    desk.judge.add("tokens_stored" if stored else "tokens_refused")


def sweep(post: Post) -> None:
    """Sweep over and over, so that bans retire under everybody's feet; evict some, and let tenants be full."""
    with post.cache() as cache:

        def sweep_once(desk: Desk) -> None:
            try:
                report = cache.sweep()
                desk.judge.add("sweeps")
                desk.judge.add("retired", report.retired)
                _make_room(cache, desk)
            except CacheUnavailable:
                desk.judge.add("unavailable")
            time.sleep(SWEEP_PAUSE_S)

        in_threads(post, sweep_once)


def _make_room(cache: Cache, desk: Desk) -> None:
    monitor = CacheMonitor(cache)
    if desk.chance.random() < EVICTS:
        freed = EVICTED_BYTES_OF_A_CLUSTER if desk.post.cluster else EVICTED_BYTES
        node = monitor.get_node()
        if not node.missing:  # else what it has would have to come free, too
            report = cache.evict(target_bytes=max(0, node.used_bytes - freed))
            desk.judge.add("evicted", report.dropped)
    if desk.chance.random() < FILLS_UP:
        full = desk.chance.choice(TENANTS[1:])
        monitor.tell_quotas(Quotas(Quota(soft=0.01)), [full], kept=1.0)

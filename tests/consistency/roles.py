"""What the processes of a run do all day: read, write, warm, sweep, against the public `Cache` only.

Each role is a loop over one `Cache` of its own, started by `harness` in a process of its own, and may be killed or
stopped at any instruction. A role counts what it did and notes what should not be.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stoker.cache import (
    Cache,
    CacheConfig,
    CacheSharder,
    CacheShardingConfig,
    CacheUnavailable,
    InvalidationNotAcknowledged,
    PlacementMismatch,
)
from tests.consistency import source
from tests.consistency.judge import Judge
from tests.consistency.source import TTL_S, load, often_the_same
from tests.consistency.world import (
    KEYS,
    PATTERNS,
    TAGS,
    TENANTS,
    World,
    keys_that_match,
    keys_with_tag,
    tag_of,
    value,
)

READER_THREADS = 3
CROWD_THREADS = 10
CROWDED_KEYS = 4
CROWD_PAUSE_S = 0.06
AGAIN = 0.3
"""Share of changes to the key that was changed last."""
LEASE_S = 0.4
MAX_LOAD_S = 1.2
"""Short, so that bans retire within a run; the slowest load is 0.5 s, so that most are stored."""
_NEW = object()


class Post(NamedTuple):
    """Where a role works: its row of counters, the truth, the server and name space, and its seed."""

    slot: int
    world: World
    url: str
    namespace: str
    seed: int
    shards: int

    def cache(self) -> Cache:
        """A cache as the product makes it, with leases short enough to run out within a run."""
        cache = Cache(
            CacheConfig(
                backend="redis",
                redis_url=self.url,
                namespace=self.namespace,
                lease=LEASE_S,
                max_load=MAX_LOAD_S,
            )
        )
        if self.shards > 1:
            CacheSharder(cache, CacheShardingConfig(enabled=True, num_shards=self.shards))
        return cache


def read(post: Post) -> None:
    """Three threads that read everything from one cache and judge every answer."""
    _in_threads(post, _read, READER_THREADS)


def crowd(post: Post) -> None:
    """Ten threads that want the same few, slow keys of one tenant: most of them follow another's load."""
    _in_threads(post, _crowd, CROWD_THREADS)


def _in_threads(post: Post, target: Callable[[Post, Cache, threading.Lock, int], None], number: int) -> None:
    cache = post.cache()
    lock = threading.Lock()
    threads = [threading.Thread(target=target, args=(post, cache, lock, n)) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.close()


def _crowd(post: Post, cache: Cache, lock: threading.Lock, thread: int) -> None:
    chance = random.Random(post.seed * 10 + thread)
    judge = Judge(post.world)
    while not post.world.stopped:
        try:
            _get_or_load(post.world, cache, judge, chance, 0, chance.randrange(CROWDED_KEYS), CROWD_PAUSE_S)
        except Exception as error:
            judge.error("crowd", error)
        with lock:
            post.world.count(post.slot, judge.take())
        time.sleep(chance.random() * CROWD_PAUSE_S)


def _read(post: Post, cache: Cache, lock: threading.Lock, thread: int) -> None:
    chance = random.Random(post.seed * 10 + thread)
    judge = Judge(post.world)
    while not post.world.stopped:
        tenant = chance.randrange(len(TENANTS))
        kind = chance.random()
        try:
            if kind < 0.6:
                _get_or_load(post.world, cache, judge, chance, tenant, often_the_same(chance))
            elif kind < 0.85:
                _get(post.world, cache, judge, tenant, often_the_same(chance))
            else:
                _get_many(post.world, cache, judge, tenant, chance.sample(range(len(KEYS)), 6))
        except Exception as error:  # a read never fails for want of a server: whatever it is, it is a finding
            judge.error("read", error)
        with lock:
            post.world.count(post.slot, judge.take())


def _get_or_load(
    world: World,
    cache: Cache,
    judge: Judge,
    chance: random.Random,
    tenant: int,
    key: int,
    longest: float = 0.0,
) -> None:
    loads = 0

    def ours() -> dict[str, Any]:
        nonlocal loads
        loads += 1
        return load(world, chance, tenant, key, longest)

    kind = chance.random()
    least = world.acknowledged(tenant, key)
    if kind < 0.3:
        got = cache.get_or_load(KEYS[key], tenant_id=TENANTS[tenant])
    else:
        soft = 0.3 if kind < 0.6 else None
        got = cache.get_or_load(KEYS[key], ours, TENANTS[tenant], TTL_S, soft_ttl=soft, tags=[tag_of(key)])
    judge.served("get_or_load", tenant, key, least, got)
    judge.add("reads")
    judge.add("loads" if loads else "hits")


def _get(world: World, cache: Cache, judge: Judge, tenant: int, key: int) -> None:
    least = world.acknowledged(tenant, key)
    got = cache.get(KEYS[key], TENANTS[tenant], _NEW)
    judge.add("reads")
    if got is not _NEW:
        judge.add("hits")
        judge.served("get", tenant, key, least, got)


def _get_many(world: World, cache: Cache, judge: Judge, tenant: int, keys: Sequence[int]) -> None:
    least = {key: world.acknowledged(tenant, key) for key in keys}
    got = cache.get_many([KEYS[key] for key in keys], TENANTS[tenant])
    judge.add("reads", len(keys))
    judge.add("hits", len(got))
    for key in keys:
        if KEYS[key] in got:
            judge.served("get_many", tenant, key, least[key], got[KEYS[key]])


def write(post: Post) -> None:
    """The only writer of one tenant: changes the truth, then invalidates until that is acknowledged."""
    cache = post.cache()
    chance = random.Random(post.seed)
    judge = Judge(post.world)
    tenant = post.slot
    keys = [0]
    while not post.world.stopped:
        key = keys[0] if chance.random() < AGAIN else often_the_same(chance)
        keys, say = _change(cache, chance, tenant, key)
        versions = post.world.change(tenant, keys)
        while not post.world.stopped:
            try:
                say(versions)
            except InvalidationNotAcknowledged:
                judge.add("unacked")
                time.sleep(0.02)
            except Exception as error:
                judge.error("write", error)
                time.sleep(0.02)
            else:
                post.world.acknowledge(tenant, versions)
                judge.add("acks")
                break
        post.world.count(post.slot, judge.take())
        time.sleep(
            chance.random() ** 2 * 0.09
        )  # often again at once, while what the last change caused is under way
    cache.close()


def _change(
    cache: Cache, chance: random.Random, tenant: int, key: int
) -> tuple[list[int], Callable[[dict[int, int]], object]]:
    """Keys to be changed, `key` or a group, and how to make the change known."""
    name = TENANTS[tenant]
    kind = chance.random()
    if kind < 0.6:
        if kind < 0.3:
            return [key], lambda _: cache.delete(KEYS[key], name)
        return [key], lambda versions: cache.set(
            KEYS[key], value(tenant, key, versions[key]), name, TTL_S, tags=[tag_of(key)]
        )
    tag = chance.choice(TAGS)
    if kind < 0.65:
        return keys_with_tag(tag), lambda versions: cache.set_many(
            {KEYS[k]: value(tenant, k, version) for k, version in versions.items()}, name, TTL_S, tags=[tag]
        )
    if kind < 0.8:
        return keys_with_tag(tag), lambda _: cache.invalidate_tags([tag], name)
    if kind < 0.95:
        pattern = chance.choice(PATTERNS)
        return keys_that_match(pattern), lambda _: cache.invalidate_pattern(pattern, name)
    return list(range(len(KEYS))), lambda _: cache.invalidate_tenant(name)


def warm(post: Post) -> None:
    """Warms keys of every tenant, and computes single values under a snapshot."""
    cache = post.cache()
    chance = random.Random(post.seed)
    judge = Judge(post.world)
    while not post.world.stopped:
        try:
            if chance.random() < 0.5:
                _compute(post.world, cache, judge, chance)
            tenants = chance.sample(TENANTS[1:], 2)
            report = cache.warm({name: chance.sample(KEYS, 6) for name in tenants if name is not None})
            report2 = cache.warm(chance.sample(KEYS, 6))
            judge.add("warmed", report.written + report2.written)
            if report.failed or report2.failed:
                judge.add("errors")
                post.world.note(f"warm: {report.errors or report2.errors}")
        except (CacheUnavailable, InvalidationNotAcknowledged):
            judge.add("unavailable")
        except Exception as error:
            judge.error("warm", error)
        post.world.count(post.slot, judge.take())
        time.sleep(chance.random() * 0.05)
    cache.close()


def _compute(world: World, cache: Cache, judge: Judge, chance: random.Random) -> None:
    tenant, key = chance.randrange(len(TENANTS)), often_the_same(chance)
    token = cache.snapshot(KEYS[key], TENANTS[tenant], hold=1.0)
    result = load(world, chance, tenant, key)
    stored = cache.set(KEYS[key], result, TENANTS[tenant], TTL_S, tags=[tag_of(key)], token=token)
    judge.add("tokens_stored" if stored else "tokens_refused")


def sweep(post: Post) -> None:
    """Sweeps over and over, so that bans retire under everybody's feet."""
    cache = post.cache()
    judge = Judge(post.world)
    while not post.world.stopped:
        try:
            report = cache.sweep()
            judge.add("sweeps")
            judge.add("retired", report.retired)
        except CacheUnavailable:
            judge.add("unavailable")
        except Exception as error:
            judge.error("sweep", error)
        post.world.count(post.slot, judge.take())
        time.sleep(0.1)
    cache.close()


def look_back(post: Post) -> None:
    """After all is over: whatever is still served must be the truth, and the cache must work."""
    judge = Judge(post.world)
    try:
        with post.cache() as cache:
            for tenant in range(len(TENANTS)):
                _get_many(post.world, cache, judge, tenant, range(len(KEYS)))
            cache.set("afterwards", "works", ttl=TTL_S)
            if cache.get("afterwards") != "works":
                judge.error("afterwards", RuntimeError("what was set cannot be read"))
    except PlacementMismatch as error:
        judge.error("afterwards", error)
    post.world.count(post.slot, judge.take())


def begin(post: Post, role: Callable[[Post], None]) -> None:
    """Take up a role in this process."""
    source.read_from(post.world, post.seed + 1)
    role(post)


CREW: tuple[Callable[[Post], None], ...] = (*(write for _ in TENANTS), read, read, crowd, warm, sweep)
"""Who works on a run; the place is the slot. A writer's slot is also its tenant."""

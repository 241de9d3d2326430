"""Who reads and judges: threads that want everything, threads that want the same, and a last look after the run."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stoker.cache import Cache, PlacementMismatch
from stoker.worker.verify.post import Desk, Post, in_threads
from stoker.worker.verify.producer import workers_refresh
from stoker.worker.verify.source import TTL_S, count_loads, load, often_the_same, short_or_long
from stoker.worker.verify.world import KEYS, TENANTS, tag_of

READER_THREADS = 3
CROWD_THREADS = 10
CROWDED_KEYS = 4
CROWD_PAUSE_S = 0.06
SOFT_TTL_S = 0.3
COUNT_COPIES_EVERY_S = 0.05
_NEW = object()


def read(post: Post) -> None:
    """Three threads that read everything from one cache; workers refresh for them."""
    with post.cache(workers_refresh(post)) as cache, counting_copies(post, cache):
        in_threads(post, *[Reader(cache).read_anything] * READER_THREADS)


def crowd(post: Post) -> None:
    """Ten threads that want the same few, slow keys of one tenant: most of them follow another's load."""
    with post.cache() as cache, counting_copies(post, cache):
        in_threads(post, *[Reader(cache).read_with_the_crowd] * CROWD_THREADS)


@contextmanager
def counting_copies(post: Post, cache: Cache) -> Iterator[None]:
    """Count what is served of copies, in a thread: a process that is killed has counted all but its last moment's.

    Nobody else counts this in the role's row.
    """
    over = threading.Event()

    def count() -> None:
        counted, last = 0, False
        while not last:
            last = over.wait(COUNT_COPIES_EVERY_S)
            served = cache.stats().near_hits
            post.world.count(post.slot, {"near_hits": served - counted})
            counted = served

    counter = threading.Thread(target=count)
    counter.start()
    try:
        yield
    finally:
        over.set()
        counter.join()


class Reader:
    """Reads one cache and judges every answer. Each method is one read, or one of many keys."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def read_anything(self, desk: Desk) -> None:
        """A read never fails for want of a server: whatever it raises is a finding."""
        tenant = desk.chance.randrange(len(TENANTS))
        kind = desk.chance.random()
        if kind < 0.6:
            self._get_or_load(desk, tenant, often_the_same(desk.chance))
        elif kind < 0.85:
            self._get(desk, tenant, often_the_same(desk.chance))
        else:
            self.get_many(desk, tenant, desk.chance.sample(range(len(KEYS)), 6))

    def read_with_the_crowd(self, desk: Desk) -> None:
        """A slow key of the first tenant's."""
        self._get_or_load(desk, 0, desk.chance.randrange(CROWDED_KEYS), CROWD_PAUSE_S)
        time.sleep(desk.chance.random() * CROWD_PAUSE_S)

    def _get_or_load(self, desk: Desk, tenant: int, key: int, longest: float = 0.0) -> None:
        caller, loads = threading.get_ident(), count_loads()

        def ours() -> dict[str, Any]:
            if threading.get_ident() != caller:
                desk.judge.add("refreshes")
            return load(desk.post.world, desk.chance, tenant, key, longest)

        kind = desk.chance.random()
        least = desk.post.world.acknowledged(tenant, key)
        if kind < 0.3:
            got = self._cache.get_or_load(KEYS[key], tenant_id=TENANTS[tenant])
        else:
            got = self._cache.get_or_load(
                KEYS[key],
                ours,
                TENANTS[tenant],
                short_or_long(desk.chance),
                soft_ttl=SOFT_TTL_S if kind < 0.6 else None,
                tags=[tag_of(key)],
            )
        desk.judge.served("get_or_load", tenant, key, least, got)
        desk.judge.add("reads")
        desk.judge.add("loads" if loads[0] else "hits")

    def _get(self, desk: Desk, tenant: int, key: int) -> None:
        least = desk.post.world.acknowledged(tenant, key)
        got = self._cache.get(KEYS[key], TENANTS[tenant], _NEW)
        desk.judge.add("reads")
        if got is not _NEW:
            desk.judge.add("hits")
            desk.judge.served("get", tenant, key, least, got)

    def get_many(self, desk: Desk, tenant: int, keys: list[int] | range) -> None:
        """Several keys of a tenant at once."""
        least = {key: desk.post.world.acknowledged(tenant, key) for key in keys}
        got = self._cache.get_many([KEYS[key] for key in keys], TENANTS[tenant])
        desk.judge.add("reads", len(keys))
        desk.judge.add("hits", len(got))
        for key in keys:
            if KEYS[key] in got:
                desk.judge.served("get_many", tenant, key, least[key], got[KEYS[key]])


def look_back(post: Post) -> None:
    """After all is over: whatever is still served must be the truth, and the cache must work."""
    desk = Desk.at(post)
    try:
        with post.cache() as cache:
            for tenant in range(len(TENANTS)):
                Reader(cache).get_many(desk, tenant, range(len(KEYS)))
            cache.set("afterwards", "works", ttl=TTL_S)
            if cache.get("afterwards") != "works":
                desk.judge.error("afterwards", RuntimeError("what was set cannot be read"))
    except PlacementMismatch as error:
        desk.judge.error("afterwards", error)
    desk.count()

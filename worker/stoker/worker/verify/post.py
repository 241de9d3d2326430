"""Where a member of the crew works, and the cache it has there."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from stoker.cache import Cache, CacheConfig, CacheSharder, CacheShardingConfig, Hooks
from stoker.worker.verify.judge import Judge
from stoker.worker.verify.world import World

LEASE_S = 0.4
MAX_LOAD_S = 1.2
"""Short, so that bans retire within a run; the slowest load is 0.5 s, so that most are stored."""

EARLY_REFRESH = 5.0
"""More than anybody needs: most values with a short TTL are refreshed before they expire."""

NEAR_SIZE = 200
"""Of 300 names: some copies have to go."""


def config_of(url: str, namespace: str) -> CacheConfig:
    """That of every cache of a run, but for its copies."""
    return CacheConfig(
        backend="redis",
        redis_url=url,
        namespace=namespace,
        lease=LEASE_S,
        max_load=MAX_LOAD_S,
        early_refresh=EARLY_REFRESH,
    )


class Post(NamedTuple):
    """Where a role works: its row of counters, the truth, the server and name space, and its seed.

    `shards`: as many as it is told; 0: it goes by the namespace's map.
    `environment` is what makes a process a producer of jobs; empty in a run without.
    """

    slot: int
    world: World
    url: str
    namespace: str
    seed: int
    shards: int
    environment: dict[str, str]
    near: bool

    def config(self) -> CacheConfig:
        """The cache's, with leases short enough to run out within a run."""
        return replace(config_of(self.url, self.namespace), near_size=NEAR_SIZE if self.near else 0)

    def cache(self, hooks: Hooks | None = None) -> Cache:
        """A cache as the product makes it."""
        cache = Cache(self.config(), hooks=hooks)
        CacheSharder(cache, CacheShardingConfig(enabled=True, num_shards=self.shards or None))
        return cache


@dataclass(frozen=True, slots=True)
class Desk:
    """What one thread or task of a role has to itself."""

    post: Post
    chance: random.Random
    judge: Judge

    @classmethod
    def at(cls, post: Post, number: int = 0) -> "Desk":
        """The desk of this number."""
        return cls(post, random.Random(post.seed * 10 + number), Judge(post.world))

    def count(self) -> None:
        """Add up what was counted; only one thread of a role at a time may."""
        self.post.world.count(self.post.slot, self.judge.take())


def in_threads(post: Post, *works: Callable[[Desk], Any]) -> None:
    """Do all of this in one process, each again and again in a thread of its own, until the run is over."""
    counting = threading.Lock()

    def keep_at(work: Callable[[Desk], Any], desk: Desk) -> None:
        while not post.world.stopped:
            try:
                work(desk)
            except Exception as error:  # whatever a role does not expect is a finding
                desk.judge.error(work.__name__, error)
            with counting:
                desk.count()

    threads = [
        threading.Thread(target=keep_at, args=(work, Desk.at(post, n))) for n, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

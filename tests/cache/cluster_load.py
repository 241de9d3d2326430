"""Readers and writers of one namespace, and a judge: nothing that an acknowledged invalidation has killed is served."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from stoker.cache import Cache, InvalidationNotAcknowledged

KEYS = [f"user:{n}" for n in range(200)]
MISS = 0


class Load:
    """What goes on beside a test, in threads that each have a cache of their own.

    With `barrier`, for readers that keep copies, writers wait until nobody has one of what they have changed.

    Attributes:
        count: Of hits, loads, acks and invalidations that were not acknowledged.
        stale: What should not have been served.
    """

    def __init__(self, seed: int, *, barrier: bool = False) -> None:
        self.seed = seed
        self._barrier = barrier
        self.truth = dict.fromkeys(KEYS, 1)
        self.acked = dict.fromkeys(KEYS, 0)
        self.count: Counter[str] = Counter()
        self.stale: list[str] = []
        self.errors: list[BaseException] = []
        self._over = threading.Event()
        self._writing = threading.Lock()

    @contextmanager
    def on(self, make: Callable[[], Cache], readers: int = 3) -> Iterator["Load"]:
        """Under load while the block runs."""
        roles = [self.read] * readers + [self.write]
        caches = [make() for _ in roles]
        threads = [
            threading.Thread(target=self._run, args=(role, cache, Random(f"{self.seed} {n}")))
            for n, (role, cache) in enumerate(zip(roles, caches, strict=True))
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join(30)
            for cache in caches:
                cache.close()
        assert self.errors == []

    def _run(self, role: Callable[[Cache, Random], None], cache: Cache, chance: Random) -> None:
        try:
            while not self._over.is_set():
                role(cache, chance)
        except BaseException as error:
            self.errors.append(error)

    def read(self, cache: Cache, chance: Random) -> None:
        if chance.random() < 0.2:
            keys = chance.sample(KEYS, 20)
            dead = {key: self.acked[key] for key in keys}
            for key, value in cache.get_many(keys).items():
                self._judge(key, value, dead[key])
            return
        key = chance.choice(KEYS)
        oldest = self.acked[key]
        self._judge(key, cache.get_or_load(key, lambda: self._load(key), tags=[key]), oldest)

    def _load(self, key: str) -> int:
        self.count["loads"] += 1
        return self.truth[key]

    def _judge(self, key: str, value: int, oldest: int) -> None:
        self.count["reads"] += 1
        if value < oldest:
            self.stale.append(f"{key} was {value} after {oldest} was acknowledged")

    def write(self, cache: Cache, chance: Random) -> None:
        key = chance.choice(KEYS)
        with self._writing:
            self.truth[key] += 1
            version = self.truth[key]
        how = chance.randrange(3)
        try:
            if how == 0:
                cache.delete(key, barrier=self._barrier)
            elif how == 1:
                cache.invalidate_pattern(key, barrier=self._barrier)
            else:
                cache.invalidate_tags([key], barrier=self._barrier)
        except InvalidationNotAcknowledged:
            self.count["not acknowledged"] += 1
            self._over.wait(0.05)
            return
        self.count["acks"] += 1
        self.acked[key] = max(self.acked[key], version)
        self._over.wait(0.002)

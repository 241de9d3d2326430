"""What a contender must offer to take part: a read through the cache, and ways to make it forget.

An adapter blocks or is awaited, as its library does: a method may return its result or an awaitable of it.
"""

import asyncio
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any, NamedTuple

from stoker.worker.verify.source import loader_pause
from stoker.worker.verify.world import World, value

Value = dict[str, Any]
LOCK_S = 1
"""Longer than the slowest load, 0.6 s: for how long a contender's lock, lease or the like keeps others from loading."""


class Item(NamedTuple):
    """A cached value's place, such as `user:3:9` of `tenant0` with the tag `group 3`."""

    tenant: str
    key: str
    tag: str

    @property
    def name(self) -> str:
        """The key for a library that knows no tenants."""
        return f"{self.tenant}:{self.key}"


class Seat:
    """A process's place in a run: the truth, and its row of counters. Threads may share it."""

    def __init__(self, world: World, slot: int) -> None:
        self.world = world
        self._slot = slot
        self._counting = threading.Lock()

    def count(self, counts: dict[str, int]) -> None:
        """Add up."""
        with self._counting:
            self.world.count(self._slot, counts)


class Load:
    """The loader of one read: slow, and what matters is when it reads the version.

    `now` blocks, `later` is awaited; a cache may call either in the background too, after the read has returned.
    """

    def __init__(self, seat: Seat, chance: random.Random, tenant: int, key: int, longest: float) -> None:
        self.ran = False
        self._seat = seat
        self._of = tenant, key
        self._before = loader_pause(chance) / 4
        self._after = loader_pause(chance) + chance.random() * longest

    def now(self) -> Value:
        """Load in this thread."""
        self._begin()
        time.sleep(self._before)
        version = self._seat.world.version(*self._of)
        time.sleep(self._after)
        return value(*self._of, version)

    async def later(self) -> Value:
        """Load in this task."""
        self._begin()
        await asyncio.sleep(self._before)
        version = self._seat.world.version(*self._of)
        await asyncio.sleep(self._after)
        return value(*self._of, version)

    def _begin(self) -> None:
        self.ran = True
        self._seat.count({"loads": 1})


class Change(NamedTuple):
    """What changed together: keys of one tenant, and what they have in common, if that is why."""

    tenant: str
    items: list[Item]
    tag: str = ""
    pattern: str = ""


class Peer(ABC):
    """One contender in one process, on the server at `url`, `unix:///path`. Values live for `ttl` seconds.

    Reads go on without a server where the library can do that, and whatever forgets raises where it can: the writer
    asks again until it does not. Where a library knows neither tags, patterns nor tenants, the keys are deleted.
    """

    @abstractmethod
    def __init__(self, url: str, ttl: int) -> None: ...

    @abstractmethod
    def read(self, item: Item, load: Load) -> Value | Awaitable[Value]:
        """The cached value, or the loaded one."""

    @abstractmethod
    def forget_keys(self, change: Change) -> object:
        """Forget these keys; often it is a single one."""

    def forget_tag(self, change: Change) -> object:
        """Forget what has the tag."""
        return self.forget_keys(change)

    def forget_pattern(self, change: Change) -> object:
        """Forget what matches the pattern."""
        return self.forget_keys(change)

    def forget_tenant(self, change: Change) -> object:
        """Forget all of the tenant's."""
        return self.forget_keys(change)


async def answer(given: object) -> Any:
    """What was answered at once, or will be."""
    return await given if isinstance(given, Awaitable) else given

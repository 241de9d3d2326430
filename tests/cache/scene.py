"""Caches of one namespace, a value that they write, invalidate and read, and the server behind their backs.

Every read is checked: a value that an acknowledged invalidation has killed must not be served.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from stoker.cache import Cache, InvalidationNotAcknowledged
from stoker.cache.keys import ShardKeys
from tests.cache.conftest import MakeCache

Client = Any  # redis.Redis, whose annotations know sync and async answers at once
KEY = "user:1"
MISS = 0
"""Values are the numbers of their writes, from 1 on."""

_scenes = itertools.count()

INVALIDATIONS: dict[str, Callable[[Cache, str | None], object]] = {
    "pattern": lambda cache, tenant: cache.invalidate_pattern("*r:[0-9]", tenant),
    "prefix": lambda cache, tenant: cache.invalidate_pattern("user:*", tenant),
    "tag": lambda cache, tenant: cache.invalidate_tags(["t"], tenant),
    "tenant": lambda cache, tenant: cache.invalidate_tenant(tenant),
    "key": lambda cache, tenant: cache.delete(KEY, tenant),
}
FIELDS = ("version", "inc", "head", "nonce", "closing", "floor", "gen", "digest", "boots")


@dataclass
class Scene:
    """Three caches of one namespace, a value that is written, invalidated and read, and the server behind their backs.

    Attributes:
        written: How many values were.
        dead: The newest of them that an acknowledged invalidation has killed.
    """

    client: Client
    keys: ShardKeys
    caches: list[Cache]
    tenant: str | None
    written: int = 0
    dead: int = 0

    def store(self, by: int = 0) -> bool:
        """Write the next value; tells whether that was acknowledged."""
        self.written += 1
        try:
            return self.caches[by].set(KEY, self.written, self.tenant, tags=["t"])
        except InvalidationNotAcknowledged:
            return False

    def invalidate(self, how: str = "pattern", by: int = 0) -> bool:
        """Tells whether it was acknowledged; then all that was written before is dead."""
        try:
            INVALIDATIONS[how](self.caches[by], self.tenant)
        except InvalidationNotAcknowledged:
            return False
        self.dead = self.written
        return True

    def read(self, by: int = 1) -> int:
        """By both ways, which agree. Never a value that is dead, nor one that nobody wrote."""
        cache = self.caches[by]
        found = cache.get(KEY, self.tenant, default=MISS)
        assert found is MISS or self.dead < found <= self.written
        assert cache.get_many([KEY], self.tenant) in ({}, {KEY: found})
        return int(found)

    def load(self, by: int = 1) -> None:
        """Read, or write the next value as a loader's."""
        self.written += 1
        mine = self.written
        assert self.dead < self.caches[by].get_or_load(KEY, lambda: mine, self.tenant, tags=["t"]) <= mine

    def goes_on(self) -> None:
        """Every cache sees what another writes and invalidates, after one cold start at most."""
        self.read_all()
        assert self.store()
        if self.read_all() != {self.written}:
            assert self.store()
            assert self.read_all() == {self.written}
        assert self.invalidate(by=1)
        assert self.read_all() == {MISS}

    def read_all(self) -> set[int]:
        return {self.read(by) for by in range(3)}

    def record(self, **fields: object) -> bytes:
        """The control record with some fields replaced; empty if there is none."""
        return ":".join(str(fields.get(name, part)) for name, part in self._parts()).encode()

    def part(self, name: str) -> str:
        """A field of the control record; empty if it has none."""
        return dict(self._parts()).get(name, "")

    def _parts(self) -> list[tuple[str, str]]:
        raw = self.client.get(self.keys.ctl) or b""
        return list(zip(FIELDS, raw.decode(errors="replace").split(":"), strict=False))


MakeScene = Callable[..., AbstractContextManager[Scene]]


@pytest.fixture
def a_scene(make_redis: MakeCache, client: Client, namespace: str) -> MakeScene:
    """Begin a scene in a namespace of its own: the first cache has written, the second has read, the third is fresh."""

    @contextmanager
    def begin(tenant: str | None = None) -> Iterator[Scene]:
        name = f"{namespace}.{next(_scenes)}"
        keys = ShardKeys(name)
        with ExitStack() as stack:
            caches = [stack.enter_context(make_redis(namespace=name)) for _ in range(3)]
            scene = Scene(client, keys, caches, tenant)
            assert scene.store()
            assert scene.read() == 1
            yield scene
        client.delete(keys.ctl, keys.bans, keys.marks, keys.map, keys.entry(tenant, KEY))

    return begin

"""Control state that no cache of this version wrote: records, ban logs, marks and maps, on a real server.

The oracle: a value stored before an acknowledged invalidation is never served again, whatever was done to the control
state before or after; no read raises; and a cache that can go on does. What is not promised: records have no checksum,
so what can be read and can be true is believed. A floor or a closing mark that lies within its range, or a rule that
was taken out of the log or made narrower, is not noticed.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.cache import Cache, CacheUnavailable, InvalidationNotAcknowledged, PlacementMismatch
from stoker.cache.entry import MAX_SEQ
from stoker.cache.keys import ShardKeys
from tests.cache.conftest import MakeCache
from tests.fuzzing import thorough_too, tried

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
    answers: list[bool] = field(default_factory=list)

    def store(self, by: int = 0) -> bool:
        self.written += 1
        try:
            return self.caches[by].set(KEY, self.written, self.tenant, tags=["t"])
        except InvalidationNotAcknowledged:
            return False

    def invalidate(self, how: str = "pattern", by: int = 0) -> bool:
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
        self.written += 1
        mine = self.written
        assert self.dead < self.caches[by].get_or_load(KEY, lambda: mine, self.tenant, tags=["t"]) <= mine

    def goes_on(self) -> None:
        """Every cache sees what another writes and invalidates."""
        self.read_all()
        assert self.store()
        assert self.read_all() == {self.written}
        assert self.invalidate(by=1)
        assert self.read_all() == {MISS}

    def read_all(self) -> set[int]:
        return {self.read(by) for by in range(3)}

    def record(self, **fields: object) -> bytes:
        """The control record with some fields replaced; empty if there is none."""
        parts = (self.client.get(self.keys.ctl) or b"").decode(errors="replace").split(":")
        named = zip(FIELDS, parts, strict=False)
        return ":".join(str(fields.get(name, part)) for name, part in named).encode()


@pytest.fixture
def a_scene(make_redis: MakeCache, client: Client, namespace: str) -> Callable[..., Any]:
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


ways = st.sampled_from(list(INVALIDATIONS))
tenants = st.none() | st.sampled_from(["acme", "a|b", "*", "%7C", "a:b}", "\0", "\n"]) | st.text(min_size=1, max_size=20)

# -- histories of calls and damage ------------------------------------------------------------------------------

OF_ANOTHER_TYPE: dict[str, Callable[[Client, bytes], object]] = {
    "list": lambda client, name: client.rpush(name, "x"),
    "hash": lambda client, name: client.hset(name, "a", "x"),
    "set": lambda client, name: client.sadd(name, "x"),
    "zset": lambda client, name: client.zadd(name, {"x": 1}),
    "string": lambda client, name: client.set(name, "x"),
}

RECORDS: dict[str, Callable[[Scene], bytes]] = {
    "of version 0": lambda scene: scene.record(version=0),
    "of version 2": lambda scene: scene.record(version=2),
    "with one more field": lambda scene: scene.record() + b":more",
    "with one less": lambda scene: scene.record().rpartition(b":")[0],
    "of another life": lambda scene: scene.record(inc="0" * 16),
    "of another server": lambda scene: scene.record(boots="0" * 16),
    "of another map": lambda scene: scene.record(digest="0" * 16),
    "of a later head": lambda scene: scene.record(head=2**40),
    "of a head that cannot be counted": lambda scene: scene.record(head=2**53),
    "with a floor above its head": lambda scene: scene.record(floor=2**41),
    "with a closing mark above its head": lambda scene: scene.record(closing=2**53 + 1),
    "that refuses all fills": lambda scene: scene.record(closing=scene.record().split(b":")[2].decode()),
    "in capitals": lambda scene: scene.record().upper(),
    "with a line at its end": lambda scene: scene.record() + b"\n",
    "of noughts": lambda scene: b"1:" + b":".join([b"0" * 16, b"0", b"0" * 8, b"0", b"0", b"0", b"0" * 16, b"0"]),
}

members = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda kind, tenant, rest: f"{kind}|{tenant}|{rest}".encode(),
        st.sampled_from(["n", "x", "p", "t", "i", "z", "", "N", "px", "\0"]),
        st.sampled_from(["", "acme", "%", "*"]),
        st.sampled_from(["", "t", "user:*", "[", "\\", "*" * 600, "user:", "é", "a|b"]),
    ),
    st.sampled_from([b"i|", b"i|" + b"0" * 16, b"i|x|y", b"|", b"||", b"n|", b"n|acme", b"x||\xff", b"t||\xff"]),
)
scores = st.one_of(
    st.integers(1, 9).map(float),
    st.sampled_from([0.0, -1.0, 0.5, 1.5, 2.0**53 - 1, 2.0**53, 1e300, float("inf"), float("-inf")]),
    st.floats(allow_nan=False),
)

actors = st.integers(0, 2)
calls = st.one_of(
    st.builds(lambda by: lambda scene: scene.store(by), actors),
    st.builds(lambda by: lambda scene: scene.read(by), actors),
    st.builds(lambda by: lambda scene: scene.load(by), actors),
    st.builds(lambda by, how: lambda scene: scene.invalidate(how, by), actors, ways),
    st.builds(lambda by: lambda scene: scene.caches[by].sweep(), actors),
)
damage = st.one_of(
    st.builds(lambda raw: lambda scene: scene.client.set(scene.keys.ctl, raw), st.binary(max_size=200)),
    st.builds(
        lambda length: lambda scene: scene.client.set(scene.keys.ctl, scene.record()[:length]), st.integers(0, 90)
    ),
    st.builds(
        lambda which: lambda scene: scene.client.set(scene.keys.ctl, RECORDS[which](scene)),
        st.sampled_from(list(RECORDS)),
    ),
    st.builds(
        lambda which: lambda scene: scene.client.delete(*(getattr(scene.keys, name) for name in which)),
        st.lists(st.sampled_from(["ctl", "bans", "marks", "map"]), min_size=1, max_size=4),
    ),
    st.builds(lambda more: lambda scene: scene.client.zadd(scene.keys.bans, more), st.dictionaries(members, scores, min_size=1, max_size=3)),
    st.just(lambda scene: scene.client.zremrangebyscore(scene.keys.bans, "inf", "inf")),
    st.just(lambda scene: scene.client.script_flush()),
)


@thorough_too
def test_in_no_history_of_calls_and_damage_is_a_dead_value_read_or_a_call_lost(
    a_scene: Callable[..., Any], thorough: bool
) -> None:
    @tried(thorough, 100)
    @given(tenants, st.lists(calls | damage, max_size=12))
    def rule(tenant: str | None, history: list[Callable[[Scene], object]]) -> None:
        with a_scene(tenant) as scene:
            for act in history:
                act(scene)
            scene.goes_on()

    rule()

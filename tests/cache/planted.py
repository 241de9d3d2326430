"""A whole entry on a real server, for tests to damage, and what every call must make of it afterwards."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from stoker.cache import Cache, CacheConfig
from stoker.cache.loaders import Loader, Registry

Client = Any  # redis.Redis, whose annotations know sync and async answers at once

HEADER = struct.calcsize("<2sBBHH8sQ8sQQII")
FIELDS = {
    "magic": (0, 2),
    "version": (2, 1),
    "codec": (3, 1),
    "flags": (4, 2),
    "tags_len": (6, 2),
    "incarnation": (8, 8),
    "seq": (16, 8),
    "uid": (24, 8),
    "soft_ms": (32, 8),
    "hard_ms": (40, 8),
    "load_us": (48, 4),
    "payload_len": (52, 4),
}
"""Offset and size of each, as docs/keys.md has them."""
EDGES = (0, 1, 2, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
LIMIT = 8192
KEY = "fuzz:1"
VALUE: dict[str, Any] = {"name": "Ada", "langs": ["en", "fr"], "n": 1.5}
LOADED = "loaded anew"
MISS = object()


@dataclass
class User:
    name: str
    langs: list[str]
    n: float = 0.0


class Planted(NamedTuple):
    """A cache, and a whole entry of its `KEY` to damage."""

    cache: Cache
    client: Client
    name: str
    whole: bytes

    def plant(self, blob: bytes) -> None:
        self.client.set(self.name, blob, px=600_000)


@pytest.fixture
def planted(cache_server: str, namespace: str, client: Client) -> Iterator[Planted]:
    def load(number: int) -> str:  # noqa: ARG001 - the template's field
        return LOADED

    registry = Registry()
    registry.add(Loader("fuzz:{number}", load))
    config = CacheConfig(
        backend="redis",
        redis_url=cache_server,
        namespace=namespace,
        max_value_bytes=LIMIT,
        compress_above=1000,
    )
    with Cache(config, registry=registry) as cache:
        cache.set(KEY, VALUE, tags=["plain", "é"])
        name = cache._namespaced_key(KEY)
        yield Planted(cache, client, name, client.get(name))


def edited(whole: bytes, **fields: int | bytes) -> bytes:
    """The entry with some header fields replaced."""
    for field, value in fields.items():
        offset, size = FIELDS[field]
        raw = value if isinstance(value, bytes) else value.to_bytes(size, "little")
        whole = whole[:offset] + raw + whole[offset + size :]
    return whole


def rebuilt(whole: bytes, payload: bytes, *, tags: bytes = b"", **fields: int | bytes) -> bytes:
    """An entry with other tags and payload, which its header agrees with."""
    lengths = {"tags_len": len(tags), "payload_len": len(payload)}
    return edited(whole, **{**lengths, **fields})[:HEADER] + tags + payload


def is_a_miss(planted: Planted, blob: bytes, type: Any = None) -> None:
    """Every read misses; a load, and a warm, put a good entry in its place."""
    cache = planted.cache
    planted.plant(blob)
    assert cache.get(KEY, default=MISS, type=type) is MISS
    assert cache.get_many([KEY, "fuzz:2"], type=type) == {}
    assert cache.explain(KEY)["state"] != "absent"
    assert cache.get_or_load(KEY, lambda: VALUE, type=type) == VALUE
    assert cache.get(KEY) == VALUE
    if type is None:
        planted.plant(blob)
        assert cache.warm([KEY]).written == 1
        assert cache.get(KEY) == LOADED


def is_served(planted: Planted, blob: bytes) -> None:
    """Every read finds the value as it was stored."""
    cache = planted.cache
    planted.plant(blob)
    assert cache.get(KEY, default=MISS) == VALUE
    assert cache.get(KEY, type=User) == User(**VALUE)
    assert cache.get_many([KEY]) == {KEY: VALUE}
    assert cache.explain(KEY)["state"] == "live"

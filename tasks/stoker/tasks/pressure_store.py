"""What is kept of memory pressure on the state server: the latest looks, what the cache is made of, tenants' quotas.

The quotas here are the operators' book; the fleet goes by a copy on the cache's server, which `pressure` renews.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from stoker.cache import ConfigError, keys
from stoker.cache.quotas import Quota, Quotas
from stoker.cache.tenancy import tenant_field, tenant_of
from stoker.tasks import state_server
from stoker.tasks.state_server import bounded

MOST_POINTS = 720
KEPT_MS = 86_400_000
BOOK_KEPT_MS = 90 * 86_400_000
"""From the last look at it."""
DEFAULT = "default"
_TENANT = "tenant:"
T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


class Point(Struct, frozen=True):
    """One look; bytes, and seconds of Unix time.

    Attributes:
        used, limit: Of the cache's server, as `Node` has them.
        slope: Bytes a second since the look before.
        evicting, expiring: Keys a second that the server itself evicted, and that expired.
        pressed: Whether memory rose above the high mark, and has not been below the low one since.
        full: Tenants that may store nothing more.
        fullest: Of a cluster, the share of its own limit that the fullest node uses.
        short: Which nodes are `pressed`; a server that is no cluster is ''.
        missing: As of `Node`.
    """

    at: float
    used: int
    limit: int
    rss: int
    fragmentation: float
    clients: int
    keys: int
    evicted: int
    expired: int
    slope: float = 0.0
    evicting: float = 0.0
    expiring: float = 0.0
    pressed: bool = False
    full: tuple[str, ...] = ()
    fullest: float = 0.0
    short: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Of the limit, of a cluster that of the fullest node; 0 without one."""
        return self.fullest or (self.used / self.limit if self.limit else 0.0)

    def full_in(self, mark: float = 1.0) -> float | None:
        """Seconds until memory is at that share of the limit if it goes on like this; None: it does not rise."""
        left = self.limit * mark - self.used
        return max(left, 0.0) / self.slope if self.limit and self.slope > 0 else None


class Row(Struct, frozen=True):
    """A tenant, or a family of keys, in a sample; as `stoker.cache.pressure.Part`, with its reads."""

    name: str
    bytes: int
    entries: int
    share: float
    error: float
    load_us: int
    hits: int = 0
    misses: int = 0


class Composition(Struct, frozen=True):
    """What the cache was made of at a time. The shared key space is the tenant ``""``; `missing` as of `Makeup`."""

    at: float
    sampled: int
    entries: int
    bytes: int
    tenants: tuple[Row, ...] = ()
    families: tuple[Row, ...] = ()
    missing: tuple[str, ...] = ()


class PressureStore:
    """Of one namespace. Every method may raise `StateUnavailable`."""

    def __init__(self, url: str, namespace: str) -> None:
        self._points = keys.pressure(namespace)
        self._composition = keys.composition(namespace)
        self._book = keys.quota_book(namespace)
        self._client: Any = state_server.connect(url)

    def close(self) -> None:
        self._client.close()

    def add(self, point: Point, composition: Composition | None) -> None:
        """Write a look down; of old ones so many are kept as an hour has, one every five seconds."""
        with bounded():
            pipeline = self._client.pipeline()
            pipeline.lpush(self._points, _encode(point))
            pipeline.ltrim(self._points, 0, MOST_POINTS - 1)
            pipeline.pexpire(self._points, KEPT_MS)
            pipeline.pexpire(self._book, BOOK_KEPT_MS)
            if composition is not None:
                pipeline.set(self._composition, _encode(composition), px=KEPT_MS)
            pipeline.execute()

    def last(self) -> Point | None:
        """The latest look."""
        return next(iter(self.points(1)), None)

    def points(self, most: int = MOST_POINTS) -> list[Point]:
        """The latest looks, newest first. One that cannot be read is left out."""
        with bounded():
            found = self._client.lrange(self._points, 0, most - 1)
        points = (_decoded(text, Point) for text in found)
        return [point for point in points if point is not None]

    def composition(self) -> Composition | None:
        """What the cache was made of when that was last looked at."""
        with bounded():
            text = self._client.get(self._composition)
        return None if text is None else _decoded(text, Composition)

    def quotas(self) -> Quotas:
        """All quotas. One that cannot be read counts as none."""
        with bounded():
            found: dict[str, str] = self._client.hgetall(self._book)
        read = {name: quota for name, text in found.items() if (quota := _decoded(text, Quota)) is not None}
        return Quotas(read.get(DEFAULT, Quota()), dict(_tenants(read)))

    def set_quota(self, tenant_id: str | None, quota: Quota) -> None:
        """Give a tenant a quota of his own, or (None) all others theirs."""
        with bounded():
            self._client.hset(self._book, _field(tenant_id), _encode(quota))
            self._client.pexpire(self._book, BOOK_KEPT_MS)

    def drop_quota(self, tenant_id: str | None) -> bool:
        """Take it back; tells whether there was one."""
        with bounded():
            return bool(self._client.hdel(self._book, _field(tenant_id)))


def _field(tenant_id: str | None) -> str:
    return DEFAULT if tenant_id is None else _TENANT + tenant_field(tenant_id)


def _tenants(read: Mapping[str, Quota]) -> list[tuple[str, Quota]]:
    named = ((tenant_of(name.removeprefix(_TENANT)), q) for name, q in read.items() if name != DEFAULT)
    return [(tenant, quota) for tenant, quota in named if tenant is not None]


def _decoded(text: str, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, ConfigError, ValueError):
        return None

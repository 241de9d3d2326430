"""`stoker.worker.health` tells a process that answers from one that does not, within bounded time, and says why."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from stoker.config import Settings
from stoker.tasks import configure, runtime
from stoker.worker import health
from stoker.worker.embedded import free_port
from stoker.worker.health import Unhealthy


@pytest.fixture
def _broker(broker_server: str, namespace: str) -> Iterator[None]:
    configure(Settings(broker_url=broker_server, namespace=namespace))
    yield
    runtime.current().close()


class StandIn(HTTPServer):
    """Answers where Flower should, always with `status`, and keeps what it was asked."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[tuple[str, str | None]] = []


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, StandIn)
        self.server.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def flower() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


def settings(port: int, host: str = "0.0.0.0") -> Settings:
    return Settings(flower={"host": host, "port": port, "user": "op", "password": "coal"})


@pytest.mark.usefixtures("_broker")
def test_a_node_that_is_not_there_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "NODE_ANSWERS_WITHIN_S", 0.3)
    with pytest.raises(Unhealthy, match=r"nobody@\S+ gave no answer within 0.3 s"):
        health.check_node("nobody")


def test_a_node_is_unhealthy_when_the_broker_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "NODE_ANSWERS_WITHIN_S", 0.3)
    configure(Settings(broker_url=f"redis://127.0.0.1:{free_port()}/0"))
    began = time.monotonic()
    with pytest.raises(Unhealthy, match="the broker cannot be asked"):
        health.check_node("warm")
    assert time.monotonic() - began < 2
    runtime.current().close()


def test_flower_is_asked_for_what_it_must_ask_the_broker_for(flower: StandIn) -> None:
    health.check_flower(settings(flower.server_port))
    assert flower.asked == [("/api/queues/length", "Basic b3A6Y29hbA==")]


@pytest.mark.parametrize("status", [401, 500])
def test_flower_is_unhealthy_when_it_refuses_or_fails(flower: StandIn, status: int) -> None:
    flower.status = status
    with pytest.raises(Unhealthy, match=f"Flower answered {status}"):
        health.check_flower(settings(flower.server_port))


def test_flower_is_unhealthy_when_nobody_listens() -> None:
    with pytest.raises(Unhealthy, match=r"Flower cannot be asked at http://127.0.0.1:\d+/api/queues/length"):
        health.check_flower(settings(free_port(), "127.0.0.1"))


def test_the_command_ends_with_1_and_one_line_of_reason() -> None:
    command = [sys.executable, "-m", "stoker.worker.health", "node", "warm"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("unhealthy: STOKER_BROKER_URL=None")
    assert len(ended.stderr.splitlines()) == 1

"""`stoker doctor` on a whole deployment: nothing to be said while all is well, and what it finds as parts break."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from stoker.config import Settings
from stoker.tasks import names, send
from stoker.worker.doctor import beat as beat_check
from stoker.worker.doctor.check import Finding, Severity
from stoker.worker.doctor.run import diagnose
from stoker.worker.doctor.system import TENANT
from stoker.worker.embedded import embedded_server, free_port
from stoker.worker.processes import Child
from tests.flow.conftest import Deployment
from tests.waiting import wait_until

WARNING, ERROR = Severity.WARNING, Severity.ERROR
PASSWORD = "coal, and fire"


@pytest.fixture(scope="module")
def cache_server() -> Iterator[str]:
    with embedded_server("cache") as server:
        yield server.url


@pytest.fixture(scope="module")
def broker_server() -> Iterator[str]:
    """One that production would have: with an append-only file."""
    with embedded_server("broker") as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("appendonly", "yes")
        yield server.url


def found(*checks: str, **settings: Any) -> list[tuple[str, Severity, str]]:
    """What these checks find that is not all right."""
    findings: list[Finding] = list(diagnose(Settings(**settings), checks))
    return [(f.check, f.severity, f.seen) for f in findings if f.severity > Severity.NOTE]


def log_holds(child: Child, text: str) -> None:
    wait_until(lambda: text in child.log.read_text(errors="replace"), 30, lambda: child.tail())


def open_flower(deployment: Deployment, port: int) -> Child:
    """As somebody may start it who does not know `stoker flower`."""
    command = ["-m", "celery", "-A", "stoker.worker.app", "flower", "--address=127.0.0.1", f"--port={port}"]
    environment = {**deployment.environment, "FLOWER_UNAUTHENTICATED_API": "1"}
    return deployment._processes.start("open", [sys.executable, *command], environment)


def left_by_the_doctor(cache_url: str) -> list[bytes]:
    with redis.Redis.from_url(cache_url) as client:
        return [name for name in client.scan_iter() if TENANT.encode() in name]


@pytest.mark.slow
@pytest.mark.soak
def test_the_doctor_finds_nothing_while_all_is_well_and_each_part_as_it_breaks(
    deployment: Deployment, cache_server: str, broker_server: str
) -> None:
    port = free_port()
    ours = {"port": port, "password": PASSWORD}
    flower = {"STOKER_FLOWER__PORT": str(port), "STOKER_FLOWER__PASSWORD": PASSWORD}
    worker = deployment.launch("a", "worker", "--name", "a", "--concurrency", "1")
    beat = deployment.launch("beat", "beat")
    ready = [
        (worker, " ready."),
        (beat, "beat: Starting"),
        (deployment.launch("flower", "flower", **flower), "Connected to"),
    ]
    for child, text in ready:
        log_holds(child, text)

    # All is well, in a namespace that nobody has used and in one in use; and what is there stays as it is
    assert found("invalidation") == []
    deployment.cache.set("user:1", "Ada")
    assert found(flower=ours) == []
    assert deployment.cache.get("user:1") == "Ada"
    assert left_by_the_doctor(cache_server) == []

    # Flower with another password
    [(_, severity, seen)] = found("flower", flower={**ours, "password": "another"})
    assert (severity, seen.partition(" at ")[0]) == (ERROR, "Flower answered 401 Unauthorized")

    # A clock that stands still
    send.evict().wait(timeout=60)
    with pytest.MonkeyPatch.context() as impatient:
        impatient.setattr(beat_check, "LEAST_LATE_S", 0)
        [(_, severity, seen)] = found("beat", beat={"evict_every": 0.1})
    assert (severity, "answers, but what it sends has not run for" in seen) == (WARNING, True)

    # No beat, and a worker for one queue, with another cache
    deployment.kill(beat)
    deployment.kill(worker)
    elsewhere = broker_server.removesuffix("0") + "1"
    arguments = ("worker", "--name", "b", "--concurrency", "1", "-q", "invalidate")
    deployment.start("b", *arguments, ready=" ready.", STOKER_CACHE_URL=elsewhere)
    *unserved, clock, effect = found("workers", "beat", "invalidation")
    others = ("events", "refresh", "warm", "maintenance")
    queues = [names.queue(deployment.settings.namespace, name) for name in others]
    assert [seen.partition(",")[0] for _, _, seen in unserved] == [
        f"no worker serves the queue {q}" for q in queues
    ]
    assert {severity for _, severity, _ in unserved} == {ERROR}
    assert clock == ("beat", WARNING, "no beat answers, but what it sends was run lately")
    assert effect[:2] == ("invalidation", ERROR)
    assert effect[2].startswith("a worker reported an invalidation as done, but it had no effect")
    assert left_by_the_doctor(cache_server) == []


def test_a_flower_that_is_open_to_everybody_is_told(deployment: Deployment) -> None:
    port = free_port()
    log_holds(open_flower(deployment, port), "Connected to")
    [(_, severity, seen)] = found("flower", flower={"port": port, "password": PASSWORD})
    assert (severity, seen.partition(", ")[2]) == (ERROR, "without a password (/api/workers, /)")


@pytest.mark.slow
def test_an_invalidation_that_no_worker_can_carry_out_is_told_with_the_reason(deployment: Deployment) -> None:
    deployment.worker(STOKER_CACHE_URL="redis://127.0.0.1:1/0")
    [(_, severity, seen)] = found("invalidation")
    assert (severity, seen) == (
        ERROR,
        "the worker could not carry out an invalidation in 4 s; it tries again",
    )


@pytest.mark.slow
def test_a_worker_that_hangs_is_told_and_the_run_ends_in_time(deployment: Deployment) -> None:
    worker = deployment.worker()
    os.killpg(worker.pid, signal.SIGSTOP)
    began = time.monotonic()
    checks = [check for check, severity, _ in found() if severity is ERROR]
    assert time.monotonic() - began < 15
    assert checks == ["workers"] * len(names.QUEUES) + ["beat", "invalidation"]
    os.killpg(worker.pid, signal.SIGCONT)

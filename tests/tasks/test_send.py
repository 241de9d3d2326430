"""Producers: what a send leaves behind, and that none ever hangs."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from stoker import tasks
from stoker.config import Settings
from stoker.tasks import JobAborted, JobFailed, JobHandle, JobLost, NotSent, configure, names, runtime, send
from stoker.tasks.job import ANY
from stoker.worker.embedded import embedded_server
from stoker.worker.processes import Processes
from tests.flow.broker import Broker
from tests.waiting import within

CLOSED = "redis://127.0.0.1:1/0"
WITHIN_S_IF_CLOSED = 0.2
WITHIN_S_IF_FROZEN = 1.5

SENDS: list[Callable[[], Any]] = [
    send.sweep,
    send.evict,
    send.rebalance,
    lambda: send.warm(["user:1"]),
    lambda: send.invalidate(keys=["user:1"]),
    lambda: send.invalidate_pattern("user:*"),
    lambda: send.invalidate_tags(["t"]),
    lambda: send.invalidate_tenant("acme"),
    lambda: tasks.evict.delay(),
]


def is_not_sent_within(seconds: float, attempt: Callable[[], object], what: str = r"stoker\.\w+") -> None:
    def fails() -> None:
        with pytest.raises(NotSent, match=f"{what} was not sent"):
            attempt()

    within(seconds, fails)


def queue_length(settings: Settings, queue: str) -> int:
    with redis.Redis.from_url(settings.broker()) as client:
        length: int = client.llen(names.queue(settings.namespace, queue))
        return length


def test_a_job_is_written_down_before_it_is_sent_and_can_be_asked_about(producer: Settings) -> None:
    job = send.warm(["user:1"], tenant_id="acme")
    assert job.status().state == "queued"
    assert job.report == {}
    assert queue_length(producer, "warm") == 1


def test_each_kind_goes_to_its_queue(producer: Settings) -> None:
    send.invalidate_pattern("user:*")
    send.invalidate(keys=["a"], tags=["t"], tenant_id="acme")
    send.invalidate_tags(["t"])
    send.invalidate_tenant("acme")
    send.warm({"acme": ["a"], "umbrella": ["b"]})
    send.sweep()
    send.evict()
    assert [queue_length(producer, queue) for queue in ("invalidate", "warm", "maintenance")] == [4, 1, 2]


def test_two_requests_for_one_target_hold_the_same_job_and_send_one_message(producer: Settings) -> None:
    assert send.warm(["a", "b"]) == send.warm(iter(["a", "b"]))
    assert queue_length(producer, "warm") == 1


def test_two_invalidations_are_two_jobs(producer: Settings) -> None:
    assert send.invalidate_pattern("user:*") != send.invalidate_pattern("user:*")
    assert queue_length(producer, "invalidate") == 2


def test_the_tasks_themselves_can_be_sent(producer: Settings) -> None:
    tasks.sweep.delay()
    tasks.warm.apply_async(kwargs={"keys": ["a"]}, countdown=1)
    assert (queue_length(producer, "maintenance"), queue_length(producer, "warm")) == (1, 1)


@pytest.mark.usefixtures("producer")
def test_waiting_ends_with_the_job() -> None:
    job = send.sweep()
    with pytest.raises(TimeoutError, match=r"is still queued after 0\.1 s"):
        job.wait(timeout=0.1)
    runtime.current().jobs.finish(job.id, "succeeded", ANY, {"report": {"deleted": 3}})
    assert job.wait(timeout=5).report == {"deleted": 3}


@pytest.mark.usefixtures("producer")
def test_waiting_for_what_did_not_succeed_raises_how_it_ended() -> None:
    failed, aborted = send.sweep(), send.evict()
    runtime.current().jobs.finish(failed.id, "failed", ANY, {"error": "no coal"})
    with pytest.raises(JobFailed, match="no coal"):
        failed.wait(timeout=5)
    assert aborted.abort()
    assert not failed.abort()
    with pytest.raises(JobAborted):
        aborted.wait(timeout=5)


@pytest.mark.usefixtures("producer")
def test_a_job_that_the_server_does_not_know_is_lost() -> None:
    with pytest.raises(JobLost, match="send it again"):
        JobHandle("11111111-2222-3333-4444-555555555555").wait(timeout=5)


@pytest.mark.parametrize("state_url", [None, "theirs"])
def test_with_the_broker_down_a_send_fails_at_once_and_leaves_no_job(
    settings: Settings, broker_server: str, state_url: str | None
) -> None:
    state = broker_server if state_url else None
    configure(settings.model_copy(update={"broker_url": CLOSED, "state_url": state}))
    for attempt in SENDS:
        is_not_sent_within(WITHIN_S_IF_CLOSED, attempt)
    if state_url:
        assert runtime.current().jobs.recent(9) == []
    runtime.current().close()


@pytest.mark.parametrize("connected", [True, False])
def test_with_the_broker_frozen_a_send_fails_soon_and_works_again_at_once_after(
    settings: Settings, connected: bool
) -> None:
    with embedded_server("broker") as server:
        configure(settings.model_copy(update={"broker_url": server.url}))
        if connected:
            send.sweep()
        server.child.process.send_signal(signal.SIGSTOP)
        for attempt in (send.evict, tasks.evict.delay):
            is_not_sent_within(WITHIN_S_IF_FROZEN, attempt)
        server.child.process.send_signal(signal.SIGCONT)
        send.evict()
        runtime.current().close()


@pytest.mark.slow
@pytest.mark.parametrize("state", ["with it", "elsewhere"])
def test_each_kind_of_send_fails_as_soon_and_works_again_as_soon(
    settings: Settings, broker_server: str, state: str, tmp_path: Path
) -> None:
    with Processes() as processes:
        broker = Broker(processes, tmp_path)
        state_url = broker_server if state == "elsewhere" else None
        configure(settings.model_copy(update={"broker_url": broker.url, "state_url": state_url}))
        for attempt in SENDS:
            broker.freeze()
            is_not_sent_within(WITHIN_S_IF_FROZEN, attempt)
            broker.thaw()
            runtime.current().jobs.finish(attempt().id, "succeeded", ANY)
            broker.crash()
            is_not_sent_within(WITHIN_S_IF_CLOSED, attempt)
            broker.restart()
            runtime.current().jobs.finish(attempt().id, "succeeded", ANY)
        runtime.current().close()


def test_another_apps_celery_variables_are_not_obeyed(
    producer: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", CLOSED)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", CLOSED)
    configure(producer)
    send.sweep()
    tasks.evict.delay()
    assert queue_length(producer, "maintenance") == 2


def test_importing_the_tasks_reads_no_settings_and_leaves_the_apps_own_celery_alone() -> None:
    program = (
        "import os; os.environ['STOKER_NONSENSE'] = '1'\n"
        "import celery; mine = celery.Celery('mine', broker='memory://')\n"
        "import stoker.tasks\n"
        "from stoker.tasks import invalidate, sweep, warm, evict, send\n"
        "assert celery.current_app.main == 'mine'\n"
        "assert not [name for name in mine.tasks if name.startswith('stoker.')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=110)


def test_a_forked_producer_and_its_parent_do_not_disturb_each_other(producer: Settings) -> None:
    # Given a producer that has sent before it forks, as a preloading web server does
    program = (
        "import os\n"
        "from stoker.tasks import send\n"
        "send.sweep()\n"
        "child = os.fork()\n"
        "for number in range(200):\n"
        "    send.invalidate_pattern(f'{child == 0}:{number}').status()\n"
        "if child:\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    ours = {"STOKER_BROKER_URL": producer.broker(), "STOKER_NAMESPACE": producer.namespace}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=110, env={**os.environ, **ours})
    assert queue_length(producer, "invalidate") == 400

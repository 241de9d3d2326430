"""Events from the app to their effects, by real workers: late, twice, with rules that fail, hang and die, and while
servers and workers do."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from stoker.cache import Cache
from stoker.config import Settings
from stoker.tasks import names, publish, runtime
from stoker.tasks.event_record import DeadLetter
from stoker.tasks.event_store import EventStore
from stoker.worker.processes import Child, Processes
from tests.flow import rules
from tests.flow.broker import Broker
from tests.flow.conftest import Deployment
from tests.waiting import wait_until
from tests.worker.alive import descendants


@pytest.fixture
def environment(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    ours = {
        "STOKER_LOADERS": "tests.flow.loaders,tests.flow.rules",
        "STOKER_EVENT__TRIES": "3",
        "STOKER_EVENT__BACKOFF": "0.1",
        "STOKER_EVENT__TIME_LIMIT": "1",
    }
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    return {**environment, **ours}


def runs(deployment: Deployment) -> dict[str, int]:
    return rules.runs(str(deployment.settings.cache_url), deployment.settings.namespace)


def store() -> EventStore:
    return runtime.current().events


def waiting(settings: Settings) -> int:
    """Published events that no worker has taken."""
    with redis.Redis.from_url(settings.broker()) as client:
        return int(client.llen(names.queue(settings.namespace, "published")))


def dead(count: int, within: float = 20) -> list[DeadLetter]:
    return wait_until(lambda: len(found := store().dead()) == count and found, within)


def beat(deployment: Deployment) -> None:
    deployment.start("beat", "beat", ready="beat: Starting", STOKER_BEAT__REAP_EVERY="1")


@pytest.mark.slow
@pytest.mark.soak
def test_events_published_before_any_worker_ran_are_handled_once_and_a_rule_that_raises_holds_up_nobody(
    deployment: Deployment,
) -> None:
    many = 1000
    # Given events that nobody has waited for yet, some of them twice, some for a rule that raises
    sent = [publish("counted.thing", {"number": number}) for number in range(many)]
    for event_id in sent[:20]:
        publish("counted.thing", {"number": "again"}, event_id=event_id)
    broken = [publish("broken.thing", {"number": number}) for number in range(3)]
    # When a worker starts
    deployment.worker("a", 2)
    wait_until(lambda: len(runs(deployment)) == many + 3, 60, lambda: str(len(runs(deployment))))
    # Then what raised is among the dead letters, with its reason
    letters = dead(3)
    assert {letter.id for letter in letters} == set(broken)
    assert {(letter.rule, letter.runs) for letter in letters} == {("tests.flow.rules:break_off", 3)}
    assert "ValueError: no coal for" in letters[0].error
    # And each was handled once, with nothing left over
    wait_until(lambda: deployment.waiting_messages() + waiting(deployment.settings) == 0)
    assert runs(deployment) == dict.fromkeys([*sent, *broken], 1)
    assert store().overview().unfinished == 0


def test_a_rules_invalidation_and_warm_take_effect_and_the_worker_outlives_garbage(
    deployment: Deployment, other_cache: Cache
) -> None:
    worker = deployment.worker("a", 2)
    other_cache.set("slow:7", "old", tenant_id="acme")
    with redis.Redis.from_url(deployment.settings.broker()) as client:
        for raw in (b"junk", b'{"body": "7"}'):
            client.lpush(names.queue(deployment.settings.namespace, "published"), raw)
    wait_until(lambda: waiting(deployment.settings) == 0)
    publish("slow.changed", {"number": 7}, tenant_id="acme")
    wait_until(lambda: other_cache.get("slow:7", tenant_id="acme") == {"number": 7}, 30, worker.tail)
    assert worker.process.poll() is None


@pytest.mark.slow
def test_a_rule_that_hangs_or_kills_its_process_is_bounded_and_costs_no_other_event(
    deployment: Deployment,
) -> None:
    beat(deployment)
    deployment.worker("a", 2)
    hanging = publish("hanging", {"stubborn": False})
    stubborn = publish("hanging", {"stubborn": True})
    deadly = publish("deadly", {"times": 9})
    survivor = publish("deadly", {"times": 1})
    others = [publish("counted.thing", {}) for _ in range(50)]
    wait_until(lambda: set(others) <= set(runs(deployment)), 60)
    letters = {letter.id: letter for letter in dead(3, 120)}
    assert set(letters) == {hanging, stubborn, deadly}
    assert letters[hanging].error == "it was stopped after 1 s, the time limit of a rule"
    assert letters[stubborn].error.startswith("given up after 3 runs; each was killed or ran into")
    assert letters[deadly].error == letters[stubborn].error
    assert runs(deployment) == {**dict.fromkeys(others, 1), survivor: 2, deadly: 3}


@pytest.mark.slow
@pytest.mark.soak
def test_workers_that_are_killed_in_the_middle_lose_no_event(deployment: Deployment) -> None:
    beat(deployment)
    sent = [publish("counted.slowly", {"seconds": 0.02}) for _ in range(300)]
    killed_at = []
    for turn in range(4):
        worker = deployment.worker(f"a{turn}", 2)
        before = len(runs(deployment))
        wait_until(lambda before=before: len(runs(deployment)) >= before + 30, 30)  # type: ignore[misc]
        deployment.kill(worker)
        killed_at.append(len(runs(deployment)))
    assert killed_at[-1] < 300
    deployment.worker("last", 2)
    wait_until(lambda: set(runs(deployment)) == set(sent), 60, lambda: str(len(runs(deployment))))
    wait_until(lambda: deployment.waiting_messages() == 0 and store().overview().unfinished == 0)
    again = [event_id for event_id, times in runs(deployment).items() if times > 1]
    assert len(again) <= 4 * 2  # what a killed process had just done, and could not say any more


@pytest.mark.slow
def test_a_process_of_a_worker_that_is_killed_costs_no_event(deployment: Deployment) -> None:
    worker = deployment.worker("a", 2)
    sent = [publish("counted.slowly", {"seconds": 0.05}) for _ in range(100)]
    for least in (10, 30):
        wait_until(lambda least=least: len(runs(deployment)) >= least)  # type: ignore[misc]
        os.kill(sorted(descendants(worker.pid))[0], signal.SIGKILL)
    wait_until(lambda: set(runs(deployment)) == set(sent), 60)


class TestWithABrokerThatFails:
    @pytest.fixture
    def broker(self, tmp_path: Path) -> Iterator[Broker]:
        with Processes() as processes:
            yield Broker(processes, tmp_path)

    @pytest.fixture
    def broker_server(self, broker: Broker) -> str:
        return broker.url

    @pytest.mark.slow
    @pytest.mark.soak
    def test_a_broker_that_restarts_in_the_middle_loses_no_event_and_no_worker(
        self, deployment: Deployment, broker: Broker
    ) -> None:
        beat(deployment)
        sent = [publish("counted.slowly", {"seconds": 0.01}) for _ in range(300)]
        workers = [deployment.worker(name, 2) for name in "ab"]
        for least in (20, 60, 100):
            wait_until(lambda least=least: len(runs(deployment)) >= least, 30)  # type: ignore[misc]
            before = [_complaints(worker) for worker in workers]
            broker.crash()
            wait_until(
                lambda before=before: all(_complaints(w) > n for w, n in zip(workers, before, strict=True))  # type: ignore[misc]
            )
            broker.restart()
            sent += [publish("counted.slowly", {"seconds": 0.01}) for _ in range(20)]
        wait_until(lambda: set(runs(deployment)) == set(sent), 90, lambda: str(len(runs(deployment))))
        assert [worker.process.poll() for worker in workers] == [None, None]
        wait_until(lambda: deployment.waiting_messages() == 0)

    @pytest.mark.slow
    def test_after_the_broker_forgot_everything_the_next_event_arrives(
        self, deployment: Deployment, broker: Broker
    ) -> None:
        deployment.worker("a", 2)
        first = publish("counted.thing", {})
        wait_until(lambda: runs(deployment) == {first: 1})
        for _ in range(3):
            broker.flush()
            next_ = publish("counted.thing", {})
            wait_until(lambda next_=next_: next_ in runs(deployment))  # type: ignore[misc]


def _complaints(worker: Child) -> int:
    """How often the worker said that its broker is away."""
    log = worker.log.read_text(errors="replace")
    return log.count("Connection to broker lost") + log.count("Cannot connect to")


@pytest.mark.slow
def test_what_a_killed_worker_held_is_given_back_by_one_that_serves_no_events(
    deployment: Deployment,
) -> None:
    # Given a worker that died between taking an event and sending it on
    event_id = publish("counted.thing", {})
    settings = deployment.settings
    deployment.start("warm", "worker", "-q", "warm", "--name", "warm", ready=" ready.")
    with redis.Redis.from_url(settings.broker()) as client:
        raw = client.rpop(names.queue(settings.namespace, "published"))
        held = {name: names.queue(settings.namespace, name) for name in ("unacked", "unacked_index")}
        client.hset(
            held["unacked"],
            "a tag",
            b"[%s, %s, %s]" % (raw, b'"%s.events"' % settings.namespace.encode(), b'"counted.thing"'),
        )
        client.zadd(held["unacked_index"], {"a tag": time.time() - 60})
    # When only a worker of another queue is there, then it gives the event back
    wait_until(lambda: waiting(settings) == 1, 20)
    deployment.worker("a", 2)
    wait_until(lambda: runs(deployment) == {event_id: 1})

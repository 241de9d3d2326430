"""The cache's own events: told by whoever begins a new life, and noticed by beat's task otherwise; once each."""

import base64
import json
import os
import signal
from typing import Any

import pytest
import redis

from stoker import tasks
from stoker.cache import CacheMonitor
from stoker.cache.keys import ShardKeys
from stoker.cache.lives import Lives
from stoker.config import Settings, open_cache
from stoker.tasks import engine_events, names, runtime
from stoker.tasks.watch import look
from stoker.worker.embedded import embedded_server
from tests.tasks.pressing import used
from tests.tasks.reacting import counts
from tests.tasks.test_send import CLOSED
from tests.waiting import wait_until, within


def published(settings: Settings) -> list[dict[str, Any]]:
    """The events that no worker has taken, oldest first."""
    with redis.Redis.from_url(settings.broker()) as client:
        raw = client.lrange(names.queue(settings.namespace, "published"), 0, -1)
    return [json.loads(base64.b64decode(json.loads(message)["body"])) for message in reversed(raw)]


def lose_the_ban_log(settings: Settings) -> None:
    with redis.Redis.from_url(str(settings.cache_url)) as client:
        client.delete(ShardKeys(settings.namespace).ctl)


def test_a_new_life_is_published_by_the_process_that_began_it_and_not_again_by_the_watch(
    here: runtime.Runtime,
) -> None:
    with open_cache(here.settings, tasks.hooks) as app:
        app.set("k", 1)
        [first] = wait_until(lambda: published(here.settings))
        assert look(here) == []
        lose_the_ban_log(here.settings)
        assert app.get("k") is None
        wait_until(lambda: len(published(here.settings)) == 2)
        _, second = published(here.settings)
    assert (second["name"], second["payload"]["shard"]) == ("cache.cold", 0)
    assert first["id"] != second["id"] == f"cold.{second['payload']['incarnation']}.0"
    assert look(here) == ["cache.cold"]
    assert {event["id"] for event in published(here.settings)} == {first["id"], second["id"]}


def test_a_new_life_that_a_process_without_hooks_began_is_noticed(here: runtime.Runtime) -> None:
    with open_cache(here.settings) as app:
        app.set("k", 1)
        assert (look(here), look(here)) == ([], [])
        lose_the_ban_log(here.settings)
        app.set("k", 1)
        assert (look(here), look(here)) == (["cache.cold"], [])
    assert published(here.settings)[0]["payload"]["reason"] == "seen"


def test_memory_above_the_high_mark_is_told_once_until_it_was_below(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.5, 0.95, 0.95, 0.85, 0.5, 0.85, 0.95])  # 0.85 is between the marks
    monkeypatch.setattr(CacheMonitor, "get_node", lambda _: used(next(shares)))
    told = [look(here) for _ in range(7)]
    assert told == [[], ["cache.pressure"], [], [], [], [], ["cache.pressure"]]
    ids = [event["id"] for event in published(here.settings) if event["name"] == "cache.pressure"]
    assert len(set(ids)) == 2


def test_another_server_process_is_told_with_those_before(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter([Lives(("a1",), frozenset({"x"})), Lives(("b2",), frozenset({"y"}))])
    monkeypatch.setattr(CacheMonitor, "get_lives", lambda _: next(seen))
    assert look(here) == []
    assert look(here) == ["cache.cold", "nodes.changed"]
    [changed] = [event for event in published(here.settings) if event["name"] == "nodes.changed"]
    assert (changed["payload"]["before"], changed["payload"]["now"]) == (["x"], ["y"])


def test_what_could_not_be_published_is_told_by_the_next_look(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.5, 0.95, 0.95])
    monkeypatch.setattr(CacheMonitor, "get_node", lambda _: used(next(shares)))
    look(here)
    tasks.configure(
        here.settings.model_copy(update={"broker_url": CLOSED, "state_url": here.settings.state()})
    )
    with pytest.raises(tasks.NotSent):
        look(runtime.current())
    tasks.configure(here.settings)
    assert look(runtime.current()) == ["cache.pressure"]


def test_a_last_look_that_cannot_be_read_counts_as_none(here: runtime.Runtime) -> None:
    look(here)
    here.events.write_look({"servers": "[[", "crossings": "x"})
    lose_the_ban_log(here.settings)
    assert (look(here), look(here)) == ([], [])


def test_the_task_makes_the_rules_of_its_worker_known(here: runtime.Runtime) -> None:
    tasks.on_event("user.*")(counts)
    assert tasks.watch.apply().result == {"published": []}
    assert here.events.overview().rules == {"tests.tasks.reacting:counts": "user.*"}


def test_a_reader_does_not_wait_for_a_broker_that_is_frozen(settings: Settings) -> None:
    with embedded_server("broker") as server:
        frozen = settings.model_copy(update={"broker_url": server.url})
        tasks.configure(frozen)
        os.kill(server.child.pid, signal.SIGSTOP)
        with open_cache(frozen, tasks.hooks) as app:

            def begin_anew() -> None:
                lose_the_ban_log(frozen)
                app.set("k", 1)

            within(0.5, begin_anew)
        os.kill(server.child.pid, signal.SIGCONT)
        wait_until(lambda: published(frozen))
        runtime.current().close()


def test_the_engines_events_of_a_cache_of_another_namespace_are_not_published(
    here: runtime.Runtime, namespace: str
) -> None:
    other = here.settings.model_copy(update={"namespace": f"{namespace}-other"})
    with open_cache(other, tasks.hooks) as app:
        app.set("k", 1)
    engine_events._post.wait(5)
    assert published(here.settings) == published(other) == []

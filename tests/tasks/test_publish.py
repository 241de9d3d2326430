"""Publishing events: what is refused, that none is lost in between, and that nobody hangs."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from stoker.config import Settings
from stoker.tasks import InvalidArguments, configure, names, publish, runtime
from stoker.worker.embedded import Server, embedded_server
from tests.tasks.reacting import an_event, nested
from tests.tasks.test_send import CLOSED, WITHIN_S_IF_CLOSED, WITHIN_S_IF_FROZEN, is_not_sent_within


def published(settings: Settings) -> int:
    with redis.Redis.from_url(settings.broker()) as client:
        return int(client.llen(names.queue(settings.namespace, "published")))


@pytest.fixture
def own_broker(settings: Settings) -> Iterator[Server]:
    """A broker of this test alone, at which this process publishes."""
    with embedded_server("broker") as server:
        configure(settings.model_copy(update={"broker_url": server.url}))
        yield server
        runtime.current().close()


def test_an_event_waits_for_the_first_worker_there_ever_is(producer: Settings) -> None:
    event_id = publish("user.updated", {"id": 7, "tags": ("a", "b")}, tenant_id="acme")
    with redis.Redis.from_url(producer.broker()) as client:
        (raw,) = client.lrange(names.queue(producer.namespace, "published"), 0, -1)
    assert json.loads(raw)["properties"]["delivery_info"]["routing_key"] == "user.updated"
    assert runtime.current().events.overview().unfinished == 1
    assert event_id


def test_after_a_flush_of_the_broker_a_process_that_had_published_before_loses_nothing(
    own_broker: Server,
) -> None:
    here = runtime.current().settings
    for _ in range(3):
        publish("user.updated", {})
        assert published(here) == 1
        with redis.Redis.from_url(own_broker.url) as client:
            client.flushall()


def test_events_of_one_id_are_one_event(producer: Settings) -> None:
    assert publish("user.updated", {}, event_id="order-7.paid") == "order-7.paid"
    runtime.current().events.accept(
        an_event().model_copy(update={"id": "order-7.paid"}), []
    )  # as a worker does
    publish("user.updated", {}, event_id="order-7.paid")
    assert published(producer) == 1


NESTED: list[Any] = []
NESTED.append(NESTED)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": ""}, "name='': must be words of"),
        ({"name": "user..updated"}, "must be words of"),
        ({"name": "user.*"}, "with dots between, such as user.updated"),
        ({"name": "u" * 129}, "of 128 characters at most"),
        ({"name": 7}, "name=7: Input should be a valid string"),
        ({"payload": [1]}, "payload=[1]: give a mapping"),
        ({"payload": None}, "give a mapping, such as {'id': 7}"),
        ({"payload": {"a": object()}}, "payload: it is no JSON"),
        ({"payload": {"a": float("nan")}}, "payload: it is no JSON"),
        ({"payload": {"a": NESTED}}, "payload: it is no JSON"),
        ({"payload": {"a": nested(100)}}, "the payload is nested more than 100 levels deep"),
        ({"payload": {"a": nested(600)}}, "the payload is nested more than 100 levels deep"),
        ({"payload": {"a": nested(2000)}}, "payload: it is no JSON"),
        ({"payload": {"a": "\ud800"}}, "the payload is no JSON ('utf-8' codec can't encode"),
        ({"payload": {"\ud800": 1}}, "the payload is no JSON ('utf-8' codec can't encode"),
        ({"payload": {"a": [{"__type__": "foo", "__value__": 1}]}}, "just the keys __type__ and __value__"),
        ({"payload": {"__type__": "decimal", "__value__": "1"}}, "just the keys __type__ and __value__"),
        ({"payload": {"a": "x" * 70_000}}, "the payload is 70,008 bytes of JSON; at most 65,536"),
        ({"tenant_id": ""}, "tenant_id '': must not be empty"),
        ({"event_id": "a:b"}, "id='a:b': must be 1 to 128 of"),
        ({"event_id": ""}, "must be 1 to 128 of"),
    ],
)
def test_what_no_rule_could_be_given_is_refused_where_it_is_published(
    producer: Settings, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidArguments) as refused:
        publish(**{"name": "user.updated", "payload": {}, **arguments})
    assert told in str(refused.value)
    assert published(producer) == 0


@pytest.mark.parametrize("state", ["with it", "elsewhere"])
def test_with_the_broker_down_publishing_fails_at_once_and_leaves_nothing(
    settings: Settings, broker_server: str, state: str
) -> None:
    elsewhere = broker_server if state == "elsewhere" else None
    configure(settings.model_copy(update={"broker_url": CLOSED, "state_url": elsewhere}))
    is_not_sent_within(WITHIN_S_IF_CLOSED, lambda: publish("user.updated", {}), r"event user\.updated")
    if elsewhere:
        assert runtime.current().events.overview().unfinished == 0
    runtime.current().close()


def test_with_the_broker_frozen_publishing_fails_soon_and_works_again_at_once_after(
    own_broker: Server,
) -> None:
    publish("user.updated", {})
    os.kill(own_broker.child.pid, signal.SIGSTOP)
    is_not_sent_within(WITHIN_S_IF_FROZEN, lambda: publish("user.updated", {}), r"event user\.updated")
    os.kill(own_broker.child.pid, signal.SIGCONT)
    publish("user.updated", {})

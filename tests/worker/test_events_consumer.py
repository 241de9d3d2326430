"""What the worker's main process does with messages that anybody can put on the exchange of events."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from stoker.config import Settings
from stoker.tasks import configure, events, names, runtime
from stoker.tasks.app import app
from stoker.tasks.publish import declare, incoming
from stoker.worker.consumer import EventConsumer
from tests.tasks.reacting import an_event, nested


@pytest.fixture
def settings(cache_server: str, broker_server: str, namespace: str) -> Iterator[Settings]:
    given = Settings(cache_url=cache_server, broker_url=broker_server, namespace=namespace)
    configure(given)
    yield given
    runtime.current().close()


def hand_on(settings: Settings, *bodies: str) -> list[dict[str, Any]]:
    """Put each on the exchange and have the consumer's step take it; returns the events that it sent on."""
    step = EventConsumer(None)
    step._lost = ()
    with app.connection_for_write() as connection, connection.channel() as channel:
        queue, producer = incoming(settings), connection.Producer(channel)
        declare(queue, channel)
        for body in bodies:
            producer.publish(
                body,
                exchange=queue.exchange,
                routing_key="x",
                content_type="application/json",
                content_encoding="utf-8",
            )
            message = queue(channel).get(accept=["json"])
            assert message is not None
            step.hand_on(message)
            assert message.acknowledged
    with redis.Redis.from_url(settings.broker()) as client:
        raw = client.lrange(names.queue(settings.namespace, "events"), 0, -1)
        assert client.hlen(names.queue(settings.namespace, "unacked")) == 0
    sent = [json.loads(base64.b64decode(json.loads(message)["body"])) for message in reversed(raw)]
    return [arguments["event"] for _, arguments, _ in sent]


def with_levels(levels: int) -> str:
    fields = an_event().model_dump_json().replace("{}", '{"a": %s}')
    return fields % ("[" * levels + "]" * levels)


def test_what_is_nested_too_deeply_is_no_event_and_what_may_be_published_is_one(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    too_deep = [100, 300, *range(850, 1000, 4), 5000, 100_000]
    [event] = hand_on(settings, *map(with_levels, too_deep), with_levels(99))
    assert event["payload"] == {"a": nested(99)}
    assert events.parse(event).payload == event["payload"]
    assert caplog.text.count("what is no event is dropped") == len(too_deep)


def test_what_can_be_read_and_not_be_written_again_is_no_event(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "is_nested_too_deeply", lambda *_: False)
    depths = range(500, 1000, 2)
    sent = hand_on(settings, *map(with_levels, depths))
    assert len(sent) + caplog.text.count("what is no event is dropped") == len(depths)


@pytest.mark.parametrize("body", ["", "7", "[]", "null", "{", '{"a": {"__type__": "foo", "__value__": 1}}'])
def test_what_is_no_mapping_is_no_event(settings: Settings, body: str) -> None:
    assert hand_on(settings, body) == []

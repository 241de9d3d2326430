"""What lies in a queue and is no message, or no task's: a worker drops it, says so, and goes on."""

import json
from typing import Any

import pytest
import redis
from kombu import Connection, Producer

from stoker.tasks import names, send
from tests.flow.conftest import Deployment

NO_MESSAGES = [
    *(b"junk", b"", b"{}", b"[]", b"null", b"7", b"\xff\xfe", b'{"body": 7}', b"[" * 100_000),
    b'{"body": "x", "headers": {}, "properties": {}}',
]
BODY: list[Any] = [[], {"pattern": "x*"}, {}]
BODIES: list[Any] = [7, None, "x", [], [[]], [7, 8, 9], [[], [1], {}], [[], {}, 7]]
HEADERS: list[dict[str, Any]] = [
    *({"id": 7}, {"id": [1]}, {"id": None}),
    *({"task": 7}, {"task": [7]}, {"task": None}, {"task": "stoker.nonsense"}),
    *({"eta": "x"}, {"eta": 7}, {"eta": [7]}, {"expires": "x"}, {"expires": []}),
    {"retries": "x", "root_id": 7, "lang": "cobol"},
]
NO_TASKS = [*((body, {}) for body in BODIES), *((BODY, headers) for headers in HEADERS)]


@pytest.mark.slow
@pytest.mark.soak
def test_a_worker_outlives_what_is_no_message_and_what_is_no_tasks(deployment: Deployment) -> None:
    worker = deployment.worker()
    queue = names.queue(deployment.settings.namespace, "invalidate")
    with redis.Redis.from_url(deployment.settings.broker()) as client:
        for raw in NO_MESSAGES:
            client.lpush(queue, raw)
    with Connection(deployment.settings.broker()) as connection:
        for body, headers in NO_TASKS:
            Producer(connection).publish(
                json.dumps(body).encode(),
                routing_key=queue,
                exchange="",
                content_type="application/json",
                content_encoding="utf-8",
                headers={"task": names.INVALIDATE, "id": "an id", **headers},
            )
    assert send.invalidate_pattern("user:*").wait(timeout=60).state == "succeeded"
    assert worker.process.poll() is None

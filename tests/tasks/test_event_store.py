"""What is written down about events: claims, the lists and their bounds, and what somebody else wrote there."""

import time

import pytest
import redis

from stoker.config import Settings
from stoker.tasks import Event, event_store, runtime
from stoker.tasks.event_store import Claimed, EventStore, NotClaimed
from tests.tasks.conftest import brief_locks
from tests.tasks.reacting import an_event
from tests.waiting import wait_until

COUNTS = "tests.tasks.reacting:counts"
RAISES = "tests.tasks.reacting:raises"


@pytest.fixture
def store(producer: Settings) -> EventStore:
    assert producer
    return runtime.current().events


def test_the_oldest_dead_letters_make_room_and_that_is_counted(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.tasks.event_store.MOST_DEAD", 3)
    for number in range(5):
        store.refuse({"number": number}, "no event")
    assert len(store.dead()) == 3
    assert store.overview().counts[("dropped", "")] == 2


def test_a_rule_that_no_worker_has_told_of_for_a_day_is_listed_no_longer(
    store: EventStore, producer: Settings
) -> None:
    store.announce({"gone": "x", "lately": "y"})
    with redis.Redis.from_url(producer.state()) as client:
        day_ago = (time.time() - event_store.DAY_MS / 1000) * 1000
        for rule, told in (("gone", day_ago - 60_000), ("lately", day_ago + 60_000)):
            client.hset(f"{producer.namespace}:events:rules", rule, f"x|{told:.0f}")
    store.announce({"here": "y.#"})
    assert store.overview().rules == {"here": "y.#", "lately": "x"}


@brief_locks
def test_two_workers_do_not_run_one_rule_at_once_and_a_killed_ones_claim_ends(
    store: EventStore, lock_ttl: float
) -> None:
    event = an_event()
    first = store.claim(event, COUNTS)
    assert isinstance(first, Claimed)
    busy = store.claim(event, COUNTS)
    assert isinstance(busy, NotClaimed)
    assert busy.reason == "busy"
    assert 0 < busy.wait <= lock_ttl
    assert isinstance(store.claim(event, RAISES), Claimed)
    # When the first has died
    second = wait_until(lambda: _claimed(store, event))
    assert (second.runs, store.hold(event, COUNTS, first.token)) == (2, False)
    # Then it can say nothing any more
    assert not store.end(event, COUNTS, first.token, "dead", "late")
    assert store.hold(event, COUNTS, second.token)
    assert store.end(event, COUNTS, second.token, "done")
    assert store.claim(event, COUNTS) == NotClaimed("done")


def _claimed(store: EventStore, event: Event) -> Claimed | None:
    claim = store.claim(event, COUNTS)
    return claim if isinstance(claim, Claimed) else None


def test_records_that_somebody_else_wrote_end_no_look_at_the_others(
    store: EventStore, producer: Settings
) -> None:
    event = an_event()
    for how in ("junk", "[]", "[" * 100_000, "deep"):
        store.refuse({"how": how}, "refused")
    store.open(event)
    with redis.Redis.from_url(producer.state(), decode_responses=True) as client:
        for key in client.scan_iter(f"{producer.namespace}:event:*"):
            client.hset(key, mapping={"event": "[" * 100, "runs": "x", "died_at": "never"})
        deep = '{"a":' + "[" * 300 + "]" * 300 + "}"
        client.hset(f"{producer.namespace}:event:deep:", mapping={"event": deep, "rule": ""})
        client.pexpire(f"{producer.namespace}:event:deep:", 60_000)
        client.zadd(
            f"{producer.namespace}:events:open", {f"{event.id}:": 0, "nobody:": 0, "junk": 0, "deep:": 0}
        )
        client.hset(f"{producer.namespace}:events:counts", "done|x", "many")
    assert list(store.overdue()) == []
    assert all("its record is damaged" in letter.error for letter in store.dead())
    assert store.overview().unfinished == 0

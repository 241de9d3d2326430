"""Reacting to events: each rule once for each event, whatever other rules, other workers and the servers do."""

import base64
import json
import sys
import time
from decimal import Decimal
from typing import Any

import pytest
import redis

from stoker import tasks
from stoker.config import EventSettings, Settings
from stoker.tasks import (
    InvalidArguments,
    configure,
    event_store,
    names,
    on_event,
    publish,
    rules,
    runtime,
    send,
)
from stoker.tasks.event_record import DeadLetter
from stoker.tasks.event_store import Claimed, EventStore
from stoker.tasks.react import replay
from tests.tasks import reacting
from tests.tasks.conftest import brief_locks
from tests.tasks.reacting import RAN, an_event, react
from tests.tasks.test_send import CLOSED
from tests.waiting import wait_until

COUNTS = "tests.tasks.reacting:counts"
RAISES = "tests.tasks.reacting:raises"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"event": EventSettings(tries=2, backoff=0.1)})


@pytest.fixture
def store(producer: Settings) -> EventStore:
    assert producer
    RAN.clear()
    return runtime.current().events


def sent(settings: Settings) -> list[dict[str, Any]]:
    """The messages in the queue of the task, oldest first: their arguments. They are taken."""
    with redis.Redis.from_url(settings.broker()) as client:
        name = names.queue(settings.namespace, "events")
        raw = client.lrange(name, 0, -1)
        client.delete(name)
    bodies = [json.loads(base64.b64decode(json.loads(message)["body"])) for message in reversed(raw)]
    return [body[1] for body in bodies]


def run_all(settings: Settings) -> int:
    """Run what is sent, and what that sends, as workers would; returns how many there were."""
    count = 0
    while messages := sent(settings):
        for message in messages:
            react(message["event"], message.get("rule"))
            count += 1
    return count


def letters(store: EventStore) -> dict[str, DeadLetter]:
    return {letter.rule: letter for letter in store.dead()}


def test_a_rule_runs_once_for_an_event_however_often_that_is_delivered(store: EventStore) -> None:
    on_event("user.updated")(reacting.counts)
    event = an_event()
    for _ in range(3):
        assert react(event) == "SUCCESS"
        react(event, COUNTS)
    assert RAN[event.id] == 1
    overview = store.overview()
    assert (overview.counts[("done", COUNTS)], overview.counts[("again", "")]) == (1, 2)
    assert (overview.unfinished, overview.recent[0].name) == (0, "user.updated")


def test_a_rule_that_raises_is_tried_again_and_then_a_dead_letter_and_holds_up_no_other(
    store: EventStore, producer: Settings
) -> None:
    on_event("user.*")(reacting.raises)
    on_event("user.updated")(reacting.counts)
    event = an_event(tenant_id="acme", id=7)
    assert react(event) == "SUCCESS"
    assert run_all(producer) == 3  # each rule, and the first once more
    assert store.overview().counts == {("done", COUNTS): 1, ("failed", RAISES): 1, ("dead", RAISES): 1}
    assert store.overview().unfinished == 0
    letter = letters(store)[RAISES]
    assert (letter.id, letter.name, letter.event["payload"], letter.runs) == (
        event.id,
        event.name,
        {"id": 7},
        2,
    )
    assert letter.error == "ValueError: no coal"
    assert letter.began_at is not None
    assert letter.began_at <= letter.died_at <= time.time() + 1
    react(event, RAISES)
    assert RAN[event.id] == 3


def test_a_dead_letter_can_be_run_again_and_is_off_the_list_once_it_is_done(
    store: EventStore, producer: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_event("user.updated")(reacting.raises)
    event = an_event()
    react(event)
    run_all(producer)
    replay(letters(store)[RAISES])
    assert letters(store) == {}
    run_all(producer)
    assert letters(store)[RAISES].runs == 2
    replay(letters(store)[RAISES])
    monkeypatch.setitem(rules._registered, RAISES, rules.Rule(RAISES, ("#",), reacting.counts))
    run_all(producer)
    assert (letters(store), store.overview().counts[("done", RAISES)]) == ({}, 1)


def test_a_replayed_run_that_dies_at_once_is_listed_again(
    store: EventStore, producer: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_event("user.updated")(reacting.raises)
    react(an_event())
    run_all(producer)
    first = letters(store)[RAISES]

    def forget_late(self: EventStore, letter: DeadLetter) -> None:
        run_all(producer)
        forget(self, letter)

    forget = EventStore.forget
    monkeypatch.setattr(EventStore, "forget", forget_late)
    replay(first)
    assert letters(store)[RAISES].died_at > first.died_at


def test_what_could_not_be_run_is_not_replayed_and_stays(store: EventStore, producer: Settings) -> None:
    store.refuse("no mapping", "refused")
    store.refuse({"id": "deep", "payload": reacting.nested(500)}, "refused")
    for letter in store.dead():
        with pytest.raises(InvalidArguments, match="valid dictionary"):
            replay(letter)
    assert (len(store.dead()), store.overview().unfinished, sent(producer)) == (2, 0, [])


def test_a_dead_letter_that_cannot_be_sent_stays(store: EventStore, producer: Settings) -> None:
    on_event("user.updated")(reacting.raises)
    react(an_event())
    run_all(producer)
    letter = letters(store)[RAISES]
    configure(producer.model_copy(update={"broker_url": CLOSED, "state_url": producer.state()}))
    with pytest.raises(Exception, match="was not sent"):
        replay(letter)
    assert letters(runtime.current().events)[RAISES].event == letter.event


def test_what_is_no_event_of_this_version_is_a_dead_letter_and_not_sent_again(
    store: EventStore, producer: Settings
) -> None:
    fields = an_event().model_dump()
    for found in (
        {},
        {"name": 7},
        {**fields, "payload": "x"},
        {**fields, "more": 1},
        {**fields, "version": 2},
        {**fields, "id": "deep", "payload": {"a": reacting.nested(900)}},
        {**fields, "id": "half", "payload": {"a": "\ud800"}},
        {**fields, "id": "marked", "payload": {"a": {"__type__": "foo", "__value__": 1}}},
        {**fields, "id": "decimal", "payload": {"a": Decimal(1)}},
    ):
        assert react(found) == "SUCCESS"
    assert {letter.rule for letter in store.dead()} == {""}
    assert "version=2: Input should be 1" in "".join(letter.error for letter in store.dead())
    found = {letter.id: letter for letter in store.dead()}
    assert (len(found), store.overview().unfinished) == (7, 0)  # three of them have one id
    assert found["decimal"].event["payload"] == {"a": {"__type__": "decimal", "__value__": "1"}}
    for event_id in found.keys() - {"deep", "marked"}:
        replay(found[event_id])
    assert run_all(producer) == 5
    assert len(store.dead()) == 7


def test_an_event_without_a_rule_is_counted_and_done(store: EventStore) -> None:
    react(an_event("nobody.cares"))
    overview = store.overview()
    assert overview.counts == {("unmatched", ""): 1}
    assert (overview.recent[0].outcome, overview.unfinished) == ("unmatched", 0)


def test_what_is_to_be_warmed_is_not_sent_before_its_invalidation_is_acknowledged(
    store: EventStore, producer: Settings
) -> None:
    # Given a cache that does not answer
    on_event("item.changed")(reacting.invalidates_and_warms)
    event = an_event("item.changed", number=7)
    configure(producer.model_copy(update={"cache_url": CLOSED}))
    react(event)
    # Then nothing is warmed, and the rule is put off, which is no failure of its own
    assert runtime.current().jobs.recent(9) == []
    [message] = sent(producer)
    configure(producer)
    # When the cache answers again, then both are done, in a job that joins none from before
    before = runtime.current().cache
    before.set("reacting:7", "old")
    other = send.warm(["reacting:7"])
    react(message["event"], message["rule"])
    assert before.get("reacting:7") is None
    jobs = [job for job in runtime.current().jobs.recent(9) if job.kind == "warm"]
    assert (len(jobs), other.id in {job.id for job in jobs}) == (2, True)
    assert store


def test_a_cache_that_stays_away_costs_no_try_of_the_rule_and_in_the_end_makes_a_dead_letter(
    store: EventStore, producer: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["stoker.tasks.react"], "MAX_TRIES", 4)
    on_event("user.updated")(reacting.invalidates)
    configure(producer.model_copy(update={"cache_url": CLOSED}))
    react(an_event(id=7))
    assert run_all(producer) == 4
    [letter] = runtime.current().events.dead()
    assert "InvalidationNotAcknowledged" in letter.error
    assert store


def test_without_the_state_server_an_event_is_put_off_as_it_came(producer: Settings) -> None:
    on_event("user.updated")(reacting.counts)
    configure(producer.model_copy(update={"state_url": CLOSED}))
    event = an_event()
    assert react(event) == "SUCCESS"
    [message] = sent(producer)
    assert (message["event"]["id"], message["waits"], RAN[event.id]) == (event.id, 1, 0)


def test_without_the_state_server_a_refused_event_is_put_off_likewise(producer: Settings) -> None:
    configure(producer.model_copy(update={"state_url": CLOSED}))
    unknown = an_event().model_dump() | {"version": 2}
    assert react(unknown) == "SUCCESS"
    assert sent(producer) == [{"event": unknown, "waits": 1}]
    # And so is what is none of our messages
    assert tasks.react.apply(kwargs={"event": 7, "waits": "x"}).state == "SUCCESS"
    assert sent(producer) == [{"event": 7, "waits": 1}]
    configure(producer)
    assert tasks.react.apply(kwargs={"event": 7, "waits": 1}).state == "SUCCESS"
    assert [letter.event for letter in runtime.current().events.dead()] == [7]


def test_runs_that_invalidate_and_warm_the_same_join_no_warm_of_each_other(
    store: EventStore, producer: Settings
) -> None:
    on_event("item.changed")(reacting.invalidates_and_warms)
    again = rules.Rule("another", ("item.changed",), reacting.invalidates_and_warms)
    rules._registered[again.name] = again
    event = an_event("item.changed", number=7).model_copy(update={"id": "x" * 128})
    react(event)
    run_all(producer)
    # And a run whose process was killed before it could say that it was done
    with redis.Redis.from_url(producer.state()) as client:
        client.delete(f"{producer.namespace}:event:{event.id}:{again.name}")
    react(event, again.name)
    jobs = [job for job in runtime.current().jobs.recent(9) if job.kind == "warm"]
    assert (len(jobs), store.dead()) == (3, [])


def test_a_rule_that_changes_its_event_is_tried_again_with_what_was_published(
    store: EventStore, producer: Settings
) -> None:
    on_event("user.updated")(reacting.changes_its_event)
    react(an_event(tags=["a"]))
    [message] = sent(producer)
    assert message["event"]["payload"] == {"tags": ["a"]}
    assert store


def test_an_action_of_an_apps_own_is_a_failure_of_its_rule_and_nothing_of_it_is_done(
    store: EventStore, producer: Settings
) -> None:
    on_event("item.changed")(reacting.wants_the_unknown)
    cache = runtime.current().cache
    cache.set("reacting:7", "kept")
    react(an_event("item.changed", number=7))
    run_all(producer)
    [letter] = store.dead()
    assert letter.error.startswith("InvalidArguments: Unknown: there is no such action; use Invalidate,")
    assert cache.get("reacting:7") == "kept"


@brief_locks
def test_a_rule_whose_runs_all_die_is_given_up(store: EventStore, producer: Settings) -> None:
    on_event("user.updated")(reacting.counts)
    event = an_event()
    for _ in range(2):
        wait_until(lambda: isinstance(store.claim(event, COUNTS), Claimed))
    wait_until(lambda: (react(event, COUNTS), store.dead())[1])
    assert store.dead()[0].error.startswith(
        "given up after 2 runs; each was killed or ran into its time limit"
    )
    assert RAN[event.id] == 0
    assert producer


@brief_locks
def test_a_claim_is_renewed_while_the_rule_runs(store: EventStore, lock_ttl: float) -> None:
    def slow(_event: Any) -> None:
        until = time.monotonic() + 1.5 * lock_ttl
        wait_until(lambda: time.monotonic() > until)
        seen.append(store.claim(event, "slow"))

    seen: list[Any] = []
    event = an_event()
    rules._registered["slow"] = rules.Rule("slow", ("#",), slow)
    react(event, "slow")
    assert [claim.reason for claim in seen] == ["busy"]


@brief_locks
@pytest.mark.parametrize("lost", ["the event", "what a rule was sent"])
def test_what_a_killed_worker_had_taken_from_the_broker_is_sent_again(
    producer: Settings, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_store, "LOOK_AFTER", 1)
    store = runtime.current().events
    RAN.clear()
    on_event("user.updated")(reacting.counts)
    on_event("user.#")(reacting.raises)
    event_id = publish("user.updated", {})
    if lost == "what a rule was sent":
        with redis.Redis.from_url(producer.state(), decode_responses=True) as client:
            event = client.hget(f"{producer.namespace}:event:{event_id}:", "event")
        react(json.loads(str(event)))
    sent(producer)  # which is lost
    wait_until(lambda: tasks.reap.apply().result != {"sent": 0})
    run_all(producer)
    assert RAN[event_id] == 3
    assert store.overview().unfinished == 0

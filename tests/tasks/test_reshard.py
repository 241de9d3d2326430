"""`stoker.reshard`: what the job does besides the change, how it goes on, and why it is refused."""

from collections.abc import Iterator
from typing import Any

import pytest

from stoker.cache import Cache
from stoker.cache.reshard import Change
from stoker.config import Settings, open_cache
from stoker.tasks import configure, hot_keys, names, runtime, send
from stoker.tasks.errors import InvalidArguments, NotSent
from tests.tasks.hostile import run

KEYS = [f"fuzzed:{n}" for n in range(20)]


@pytest.fixture
def app(here: runtime.Runtime) -> Iterator[Cache]:
    """The cache of an app, in another process than the tasks."""
    with open_cache(here.settings) as opened:
        yield opened


def test_what_was_hot_is_warmed_again_and_what_was_stored_is_swept(app: Cache, here: runtime.Runtime) -> None:
    app.set_many(dict.fromkeys(KEYS, 1))
    for key in KEYS:
        app.get(key)
    app._do(app._core.flush_traffic())
    state, report = run(names.RESHARD, {"num_shards": 4, "pin": {"acme": 2}}, "a")
    assert (state, report["num_shards"], report["pins"], report["before"]) == ("SUCCESS", 4, {"acme": 2}, 1)
    assert sorted(job.kind for job in here.jobs.recent(10)) == ["reshard", "sweep", "warm"]
    assert app.get_many(KEYS) == {}
    assert app.explain(KEYS[0], "acme")["shard"] == 2
    before = here.hot_snapshots.before(hot_keys.life_of(app))
    assert before is not None
    assert {key for _, key in before.keys} == set(KEYS)


def test_where_nothing_was_hot_nothing_is_warmed(app: Cache, here: runtime.Runtime) -> None:
    app.set("k", 1)
    assert run(names.RESHARD, {"num_shards": 4}, "a")[0] == "SUCCESS"
    assert sorted(job.kind for job in here.jobs.recent(10)) == ["reshard", "sweep"]


def test_a_change_that_was_made_has_not_failed_because_nothing_can_be_sent_after_it(
    app: Cache, here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise NotSent(names.SWEEP, "the broker is away")

    app.set("k", 1)
    monkeypatch.setattr(send, "sweep", refused)
    assert run(names.RESHARD, {"num_shards": 4}, "a")[0] == "SUCCESS"
    assert [(job.kind, job.state) for job in here.jobs.recent(10)] == [("reshard", "succeeded")]
    assert "the broker is away" in caplog.text


def test_a_run_that_follows_one_that_was_killed_after_the_change_keeps_the_hits(app: Cache) -> None:
    assert run(names.RESHARD, {"num_shards": 4}, "a")[1]["before"] == 1
    app.set("k", 1)
    assert run(names.RESHARD, {"num_shards": 4}, "b")[1]["before"] is None
    assert app.get("k") == 1


def test_one_that_goes_on_from_its_cursor_does_not_change_the_map_once_more(app: Cache) -> None:
    app.set("k", 1)
    steps = app.reshard_steps(Change(4))
    cursor = next(steps).cursor
    steps.close()
    app.reshard(8)  # by somebody else, meanwhile
    *_, last = app.reshard_steps(Change(4), cursor=cursor)
    assert (last.report.num_shards, last.report.before, last.last) == (4, 1, True)
    assert app._core.backend.placement.num_shards == 8


def test_a_worker_that_was_told_otherwise_fails_the_job_and_says_what_to_do(
    producer: Settings, app: Cache
) -> None:
    app.reshard(2)
    app.set("k", 1)
    configure(producer.model_copy(update={"num_shards": 2}))
    state, error = run(names.RESHARD, {"num_shards": 4}, "a")
    assert state == "FAILURE"
    assert "leave that out (STOKER_NUM_SHARDS)" in str(error)
    assert app.get("k") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "name what is to change"),
        ({"num_shards": 0}, "num_shards=0: Input should be greater than or equal to 1"),
        ({"num_shards": 1025}, "less than or equal to 1024"),
        ({"pin": {"": 1}}, "tenant_id '': must not be empty"),
        ({"pin": {"a": -1}}, "greater than or equal to 0"),
        ({"pin": {"a": 1}, "unpin": ["a"]}, "tenant 'a' is to be pinned and unpinned"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_it_is_sent(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArguments, match=told):
        names.check(names.RESHARD, arguments)

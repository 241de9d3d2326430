"""What is learned of hot keys: added up, aged, bounded, apart by tenant, and used for plans, replays and rewarming."""

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from celery import Task

from stoker import tasks
from stoker.cache import Cache, CacheUnavailable, keys, loader
from stoker.config import HotSettings, Settings
from stoker.config.warm_plans import make_plan
from stoker.tasks import StateUnavailable, hot_replay, hottest, names, plans, runtime, send, warm_plan
from stoker.tasks.hot_keys import hot_among, known, learn, life_of
from stoker.tasks.hot_store import HotKey
from stoker.tasks.invalidate import rewarm
from stoker.tasks.plan_store import Known
from tests.tasks.planning import CLOSED, run

HALF_LIFE = 100.0
SPAN = HALF_LIFE / 4


@pytest.fixture
def settings(settings: Settings) -> Settings:
    few = HotSettings(half_life=HALF_LIFE, keys=100, tenants=3, snapshot_every=86_400, replay=5)
    return settings.model_copy(update={"hot": few})


@loader("hot:{number}", tags=["hot", "number:{number}"])
def _load(number: int) -> int:
    return number


@pytest.fixture
def app(here: runtime.Runtime) -> Iterator[Cache]:
    """An app's cache, whose reads are learned from when it is closed."""
    with Cache(here.settings.cache_config()) as cache:
        yield cache


def pass_time(here: runtime.Runtime, seconds: float, tenant: str = "") -> None:
    """Let what was learned of a tenant be so much older."""
    client: Any = here.hot._redis
    key = keys.hot_tenants(here.settings.namespace)
    began, rest = client.hget(key, tenant).split(" ", 1)
    client.hset(key, tenant, f"{int(began) - round(seconds * 1000)} {rest}")


def names_of(found: list[HotKey]) -> list[tuple[str | None, str]]:
    return [(hot.tenant_id, hot.key) for hot in found]


def read_hot(here: runtime.Runtime, **reads: int) -> None:
    """Let keys of the shared key space have been read so often."""
    here.hot.merge({None: {f"hot:{key.removeprefix('n')}": count for key, count in reads.items()}})


def test_reads_are_added_up_by_tenant_and_told_with_their_rate_and_share(here: runtime.Runtime) -> None:
    here.hot.merge({None: {"a": 30, "b": 10}, "acme": {"a": 5}})
    here.hot.merge({None: {"a": 30, "b": 30}})
    found = known(here)
    assert names_of(found) == [(None, "a"), (None, "b"), ("acme", "a")]
    assert [round(hot.share, 2) for hot in found] == [0.6, 0.4, 1.0]
    # A tenant that was seen just now counts as watched for ten seconds
    assert found[0].rate == pytest.approx(6, rel=0.1)
    assert names_of(known(here, ["acme"])) == [("acme", "a")]
    assert known(here, ["globex"]) == []


def test_a_read_counts_half_after_a_half_life(here: runtime.Runtime) -> None:
    here.hot.merge({None: {"old": 1000}})
    pass_time(here, HALF_LIFE + SPAN)
    here.hot.merge({None: {"new": 1000}})
    shares = {hot.key: hot.share for hot in known(here)}
    assert shares == {"old": pytest.approx(1 / 3, rel=0.02), "new": pytest.approx(2 / 3, rel=0.02)}
    pass_time(here, 10 * HALF_LIFE)
    assert known(here)[0].rate < 1


def test_a_key_that_becomes_hot_gets_past_those_that_were_hot_for_long(here: runtime.Runtime) -> None:
    old = {f"old{number}": 100 for number in range(100)}
    for _ in range(40):
        here.hot.merge({None: old})
        pass_time(here, SPAN)
    for rounds in range(1, 40):
        for _ in range(10):  # many merges in a span, each of which knows little
            here.hot.merge({None: dict.fromkeys(old, 1) | {"new": 3} | {f"rare{rounds}": 1}})
        pass_time(here, SPAN)
    assert known(here)[0].key == "new"


def test_keys_and_tenants_are_bounded_to_the_most_read(here: runtime.Runtime) -> None:
    for _ in range(2):
        here.hot.merge({None: {f"k{number}": number + 1 for number in range(5000)}})
        pass_time(here, SPAN)
    assert [hot.key for hot in known(here)] == [f"k{4999 - number}" for number in range(100)]
    here.hot.merge({f"t{number}": {"k": 10 * number + 1} for number in range(5)})
    assert set(here.hot.tenants()) == {None, "t4", "t3"}
    here.hot.merge({"late": {"k": 10**6}})
    assert set(here.hot.tenants()) == {None, "late", "t4"}
    client: Any = here.hot._redis
    left = {name for name in client.scan_iter(f"{here.settings.namespace}:hot-*") if client.pttl(name) <= 0}
    assert left == set()
    assert not client.exists(keys.hot_span(here.settings.namespace, "t3"))


def test_merges_at_once_lose_nothing(here: runtime.Runtime, settings: Settings) -> None:
    def merge() -> None:
        other = runtime.Runtime(settings)
        for _ in range(50):
            other.hot.merge({None: {"a": 2}, "acme": {"b": 1}})
        other.close()

    threads = [threading.Thread(target=merge) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {tenant: round(one.reads) for tenant, one in here.hot.tenants().items()} == {
        None: 400,
        "acme": 200,
    }


def test_what_others_wrote_there_ends_no_look_and_no_merge(here: runtime.Runtime) -> None:
    client: Any = here.hot._redis
    key = keys.hot_tenants(here.settings.namespace)
    client.hset(key, mapping={"": "nonsense", "a:b": "1 1 1 1", "%2": "x", "acme": "nan 0 0 1"})
    assert here.hot.tenants() == {}
    here.hot.merge({None: {"a": 1}, "acme": {"a": 1}})
    assert set(here.hot.tenants()) == {None, "acme"}
    snapshots = keys.hot_snapshots(here.settings.namespace)
    client.hset(snapshots, "now", '{"life": "x", "at_ms": 1, "keys": [["a"]]}')
    client.expire(snapshots, 60)
    assert here.hot_snapshots.before("y") is None
    assert here.hot_snapshots.is_due(10)


def test_without_its_servers_nothing_hangs_or_is_swallowed(settings: Settings) -> None:
    away = runtime.Runtime(settings.model_copy(update={"broker_url": CLOSED}))
    with pytest.raises(StateUnavailable):
        away.hot.merge({None: {"a": 1}})
    with pytest.raises(StateUnavailable):
        away.hot_snapshots.before("")
    away.close()
    away = runtime.Runtime(settings.model_copy(update={"cache_url": CLOSED}))
    with pytest.raises(CacheUnavailable):
        learn(away)
    away.close()


def test_what_apps_read_is_learned_once_by_whoever_looks_first(here: runtime.Runtime, app: Cache) -> None:
    app.get("hot:1", "acme")
    app.get_many(["hot:1", "hot:2"], "acme")
    app.close()
    found: Any = tasks.hot.apply(kwargs={}).result
    assert (found["reports"], found["reads"], found["snapshot"]) == (1, 3, 2)
    assert learn(here) == {"reports": 0, "reads": 0, "snapshot": 0}
    assert hottest(5, "acme") == [("acme", "hot:1"), ("acme", "hot:2")]


def test_the_hottest_for_a_plan_are_those_that_a_loader_can_load(here: runtime.Runtime) -> None:
    here.hot.merge({None: {"hot:1": 5, "unknown:1": 99, "hot:x": 98}, "acme": {"hot:2": 7, "hot:3": 3}})
    assert hottest(2) == [("acme", "hot:2"), (None, "hot:1")]
    assert hottest(9, "acme") == [("acme", "hot:2"), ("acme", "hot:3")]
    assert hottest(9, "globex") == []


def popular() -> Iterator[tuple[str | None, str]]:
    yield from hottest(2)


@pytest.mark.parametrize("in_code", [True, False])
def test_a_plan_warms_the_hottest(here: runtime.Runtime, in_code: bool) -> None:
    read_hot(here, n1=5, n2=50, n3=20)
    here.hot.merge({"acme": {"hot:4": 30}})
    if in_code:
        warm_plan("popular")(popular)
    else:
        plan = make_plan("popular", {"hottest": 2})
        settings = here.settings.model_copy(update={"warm_plans": (plan,)})
        tasks.configure(settings)
    job = send.warm_plan("popular")
    assert run(job.id) == "SUCCESS"
    assert job.status().report["written"] == 2
    cache = runtime.current().cache
    assert (cache.get("hot:2"), cache.get("hot:4", "acme"), cache.get("hot:3")) == (2, 4, None)


def test_a_plan_of_the_hottest_keeps_to_its_tenants(here: runtime.Runtime) -> None:
    read_hot(here, n1=500)
    here.hot.merge({"acme": {"hot:4": 30}, "globex": {"hot:5": 40}})
    plan = Known(
        "popular", "settings", plans.given_of(make_plan("popular", {"hottest": 9, "tenants": ["acme"]}))
    )
    found = plans.keys_of("popular", here.plans.seed([plan]).plans, tuple)
    assert list(found.keys) == [("acme", "hot:4")]


@pytest.mark.parametrize(
    "fields", [{"hottest": 5, "keys": ["a"]}, {"hottest": 5, "template": "a:{b}", "params": {"b": ["1"]}}]
)
def test_a_plan_of_the_hottest_lists_no_keys(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give keys, or a template with params, or hottest"):
        make_plan("popular", fields)


# -- snapshots -------------------------------------------------------------------------------------------------


def hot_keys_of(*numbers: int) -> list[HotKey]:
    return [HotKey(None, f"hot:{number}", 1.0, 0.1) for number in numbers]


def make_older(here: runtime.Runtime, seconds: float) -> None:
    """Let the snapshots be so much older."""
    client: Any = here.hot._redis
    key = keys.hot_snapshots(here.settings.namespace)
    for name, text in client.hgetall(key).items():
        at = int(text.partition('"at_ms":')[2].partition(",")[0])
        client.hset(key, name, text.replace(str(at), str(at - round(seconds * 1000))))


def test_what_was_hot_before_a_cold_start_is_kept_while_the_cache_lives_anew(here: runtime.Runtime) -> None:
    snapshots = here.hot_snapshots
    assert snapshots.before("one") is None
    assert snapshots.take("one", hot_keys_of(1, 2, 3, 4))
    assert snapshots.before("one") is None  # nothing began cold
    before = snapshots.before("two")
    assert before is not None
    assert before.keys == tuple((None, f"hot:{number}") for number in (1, 2, 3, 4))
    # However many are taken in the new life
    for _ in range(3):
        assert snapshots.take("two", hot_keys_of(9, 8))
    assert snapshots.before("two") == before


def test_a_cold_start_after_which_little_was_read_does_not_cost_the_good_snapshot(
    here: runtime.Runtime,
) -> None:
    snapshots = here.hot_snapshots
    good = hot_keys_of(*range(100))
    snapshots.take("one", good)
    assert not snapshots.take("one", [])
    assert not snapshots.take("one", good[:49])
    assert snapshots.take("one", good[:50])
    snapshots.take("one", good)
    # Two cold starts soon after each other
    snapshots.take("two", good[:5])
    assert len(snapshots.before("three").keys) == 100  # type: ignore[union-attr]
    snapshots.take("three", good[:5])
    assert len(snapshots.before("three").keys) == 100  # type: ignore[union-attr]
    # But what is a day old counts for little
    make_older(here, 2 * 86_400)
    snapshots.take("three", good[:4])
    snapshots.take("four", good[:4])
    assert len(snapshots.before("four").keys) == 4  # type: ignore[union-attr]


def test_snapshots_are_taken_when_they_are_due_and_expire(here: runtime.Runtime) -> None:
    read_hot(here, n1=5)
    assert learn(here)["snapshot"] == 1
    assert learn(here)["snapshot"] == 0
    assert learn(here, snapshot=True)["snapshot"] == 1
    assert not here.hot_snapshots.is_due(100)
    make_older(here, 101)
    assert here.hot_snapshots.is_due(100)
    client: Any = here.hot._redis
    assert client.pttl(keys.hot_snapshots(here.settings.namespace)) > 0


def begin_cold(here: runtime.Runtime) -> None:
    """As if the cache's server had crashed and come back empty."""
    client: Any = here.cache._client
    client.delete(*client.scan_iter(f"{{{here.settings.namespace}*"))
    client.close()
    life_of(here.cache)


def test_after_a_cold_start_the_snapshot_is_warmed_hottest_first_and_no_more_than_is_set(
    here: runtime.Runtime,
) -> None:
    warm_plan(hot_replay.REPLAY)(hot_replay.replay)
    # Given a cache that is cold for the first time, in which nothing is to be replayed
    assert hot_replay.replay_when_cold(cast("Any", None)) is None
    read_hot(here, n1=10, n2=20, n3=30, n4=40, n5=50, n6=60)
    here.hot.merge({None: {"unknown:1": 55}})
    learn(here)
    assert hot_replay.replay_when_cold(cast("Any", None)) is None
    # When it begins cold, and others are read at once
    begin_cold(here)
    read_hot(here, n7=1000)
    learn(here, snapshot=True)
    # Then what was hot before is warmed, five keys less the one that has no loader
    action = hot_replay.replay_when_cold(cast("Any", None))
    assert action is not None
    assert list(hot_replay.replay()) == [(None, f"hot:{number}") for number in (6, 5, 4, 3)]
    job = send.warm_plan(str(action.plan))
    assert run(job.id) == "SUCCESS"
    assert job.status().report["written"] == 4


def test_replay_can_be_turned_off(here: runtime.Runtime) -> None:
    read_hot(here, n1=10)
    learn(here)
    begin_cold(here)
    assert list(hot_replay.replay()) == [(None, "hot:1")]
    tasks.configure(here.settings.model_copy(update={"hot": HotSettings(replay=0)}))
    assert list(hot_replay.replay()) == []
    assert hot_replay.replay_when_cold(cast("Any", None)) is None
    assert learn(runtime.current(), snapshot=True)["snapshot"] == 0


# -- warming again what an invalidation killed ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"keys": ["hot:2", "hot:9"]}, ["hot:2"]),
        ({"pattern": "hot:[12]"}, ["hot:2", "hot:1"]),
        ({"pattern": "*"}, ["hot:3", "hot:2", "hot:1"]),
        ({"tags": ["hot"], "rewarm": 2}, ["hot:3", "hot:2"]),
        ({"tags": ["number:1"], "keys": ["hot:3"]}, ["hot:3", "hot:1"]),
        ({"tags": ["other"]}, []),
    ],
)
def test_the_hot_keys_that_an_invalidation_names_are_found(
    here: runtime.Runtime, named: dict[str, Any], expected: list[str]
) -> None:
    read_hot(here, n1=10, n2=20, n3=30)
    here.hot.merge({None: {"unknown:1": 99}, "acme": {"hot:1": 99, "hot:4": 98}})
    arguments = names.check(names.INVALIDATE, {"rewarm": 10, **named})
    assert hot_among(here, cast("names.Invalidate", arguments)) == expected


def test_of_a_whole_tenant_that_is_invalidated_the_hottest_are_warmed_again(here: runtime.Runtime) -> None:
    here.hot.merge({"acme": {f"hot:{number}": number for number in range(1, 6)}, "globex": {"hot:9": 99}})
    here.cache.set("hot:5", "old", "acme")
    job = send.invalidate_tenant("acme", rewarm=2)
    invalidate = cast("Task[Any, Any]", tasks.invalidate)
    message = {"job_id": job.id, "tenant_id": "acme", "whole_tenant": True, "rewarm": 2}
    assert invalidate.apply(kwargs=message, task_id=job.id).state == "SUCCESS"
    [warm] = [found for found in here.jobs.recent(9) if found.kind == "warm"]
    assert run(warm.id) == "SUCCESS"
    assert here.cache.get_many(["hot:4", "hot:5", "hot:3"], "acme") == {"hot:4": 4, "hot:5": 5}
    # And once more: it does not join a warm that began before
    invalidate.apply(kwargs={**message, "job_id": "again"}, task_id="again")
    assert len([found for found in here.jobs.recent(9) if found.kind == "warm"]) == 2


def test_nothing_is_warmed_before_the_invalidation_is_acknowledged(
    here: runtime.Runtime, settings: Settings
) -> None:
    read_hot(here, n1=10)
    tasks.configure(settings.model_copy(update={"cache_url": CLOSED}))
    invalidate = cast("Task[Any, Any]", tasks.invalidate)
    outcome = invalidate.apply(kwargs={"job_id": "one", "pattern": "*", "rewarm": 5}, task_id="one")
    assert outcome.state != "SUCCESS"
    assert [found.kind for found in runtime.current().jobs.recent(9)] == []


def test_an_invalidation_holds_even_if_nothing_can_be_warmed_again(
    here: runtime.Runtime, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    away = runtime.Runtime(settings.model_copy(update={"broker_url": CLOSED}))
    arguments = cast("names.Invalidate", names.check(names.INVALIDATE, {"pattern": "*", "rewarm": 5}))
    rewarm(away, arguments, "job")
    assert "what was hot among the invalidated is not warmed again" in caplog.text
    away.close()
    assert here is not away

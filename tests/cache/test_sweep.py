"""Sweeping on Redis: what goes, what stays, where it resumes, and that it never refuses a live load its fill."""

import itertools
import threading
import time
from typing import Any

import pytest

from stoker.cache import Cache, CacheUnavailable, scan
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.keys import EntryNames, ShardKeys
from tests.cache.conftest import MakeCache
from tests.waiting import wait_until


def names(client: Any, namespace: str) -> set[str]:
    return {name.decode() for name in client.scan_iter(EntryNames(namespace, 1).pattern, count=1000)}


def test_only_dead_entries_are_deleted(make_redis: MakeCache, client: Any, namespace: str) -> None:
    cache = make_redis()
    cache.set_many({f"user:{i}": i for i in range(50)}, tags=["red"])
    cache.set_many({f"post:{i}": i for i in range(50)}, tags=["blue"])
    cache.set_many({f"user:{i}": i for i in range(50)}, "acme")
    cache.invalidate_tags(["red"])
    cache.invalidate_pattern("user:1*", "acme")
    cache.set("user:1", "new", "acme")
    report = cache.sweep()
    assert (report.scanned, report.deleted) == (150, 60)
    assert report.freed_bytes > 0
    assert len(names(client, namespace)) == 90
    assert cache.get("user:1", "acme") == "new"


def test_an_entry_replaced_under_the_sweep_stays(make_redis: MakeCache) -> None:
    cache = make_redis()
    cache.set("k", "old")
    backend = cache._core.backend
    assert isinstance(backend, RedisBackend)
    link = backend.space
    names = scan.parsed(link, cache._run(scan.page(link, "0", 10)).raws)
    seen = cache._run(scan.look(names))
    cache.set("k", "new")
    assert cache._run(scan.drop(seen)).entries == 0
    assert cache.get("k") == "new"


def test_bans_retire_after_a_complete_pass_and_old_entries_stay_dead(make_redis: MakeCache) -> None:
    cache, late = make_redis(max_load=0.2, lease=0.2), make_redis(max_load=0.2, lease=0.2)
    cache.set_many({f"user:{i}": i for i in range(20)})
    late.get("user:1")
    for i in range(20):
        cache.invalidate_pattern(f"user:{i}")
    assert cache.explain("user:1")["bans"] == 20
    wait_until(lambda: cache.sweep().complete and cache.explain("user:1")["bans"] == 0)
    assert late.get_many([f"user:{i}" for i in range(20)]) == {}


def test_it_goes_on_from_its_cursor(make_redis: MakeCache) -> None:
    cache = make_redis()
    cache.set_many({f"user:{i}": i for i in range(2000)})
    cache.invalidate_pattern("user:*")
    steps = cache.sweep_steps(batch=100)
    *_, step = itertools.islice(steps, 5)
    steps.close()
    assert 0 < step.report.deleted < 2000
    *_, last = make_redis().sweep_steps(batch=100, cursor=step.cursor)
    assert last.report.deleted == 2000
    assert (last.report.complete, last.report.restarts, last.last) == (True, 0, True)


def test_after_a_complete_pass_it_makes_another_and_adds_to_the_report(make_redis: MakeCache) -> None:
    cache = make_redis()
    cache.set_many({f"user:{i}": i for i in range(100)})
    cache.invalidate_pattern("user:1*")
    *_, first = cache.sweep_steps()
    cache.invalidate_pattern("user:2*")
    *_, second = cache.sweep_steps(cursor=first.cursor)
    assert (first.report.deleted, second.report.deleted) == (11, 22)
    assert second.report.scanned == 100 + 89


def test_it_starts_again_in_another_life_of_the_ban_log(
    make_redis: MakeCache, client: Any, namespace: str
) -> None:
    cache = make_redis()
    cache.set_many({f"user:{i}": i for i in range(1000)})
    cache.invalidate_pattern("user:1*")
    step = next(iter(cache.sweep_steps(batch=100)))
    client.delete(ShardKeys(namespace).ctl)
    *_, last = cache.sweep_steps(batch=100, cursor=step.cursor)
    assert last.report.restarts == 1
    assert last.report.complete
    assert names(client, namespace) == set()


def test_what_is_not_ours_is_left_alone(make_redis: MakeCache, client: Any, namespace: str) -> None:
    cache = make_redis(max_load=0.1, lease=0.1)
    foreign = f"{ShardKeys(namespace).entry_prefix}\xff".encode("latin-1")
    client.set(foreign, b"not a value of ours")
    client.set(f"other:{namespace}", 1)
    cache.set("k", 1)
    cache.invalidate_tenant(None)
    wait_until(lambda: cache.sweep().retired >= 0 and cache.explain("k")["bans"] == 0)
    assert client.exists(foreign, f"other:{namespace}") == 2
    client.delete(foreign, f"other:{namespace}")


def test_no_fill_within_its_lease_is_refused_while_bans_retire(make_redis: MakeCache) -> None:
    """Ten bans and five sweeps a second beside loads of half a second, with max_load at one second (rule 10)."""
    cache = make_redis(max_load=1, lease=1)
    writer, sweeper = make_redis(max_load=1, lease=1), make_redis(max_load=1, lease=1)
    over = threading.Event()
    retired = []

    def ban() -> None:
        n = 0
        while not over.wait(0.1):
            writer.invalidate_pattern(f"unrelated:{n}:?")
            n += 1

    def sweep() -> None:
        while not over.wait(0.2):
            retired.append(sweeper.sweep().retired)

    def load(n: int) -> None:
        for round_ in range(4):
            cache.get_or_load(f"k:{n}:{round_}", lambda: time.sleep(0.5))

    background = [threading.Thread(target=ban), threading.Thread(target=sweep)]
    loads = [threading.Thread(target=load, args=(n,)) for n in range(24)]
    for thread in (*background, *loads):
        thread.start()
    for thread in loads:
        thread.join()
    over.set()
    for thread in background:
        thread.join()
    stats = cache.stats()
    assert (stats.loads, stats.fills, stats.refused_fills) == (96, 96, 0)
    assert sum(retired) > 0


def test_an_entry_of_an_unknown_version_does_not_outlive_the_ban_that_may_be_its(
    make_redis: MakeCache, client: Any, namespace: str
) -> None:
    cache = make_redis(max_load=0.1, lease=0.1)
    cache.set("k", "old", tags=["t"])
    name = ShardKeys(namespace).entry(None, "k")
    later = client.get(name)
    client.set(name, later[:2] + b"\x02" + later[3:], keepttl=True)
    cache.invalidate_tags(["t"])
    wait_until(lambda: cache.sweep().complete and cache.explain("k")["bans"] == 0)
    assert not client.exists(name)


def test_no_ban_retires_over_entries_that_could_not_be_read(
    cache_server: str, make_redis: MakeCache, client: Any, namespace: str
) -> None:
    cache = make_redis(max_load=0.1, lease=0.1)
    cache.set("k", "old", tags=["t"])
    cache.invalidate_tags(["t"])
    client.acl_setuser(namespace, enabled=True, nopass=True, keys=["*"], commands=["+@all", "-getrange"])
    restricted = make_redis(
        redis_url=cache_server.replace("://", f"://{namespace}:x@"), max_load=0.1, lease=0.1
    )
    with pytest.raises(CacheUnavailable, match="docs/operations"):
        restricted.sweep()
    client.acl_deluser(namespace)
    assert cache.get("k") is None
    assert cache.explain("k")["bans"] == 1


def test_progress_counts_up_to_its_total(make_redis: MakeCache) -> None:
    cache = make_redis()
    cache.set_many({f"user:{i}": i for i in range(500)})
    cache.invalidate_pattern("user:*")
    steps: list[Any] = list(cache.sweep_steps(batch=100))
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == steps[-1].total == 500
    assert not any(step.last for step in steps[:-1])


def test_a_cache_without_anything_dead_is_not_scanned(make_redis: MakeCache) -> None:
    cache: Cache = make_redis(max_load=0.1, lease=0.1)
    cache.set("k", 1)
    wait_until(lambda: cache.sweep().scanned == 0)
    assert cache.sweep().complete


def aged(make_redis: MakeCache, **settings: Any) -> Cache:
    """A cache whose first sweep was long enough ago that names alone tell what is dead, where no tags are banned."""
    cache = make_redis(max_load=0.1, lease=0.1, **settings)
    cache.set("k", 1)
    wait_until(lambda: cache.sweep().retired >= 0 and cache.explain("k")["floor"] > 0)
    return cache


def test_what_begins_as_a_ban_says_is_judged_on_the_server(
    make_redis: MakeCache, client: Any, namespace: str
) -> None:
    cache, keys = aged(make_redis), ShardKeys(namespace)
    for tenant in (None, "acme", "other"):
        cache.set_many({f"user:{i}": "old" for i in range(300)}, tenant)
    cache.set_many({"user:*\\[a]:1": 1, "user:*\\[a]": 2, "user:xx[a]:1": 3})
    for n, broken in enumerate((b"", b"no header", client.get(keys.entry(None, "user:1"))[:55])):
        client.set(keys.entry(None, f"user:1:broken{n}"), broken)
    client.rpush(keys.entry(None, "user:1:list"), 1)
    cache.invalidate_pattern("user:1*")
    cache.invalidate_pattern(r"user:\*\\\[a]:*")
    cache.invalidate_tenant("acme")
    cache.set("user:1", "new")
    cache.set("user:2", "new", "acme")
    report = cache.sweep()
    assert report.deleted == 110 + 299 + 1 + 2, report  # an empty value has no first bytes: it may stay
    assert report.freed_bytes > 0
    left = names(client, namespace)
    assert len(left) == 1 + (300 - 110) + 1 + 300 + 2 + 2
    assert cache.get_many(
        ["user:1", "user:2", "user:10", "user:*\\[a]:1", "user:*\\[a]", "user:xx[a]:1"]
    ) == {
        "user:1": "new",
        "user:2": "old",
        "user:*\\[a]": 2,
        "user:xx[a]:1": 3,
    }
    assert cache.get("user:2", "acme") == "new"
    client.delete(keys.entry(None, "user:1:broken0"), keys.entry(None, "user:1:list"))


@pytest.mark.parametrize("pattern", ["user:*", "us?r:*"])
def test_no_page_is_passed_before_its_dead_are_gone(
    make_redis: MakeCache, client: Any, namespace: str, pattern: str
) -> None:
    """Each step is the last of its process; the next one begins where nothing dead is left behind."""
    cache = aged(make_redis)
    cache.set_many({f"user:{i}": i for i in range(400)})
    cache.invalidate_pattern(pattern)

    def go_on(cursor: Any) -> Any:
        steps = cache.sweep_steps(batch=20, cursor=cursor)
        *_, reached = itertools.islice(steps, 2)
        steps.close()
        return reached

    passed = go_on(None)
    while not passed.last:
        passed = go_on(passed.cursor)
    assert passed.report.complete
    assert not [name for name in names(client, namespace) if ":user:" in name]


def test_who_goes_on_with_anothers_pass_looks_for_all_that_it_retires(
    make_redis: MakeCache, client: Any, namespace: str
) -> None:
    cache = aged(make_redis)
    late = make_redis(max_load=0.1, lease=0.1)
    cache.set_many({f"{kind}:{i}": i for i in range(200) for kind in "ab"})
    cache.invalidate_pattern("a:*")
    late.get("a:1")
    cache.invalidate_pattern("b:*")
    next(iter(cache.sweep_steps(batch=10)))  # notes where the log stands, which the next one finds old enough
    time.sleep(0.15)
    first = next(iter(cache.sweep_steps(batch=10)))
    *_, last = late.sweep_steps(batch=10_000, cursor=first.cursor)
    assert (last.report.retired, last.report.complete) == (2, True)
    assert not [name for name in names(client, namespace) if not name.endswith(":k")]

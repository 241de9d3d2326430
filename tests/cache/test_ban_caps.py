"""A ban log stays short whatever is invalidated, and is never shortened by a rule that some reader still needs."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from stoker.cache import control, scripts, sweep
from stoker.cache.bans import sentinel
from stoker.cache.caps import Caps, Coalesced, ManyBans
from stoker.cache.control import BanLog
from stoker.cache.entry import MAX_SEQ
from stoker.cache.invalidate import pattern_rule, tag_rules, tenant_rule
from stoker.cache.keys import ShardKeys
from stoker.cache.protocol import Lease, Shard
from stoker.cache.scripts import Script
from stoker.cache.transport import Transport
from stoker.cache.wire import Call, Exchange, Operation
from stoker.worker.embedded import embedded_server
from tests.cache.ban_world import Stage, a_shard, ask, ban, coalesced, connect, packed

SMALL = Caps(patterns=4, named=6, many_patterns=2, many_bans=8, stride=1)
TINY = Caps(patterns=2, named=5, many_patterns=1, many_bans=6, stride=1)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server that holds nothing else, so that a sweep is short."""
    with embedded_server("cache") as own:
        yield own.url


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    with redis.Redis.from_url(server) as plain:
        yield plain
        plain.flushdb()


@pytest.fixture
def wire(server: str, namespace: str, client: Any) -> Iterator[Transport]:  # noqa: ARG001 - flushes afterwards
    transport = connect(server, namespace)
    yield transport
    transport.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BanLog, "caps", SMALL)


def rules_in(client: Any, namespace: str) -> dict[bytes, int]:
    """The ban log behind the cache's back, without its sentinel."""
    log = client.zrange(ShardKeys(namespace).bans, 0, -1, withscores=True)
    assert log[-1][1] == float("inf")
    return {member: int(score) for member, score in log[:-1]}


def put(wire: Transport, shard: Shard, tenant: str | None, key: str) -> None:
    [(lease, _)] = wire.run(shard.acquire([(tenant, key)], 1000))
    assert isinstance(lease, Lease)
    assert wire.run(shard.fill([packed(lease, 1)])) == [True]


def there(wire: Transport, shard: Shard, tenant: str | None, key: str) -> bool:
    return wire.run(shard.read([(tenant, key)]))[0] is not None


def test_an_invalidation_is_one_round_trip_and_one_in_thirty_two_looks(
    wire: Transport, namespace: str
) -> None:
    shard = a_shard(namespace)
    wire.run(shard.catch_up())
    asked: list[int] = []

    def counted(operation: Operation[Any]) -> Operation[Any]:
        trips, answer = 0, None
        while True:
            try:
                commands: Exchange = operation.send(answer) if answer else next(operation)
            except StopIteration as stop:
                asked.append(trips)
                return stop.value
            trips += 1
            answer = yield commands

    for n in range(300):
        wire.run(counted(ban(shard, [pattern_rule(f"user:?{n % 150}", None)])))
    assert asked.count(1) == 300 - 6  # of 101 rules and more, the log was looked at once in 32
    assert max(asked) <= 3


def test_a_sweep_is_due_at_a_hundred_patterns_and_at_two_thousand_rules(
    wire: Transport, namespace: str
) -> None:
    news: list[Any] = []
    shard = a_shard(namespace, news)
    for n in range(100):
        wire.run(ban(shard, [pattern_rule(f"?{n}", None)]))
    assert news == []
    for n in range(32):
        wire.run(ban(shard, [pattern_rule(f"?{n}a", None)]))
    assert [type(one) for one in news] == [ManyBans]
    assert 100 < news[0].patterns <= 132

    news.clear()
    quiet = a_shard(f"{namespace}-2", news)
    for n in range(2000 // 60):
        wire.run(ban(quiet, tag_rules([f"{n} {i}" for i in range(60)], "acme")))
    assert news == []
    for n in range(32):
        wire.run(ban(quiet, tag_rules([f"more {n} {i}" for i in range(60)], "acme")))
    assert [type(one) for one in news] == [ManyBans]
    assert 2000 < news[0].bans <= 2000 + 32 * 60
    assert news[0].patterns == 0


@pytest.mark.usefixtures("small")
def test_a_tenant_beyond_its_patterns_is_banned_as_a_whole_and_no_other(
    wire: Transport, client: Any, namespace: str
) -> None:
    news: list[Any] = []
    shard, reader = a_shard(namespace, news), a_shard(namespace)
    for tenant in ("acme", "globex"):
        put(wire, shard, tenant, "kept 1")
        wire.run(ban(shard, [pattern_rule("?", tenant)]))
    for n in range(3):
        wire.run(ban(shard, [pattern_rule(f"?{n}", "acme")]))
    assert coalesced(news) == []
    assert there(wire, reader, "acme", "kept 1")
    wire.run(ban(shard, [pattern_rule("one too many?", "acme")]))
    assert coalesced(news) == [Coalesced("acme", 5)]
    assert not there(wire, reader, "acme", "kept 1")
    assert there(wire, reader, "globex", "kept 1")
    assert set(rules_in(client, namespace)) == {b"n|acme|", b"p|globex|?"}
    put(wire, shard, "acme", "kept 1")
    assert there(wire, reader, "acme", "kept 1")
    assert there(wire, a_shard(namespace), "acme", "kept 1")


@pytest.mark.usefixtures("small")
def test_prefixes_and_tags_are_counted_together(wire: Transport, client: Any, namespace: str) -> None:
    news: list[Any] = []
    shard = a_shard(namespace, news)
    wire.run(ban(shard, tag_rules(["a", "b", "c"], None)))
    for n in range(3):
        wire.run(ban(shard, [pattern_rule(f"{n}*", None)]))
    assert coalesced(news) == []
    wire.run(ban(shard, [pattern_rule("3*", None)]))
    assert coalesced(news) == [Coalesced(None, 7)]
    assert set(rules_in(client, namespace)) == {b"n||"}


@pytest.mark.usefixtures("small")
def test_bans_of_whole_tenants_do_not_let_the_log_grow_either(
    wire: Transport, client: Any, namespace: str
) -> None:
    """A reader forgets what they make needless, and so never finds the tenant crowded."""
    news: list[Any] = []
    shard = a_shard(namespace, news)
    for n in range(20):
        for i in range(3):
            wire.run(ban(shard, [pattern_rule(f"?{n} {i}", None)]))
        wire.run(ban(shard, [tenant_rule(None)]))
        assert len(rules_in(client, namespace)) <= 2 * SMALL.patterns + 4
    assert coalesced(news) == []


def step_by_step(wire: Transport, operation: Operation[Any]) -> Iterator[str]:
    """Run an operation; before each exchange yields what it is."""
    answer = None
    while True:
        try:
            commands: Exchange = operation.send(answer) if answer else next(operation)
        except StopIteration:
            return
        yield commands[0].script.name if isinstance(commands[0], Call) else str(commands[0][0])
        answer = wire.run(ask(*commands))


@pytest.mark.usefixtures("small")
def test_whoever_coalesces_may_end_anywhere(
    wire: Transport, client: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PAGE", 3)
    shard = a_shard(namespace)
    for end in range(20):
        client.flushdb()
        old = a_shard(namespace)
        put(wire, old, None, "user:1")
        put(wire, old, "acme", "user:1")
        monkeypatch.setattr(BanLog, "caps", Caps())
        for n in range(8):
            wire.run(
                ban(shard, [pattern_rule(f"user:1{'?' * n}*?", None) if n else pattern_rule("user:?", None)])
            )
        monkeypatch.setattr(BanLog, "caps", SMALL)
        steps = step_by_step(wire, shard.shorten(8))
        done = [step for step, _ in zip(steps, range(end), strict=False)]
        for reader in (shard, old, a_shard(namespace)):
            assert not there(wire, reader, None, "user:1"), done
            assert there(wire, reader, "acme", "user:1"), done
        wire.run(ban(shard, [pattern_rule("later?", None)]))
        assert len(rules_in(client, namespace)) <= 9
        if len(done) < end:
            assert done.count("ban") == 1
            assert done.count("prune") == 4
            assert set(rules_in(client, namespace)) == {b"n||", b"p||later?"}
            return
    pytest.fail("it never ended")


def test_pruning_leaves_what_is_newer_what_is_others_and_what_is_not_known(
    wire: Transport, client: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PAGE", 100)
    shard = a_shard(namespace)
    incarnation = wire.run(shard.catch_up()).control.incarnation
    log = ShardKeys(namespace).bans
    gone = {f"{kind}|acme|{n}": n + 1 for n, kind in enumerate("xpt" * 150)}
    kept = {"n|acme|": 450, "x|acme|newer": 451, "z|acme|of a later version": 3, "x|acm|e": 2, "x||acme|": 4}
    client.zadd(log, gone | kept | {"t|globex|t": MAX_SEQ - 1, "n|globex|": MAX_SEQ - 2, "p|big|?": MAX_SEQ})
    client.zadd(log, {"n|big|": MAX_SEQ, "t|big|" + "x" * 256: MAX_SEQ - 1})
    wire.run(shard._prune(len(gone) + 10))
    left = {**kept, "t|globex|t": MAX_SEQ - 1, "n|globex|": MAX_SEQ - 2, "n|big|": MAX_SEQ}
    assert rules_in(client, namespace) == {member.encode(): seq for member, seq in left.items()}
    assert client.zscore(log, sentinel(incarnation)) == float("inf")


@pytest.mark.usefixtures("small")
def test_at_the_end_of_all_numbers_a_new_life_begins_and_nothing_comes_back(
    wire: Transport, client: Any, namespace: str
) -> None:
    keys, shard, reader = ShardKeys(namespace), a_shard(namespace), a_shard(namespace)
    put(wire, shard, None, "user:1")
    record = client.get(keys.ctl).split(b":")
    record[2] = b"%d" % (MAX_SEQ - 4)
    client.set(keys.ctl, b":".join(record))
    for n in range(8):
        wire.run(ban(shard, [pattern_rule(f"?ser:{n}", None)]))
        assert there(wire, reader, None, "user:1") is (n < 1)
    assert shard.view.control.head < 10
    assert not there(wire, a_shard(namespace), None, "user:1")


# -- attacked --------------------------------------------------------------------------------------------------


@pytest.fixture
def attack(server: str, client: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stage]:
    """Play a history with tiny caps; a sweep may retire bans soon after they were made."""
    monkeypatch.setattr(BanLog, "caps", TINY)
    monkeypatch.setattr(control, "_PAGE", 4)
    monkeypatch.setattr(sweep, "least_mark_age_ms", lambda _: 15)
    monkeypatch.setattr(sweep, "LONGEST_REST_S", 0.0)

    def play(seed: int, turns: int, losses: bool = False, prefixes: bool = False) -> Stage:
        client.flushdb()
        stage = Stage(server, "caps", seed, losses, prefixes)
        stage.play(turns)
        return stage

    return play


def without(monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str) -> None:
    """Take a guard of a script away."""
    script: Script = getattr(scripts, name)
    assert old.encode() in script.source
    weaker = Script(f"{script.name} without a guard", script.source.replace(old.encode(), new.encode()))
    monkeypatch.setattr(scripts, name, weaker)


COMPARED = "tonumber(page[i + 1]) <= banned_at(tenant)"


@pytest.mark.parametrize("losses", [False, True])
def test_no_order_of_steps_brings_back_what_was_invalidated(
    attack: Callable[..., Stage], losses: bool
) -> None:
    stage = attack(random.randrange(2**32), 6_000, losses)
    assert stage.stale == [], str(stage)
    assert stage.counts["reads"] > 1000, str(stage)
    assert stage.counts["hits"] > 0.2 * stage.counts["reads"], str(stage)
    assert min(stage.counts[what] for what in ("Coalesced", "pruned", "retired")) > 3, str(stage)


@pytest.mark.parametrize(
    ("old", "new"),
    [(COMPARED, "banned_at(tenant) > 0"), (COMPARED, "true")],
    ids=["that is newer", "of a tenant that was not banned"],
)
def test_the_attack_notices_that_a_rule_is_pruned(
    attack: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    without(monkeypatch, "PRUNE", old, new)
    seed = random.randrange(2**32)
    assert any(attack(seed + n, 6_000).stale for n in range(5))


def test_no_order_of_steps_brings_back_what_a_sweep_judges_on_the_server(
    attack: Callable[..., Stage],
) -> None:
    stage = attack(random.randrange(2**32), 6_000, prefixes=True)
    assert stage.stale == [], str(stage)
    assert min(stage.counts[what] for what in ("hits", "retired", "pages judged by name")) > 3, str(stage)


def test_the_attack_notices_what_such_a_sweep_passes_by(
    attack: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "DROP_PAGE", "elseif kind[1] < newest then", "elseif false then")
    seed = random.randrange(2**32)
    assert any(attack(seed + n, 6_000, prefixes=True).stale for n in range(10))


@pytest.mark.slow
def test_no_order_of_steps_brings_back_what_was_invalidated_for_long(attack: Callable[..., Stage]) -> None:
    seed = random.randrange(2**32)
    for n in range(20):
        stage = attack(seed + n, 6_000, n % 2 == 1, n % 4 > 1)
        assert stage.stale == [], str(stage)

"""Control state that no cache of this version wrote: records, ban logs, marks and maps, on a real server.

The oracle: a value stored before an acknowledged invalidation is never served again, whatever was done to the control
state before or after; no read raises; and a cache that can go on does. What is not promised: records have no checksum,
so what can be read and can be true is believed. A floor or a closing mark that lies within its range, or a rule that
was taken out of the log or made narrower, is not noticed.
"""

import itertools
import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.cache import Cache, CacheUnavailable, PlacementMismatch
from stoker.cache.entry import MAX_SEQ
from tests.cache.conftest import MakeCache
from tests.cache.scene import INVALIDATIONS, KEY, MISS, Client, MakeScene, Scene, a_scene
from tests.fuzzing import thorough_too, tried

__all__ = ["a_scene"]

ways = st.sampled_from(list(INVALIDATIONS))
tenants = (
    st.none()
    | st.sampled_from(["acme", "a|b", "*", "%7C", "a:b}", "\0", "\n"])
    | st.text(min_size=1, max_size=20)
)

# -- histories of calls and damage ------------------------------------------------------------------------------

OF_ANOTHER_TYPE: dict[str, Callable[[Client, bytes], object]] = {
    "list": lambda client, name: client.rpush(name, "x"),
    "hash": lambda client, name: client.hset(name, "a", "x"),
    "set": lambda client, name: client.sadd(name, "x"),
    "zset": lambda client, name: client.zadd(name, {"x": 1}),
    "string": lambda client, name: client.set(name, "x"),
}

RECORDS: dict[str, Callable[[Scene], bytes]] = {
    "of version 0": lambda scene: scene.record(version=0),
    "of version 2": lambda scene: scene.record(version=2),
    "with one more field": lambda scene: scene.record() + b":more",
    "with one less": lambda scene: scene.record().rpartition(b":")[0],
    "of another life": lambda scene: scene.record(inc="0" * 16),
    "of another server": lambda scene: scene.record(boots="0" * 16),
    "of an earlier map": lambda scene: scene.record(digest=scene.part("digest")[:8] + "0" * 8),
    "of a later head": lambda scene: scene.record(head=2**40),
    "of a head that cannot be counted": lambda scene: scene.record(head=2**53),
    "with a floor above its head": lambda scene: scene.record(floor=2**41),
    "with a closing mark above its head": lambda scene: scene.record(closing=2**53 + 1),
    "in capitals": lambda scene: scene.record().upper(),
    "with a line at its end": lambda scene: scene.record() + b"\n",
    "of noughts": lambda scene: scene.record(
        head=0, nonce="0" * 8, gen=0, digest="0" * 16, boots=0, inc="0" * 16
    ),
}

members = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda kind, tenant, rest: f"{kind}|{tenant}|{rest}".encode(),
        st.sampled_from(["n", "x", "p", "t", "i", "z", "", "N", "px", "\0"]),
        st.sampled_from(["", "acme", "%", "*"]),
        st.sampled_from(["", "t", "user:*", "[", "\\", "*" * 600, "user:", "é", "a|b"]),
    ),
    st.sampled_from(
        [b"i|", b"i|" + b"0" * 16, b"i|x|y", b"|", b"||", b"n|", b"n|acme", b"x||\xff", b"t||\xff"]
    ),
)
scores = st.one_of(
    st.integers(1, 9).map(float),
    st.sampled_from([0.0, -1.0, 0.5, 1.5, 2.0**53 - 1, 2.0**53, 1e300, float("inf"), float("-inf")]),
    st.floats(allow_nan=False),
)

actors = st.integers(0, 2)
calls = st.one_of(
    st.builds(lambda by: lambda scene: scene.store(by), actors),
    st.builds(lambda by: lambda scene: scene.read(by), actors),
    st.builds(lambda by: lambda scene: scene.load(by), actors),
    st.builds(lambda by, how: lambda scene: scene.invalidate(how, by), actors, ways),
    st.builds(lambda by: lambda scene: scene.caches[by].sweep(), actors),
)
damage = st.one_of(
    st.builds(lambda raw: lambda scene: scene.client.set(scene.keys.ctl, raw), st.binary(max_size=200)),
    st.builds(
        lambda length: lambda scene: scene.client.set(scene.keys.ctl, scene.record()[:length]),
        st.integers(0, 90),
    ),
    st.builds(
        lambda which: lambda scene: scene.client.set(scene.keys.ctl, RECORDS[which](scene)),
        st.sampled_from(list(RECORDS)),
    ),
    st.builds(
        lambda which: lambda scene: scene.client.delete(*(getattr(scene.keys, name) for name in which)),
        st.lists(st.sampled_from(["ctl", "bans", "marks", "map"]), min_size=1, max_size=4),
    ),
    st.builds(
        lambda more: lambda scene: scene.client.zadd(scene.keys.bans, more),
        st.dictionaries(members, scores, min_size=1, max_size=3),
    ),
    st.just(lambda scene: scene.client.zremrangebyscore(scene.keys.bans, "inf", "inf")),
    st.just(lambda scene: scene.client.script_flush()),
)


@thorough_too
def test_in_no_history_of_calls_and_damage_is_a_dead_value_read_or_a_call_lost(
    a_scene: MakeScene, thorough: bool
) -> None:
    @tried(thorough, 60)
    @given(tenants, st.lists(calls | damage, max_size=12))
    def rule(tenant: str | None, history: list[Callable[[Scene], object]]) -> None:
        with a_scene(tenant) as scene:
            for act in history:
                act(scene)
            scene.goes_on()

    rule()


# -- records --------------------------------------------------------------------------------------------------

BEYOND: dict[str, list[object]] = {
    "version": ["", 0, 2, 10, "v1", "1.0", "\uff11"],
    "inc": ["", "F" * 16, "g" * 16, "0" * 15, "0" * 17, "0" * 16, "\0" * 16],
    "head": [
        *("", 0, -1, "x", "0x10", "1e3", " 9", "9 ", "+9", "9.5", "nan", "inf", "0" * 19 + "9", "\u0663"),
        *(2**31, 2**53 - 3, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**40),
    ],
    "nonce": ["", "0" * 8, "F" * 8, "0" * 9, "zzzzzzzz"],
    "closing": ["", -1, "x", 9, 2**53 - 1, 2**53, 2**64, "nan", 10**40],
    "floor": ["", -1, "x", 9, 2**53 - 1, 2**53, 2**64, "nan", 10**40],
    "gen": ["", 0, 2, 999_999_999, 10**9, 2**53, -1, "x"],
    "digest": ["", "0" * 16, "F" * 16, "0" * 15, "zz"],
    "boots": ["", "0" * 16, ",", "0" * 16 + ",", "x" * 5000, "\n", "a:b"],
}
"""What no cache writes into a field, or not in these scenes; every head but those of a few bans among it."""


@pytest.mark.parametrize("name", BEYOND)
def test_any_field_of_the_record_beyond_its_range_costs_hits_never_truth(
    a_scene: MakeScene, name: str
) -> None:
    for value, banned in itertools.product(BEYOND[name], [False, True]):
        with a_scene() as scene:
            if banned:
                scene.invalidate()
            scene.client.set(scene.keys.ctl, scene.record(**{name: value}))
            scene.goes_on()


def test_a_record_cut_off_at_any_byte_costs_hits_never_truth(a_scene: MakeScene) -> None:
    with a_scene() as scene:
        for length in range(len(scene.record())):
            scene.store()
            scene.invalidate()
            scene.client.set(scene.keys.ctl, scene.record()[:length])
            scene.goes_on()


@pytest.mark.parametrize("head", [MAX_SEQ - 1, MAX_SEQ])
def test_a_log_that_has_no_seq_left_begins_anew(a_scene: MakeScene, head: int) -> None:
    with a_scene() as scene:
        scene.client.set(scene.keys.ctl, scene.record(head=head))
        assert scene.invalidate()
        assert scene.invalidate()
        scene.goes_on()


@pytest.mark.parametrize("fresh", [0, 2])
def test_a_record_that_is_older_than_its_log_or_its_entries_is_noticed(
    a_scene: MakeScene, fresh: int
) -> None:
    with a_scene() as scene:
        older = scene.record()
        for _ in range(5):
            scene.invalidate("tag")
        scene.store()
        scene.client.set(scene.keys.ctl, older)
        scene.invalidate("prefix", by=fresh)  # at a seq below that of the value
        assert scene.read(by=2) == MISS
        scene.goes_on()
    with a_scene() as scene:
        for _ in range(5):
            scene.invalidate("tag")
        scene.store()
        scene.client.set(scene.keys.ctl, scene.record(head=1))
        scene.client.zremrangebyscore(scene.keys.bans, 2, "(inf")
        scene.invalidate("prefix", by=fresh)
        assert scene.read(by=2) == MISS


# -- logs, marks, maps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [0.0, -1.0, 0.999, 1.5, 3.0, 2.0**53, 1e300, float("inf"), float("-inf")])
@pytest.mark.parametrize("seen", [False, True])
def test_a_rule_whose_score_is_no_seq_of_this_log_is_noticed(
    a_scene: MakeScene, score: float, seen: bool
) -> None:
    with a_scene() as scene:
        scene.invalidate("tag")
        if seen and score > 1:  # whoever knows the log up to 1 asks for no rules below
            scene.read()
        (rule, _), _ = scene.client.zrange(scene.keys.bans, 0, -1, withscores=True)
        scene.client.zadd(scene.keys.bans, {rule: score})
        assert scene.read(by=2) == MISS
        scene.goes_on()


@pytest.mark.parametrize("name", ["ctl", "bans", "map", "marks"])
@pytest.mark.parametrize("kind", OF_ANOTHER_TYPE)
def test_something_else_under_a_control_keys_name_fails_no_read_and_acknowledges_nothing_false(
    a_scene: MakeScene, name: str, kind: str
) -> None:
    for banned in (False, True):
        with a_scene() as scene:
            if banned:
                scene.invalidate()
            key = getattr(scene.keys, name)
            scene.client.delete(key)
            OF_ANOTHER_TYPE[kind](scene.client, key)
            for by in range(3):
                scene.read(by)
                scene.load(by)
                scene.store(by)
                scene.invalidate("tag", by)
                scene.read_all()
                with suppress(CacheUnavailable):
                    scene.caches[by].sweep()
            scene.client.delete(key)
            scene.goes_on()


@thorough_too
def test_a_sweep_goes_by_no_mark_that_is_no_seq(a_scene: MakeScene, thorough: bool) -> None:
    marks = st.binary(max_size=9) | st.sampled_from([b"nan", b"inf", b"-1", b"1.5", b"9" * 30, b"0x9", b"x"])

    @tried(thorough, 30)
    @given(st.dictionaries(marks, scores, min_size=1, max_size=4))
    def rule(more: dict[bytes, float]) -> None:
        with a_scene() as scene:
            scene.invalidate("tag")
            scene.client.zadd(scene.keys.marks, more)
            assert scene.caches[0].sweep().complete
            scene.goes_on()
            assert scene.caches[1].sweep().complete

    rule()


@thorough_too
def test_a_map_that_cannot_be_read_fails_no_read(a_scene: MakeScene, thorough: bool) -> None:
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )
    garbage = st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode())

    @tried(thorough, 50)
    @given(garbage | st.sampled_from([b"[" * 50_000, b"9" * 5000]), st.booleans())
    def rule(raw: bytes, lost: bool) -> None:
        with a_scene() as scene:
            scene.client.set(scene.keys.map, raw)
            if lost:
                scene.client.delete(scene.keys.ctl)
            for by in range(3):
                scene.read(by)
                scene.load(by)
                scene.store(by)
                scene.invalidate("tag", by)
                scene.read_all()
            scene.client.delete(scene.keys.map, scene.keys.ctl)
            scene.goes_on()

    rule()


@pytest.mark.parametrize(
    "life", ["", "ABCDEF01", "0 1 2 3 4 5 6 7", "01 23 45 67", "\u0660" * 8, 7, None, ["01234567"]]
)
def test_a_map_with_a_life_that_no_record_could_carry_fails_no_read(a_scene: MakeScene, life: object) -> None:
    with a_scene() as scene:
        changed = json.loads(scene.client.get(scene.keys.map)) | {"life": life}
        scene.client.set(scene.keys.map, json.dumps(changed))
        scene.client.delete(scene.keys.ctl)
        assert scene.read_all() == {MISS}
        assert not scene.invalidate()


# -- other versions of this software ------------------------------------------------------------------------------


def test_a_namespace_of_a_later_version_is_refused_and_left_as_it_is(a_scene: MakeScene) -> None:
    """A version that writes other records or rules writes another version into the map: that is the guard."""
    with a_scene() as scene:
        later = json.loads(scene.client.get(scene.keys.map)) | {"version": 2}
        scene.client.set(scene.keys.map, json.dumps(later))
        scene.client.set(scene.keys.ctl, scene.record(version=2))
        before = [scene.client.dump(name) for name in (scene.keys.map, scene.keys.ctl, scene.keys.bans)]
        calls: list[Callable[[Cache], object]] = [
            lambda cache: cache.get(KEY),
            lambda cache: cache.get_many([KEY]),
            lambda cache: cache.set(KEY, 9),
            lambda cache: cache.delete(KEY),
            lambda cache: cache.invalidate_pattern("*"),
            lambda cache: cache.sweep(),
        ]
        for cache, call in itertools.product(scene.caches, calls):
            with pytest.raises(PlacementMismatch, match="version=1: the namespace is open with version=2"):
                call(cache)
        assert before == [
            scene.client.dump(name) for name in (scene.keys.map, scene.keys.ctl, scene.keys.bans)
        ]


def test_versions_that_share_a_map_but_not_a_record_take_hits_from_each_other_never_truth(
    a_scene: MakeScene,
) -> None:
    with a_scene() as scene:
        for _ in range(5):
            theirs = scene.record(version=2)
            scene.client.set(scene.keys.ctl, theirs)
            assert scene.read() == MISS
            assert scene.client.get(scene.keys.ctl) != theirs  # fenced: neither sees what the other stored
            scene.goes_on()


# -- tenants --------------------------------------------------------------------------------------------------


@thorough_too
def test_an_invalidation_reaches_all_of_its_tenant_and_nothing_of_another(
    make_redis: MakeCache, thorough: bool
) -> None:
    cache = make_redis()
    hostile = st.text("a|:*%{}\\[]?\0\n~é\U0001f600", min_size=1, max_size=8)

    @tried(thorough, 40)
    @given(st.lists(tenants | hostile, min_size=2, max_size=5, unique=True), ways)
    def rule(names: list[str | None], how: str) -> None:
        for name in names:
            cache.set(KEY, name, name, tags=["t"])
        INVALIDATIONS[how](cache, names[0])
        assert [cache.get(KEY, name, default=MISS) for name in names] == [MISS, *names[1:]]

    rule()

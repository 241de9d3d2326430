"""A cache whose primary is named by Sentinels: it finds it, follows it, and serves nothing of an old one."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from stoker.cache import (
    Cache,
    CacheConfig,
    CacheUnavailable,
    ConfigError,
    InvalidationNotAcknowledged,
    sentinels,
)
from stoker.cache.options import masked_url
from stoker.cache.sentinel_url import Address, parse
from stoker.cache.sentinels import EVERY_S, LATE_S, SETTLED_S, Found, Sight
from tests.cache.awaited import Awaited
from tests.sentinels import NAME, Group, sentinel_group
from tests.waiting import wait_until

A, B = Address("a", 1), Address("b", 2)


def test_a_url_is_taken_apart() -> None:
    url = "rediss+sentinel://u:p%40w@h1,[::1]:7/my.master-1/3?ssl_cert_reqs=none&sentinel_password=s%2F"
    group = parse(url)
    assert group.sentinels == (Address("h1", 26379), Address("::1", 7))
    assert (group.name, group.database) == ("my.master-1", 3)
    assert group.server(Address("h", 1)) == "rediss://u:p%40w@h:1/3?ssl_cert_reqs=none"
    assert group.sentinel(Address("::1", 7)) == "rediss://:s%2F@[::1]:7?ssl_cert_reqs=none"
    assert "p%40w" not in masked_url(url)
    assert "s%2F" not in masked_url(url)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("redis+sentinel://h:1", "name the primary"),
        ("redis+sentinel://h:1/", "name the primary"),
        ("redis+sentinel://h:1/a b", "name the primary"),
        ("redis+sentinel://h:1/m/x", "a database is a number"),
        ("redis+sentinel:///m", "host:port"),
        ("redis+sentinel://h:1,/m", "host:port"),
        ("redis+sentinel://h:x/m", "host:port"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_remedy(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        CacheConfig(backend="redis", redis_url=url)


def test_what_is_not_there_with_sentinels_is_refused() -> None:
    with pytest.raises(ConfigError, match="a cluster has no Sentinels"):
        CacheConfig(backend="redis", redis_url=f"redis+sentinel://h/{NAME}", cluster=True)


def found(address: Address, *, epoch: int = 0, age: float = 100.0, down: bool = False) -> Found:
    return Found(address, epoch, age, down)


def test_a_primary_is_used_once_it_has_been_named_for_long_enough() -> None:
    sight = Sight()
    sight.take(found(A), 10.0)
    assert (sight.address, sight.due_at, sight.late_at) == (A, 10 + EVERY_S, 10 + LATE_S)
    sight.take(found(B, epoch=1, age=0.0), 11.0)
    assert sight.address is None, "nothing begins at the old one any more"
    sight.take(found(B, epoch=1, age=SETTLED_S - 0.1), 12.0)
    assert sight.address is None
    assert sight.due_at == pytest.approx(12.1)
    sight.take(found(B, epoch=1, age=SETTLED_S), 12.1)
    assert sight.address == B


def test_between_leaving_and_arriving_there_is_time_for_a_message_between_sentinels() -> None:
    assert SETTLED_S - LATE_S >= 0.5


def test_a_primary_that_is_held_for_down_is_left_only_for_another_one() -> None:
    sight = Sight()
    sight.take(found(A, down=True), 10.0)
    assert sight.address is None
    assert "is down" in sight.refusal.reason
    sight.take(found(A), 11.0)
    sight.take(found(A, down=True), 12.0)
    assert sight.address == A


def test_without_sentinels_the_primary_is_used_as_before() -> None:
    sight = Sight()
    silence = CacheUnavailable("redis", "silence")
    sight.take_nothing(silence, 9.0)
    assert sight.address is None
    assert sight.refusal is silence
    sight.take(found(A), 10.0)
    sight.take_nothing(silence, 11.0)
    assert sight.address == A
    assert sight.due_at == 11 + EVERY_S


class Says:
    """Stands for a Sentinel that says something which a real one says for a moment only; None: nothing."""

    def __init__(self, address: Address | None = None, epoch: int = 0) -> None:
        self._said = address, epoch

    def sentinel_master(self, _: str) -> dict[str, Any]:
        address, epoch = self._said
        if address is None:
            raise redis.ConnectionError("silent")
        where = {"ip": address.host, "port": address.port, "config-epoch": epoch, "role-reported-time": 9000}
        return where | {"is_sdown": False, "is_odown": False}


def asked(known: int, *said: Says) -> list[Found]:
    """What comes of asking so many times in a row."""
    hosts = ",".join(f"h{n}:1" for n in range(len(said)))
    group = sentinels.Sentinels(config(f"redis+sentinel://{hosts}/{NAME}"))
    group._clients = dict(zip(group.url.sentinels, said, strict=True))
    return [group.ask(known) for _ in said]


def test_a_sentinel_that_lags_behind_is_not_believed_while_there_is_another() -> None:
    assert [one.address for one in asked(1, Says(A, 0), Says(B, 1), Says(A, 0))] == [B, B, B]
    assert [one.address for one in asked(1, Says(), Says(B, 1))] == [B, B]
    assert [one.address for one in asked(5, Says(A, 0), Says(B, 1))] == [B, B], "they all began anew"


def test_one_that_lags_behind_is_not_believed_either_while_another_is_silent() -> None:
    with pytest.raises(CacheUnavailable, match="but such as have missed a fail-over"):
        asked(1, Says(A, 0), Says())


def test_another_sentinel_is_asked_each_time() -> None:
    assert {one.address for one in asked(0, Says(A), Says(B))} == {A, B}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Sentinel that is slow on a busy machine is no Sentinel that does not answer."""
    monkeypatch.setattr(sentinels, "_ASK_WITHIN_S", 2.0)


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with sentinel_group(locked=True) as group:
        yield group


def config(url: str, **fields: Any) -> CacheConfig:
    return CacheConfig(backend="redis", redis_url=url, **fields)


def kept_trying(change: Callable[[], object]) -> None:
    """Until it is acknowledged."""

    def done() -> bool:
        try:
            change()
        except InvalidationNotAcknowledged:
            return False
        return True

    wait_until(done)


def test_a_name_that_the_sentinels_do_not_know_is_told(group: Group) -> None:
    with Cache(config(group.url.replace(NAME, "another"))) as cache:
        with pytest.raises(InvalidationNotAcknowledged, match="it monitors no primary called 'another'"):
            cache.delete("k")
        assert cache.get_or_load("k", lambda: 1) == 1


def test_sentinels_that_do_not_answer_are_told_without_passwords() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        url = f"redis+sentinel://:hidden@127.0.0.1:{deaf.getsockname()[1]}/{NAME}?sentinel_password=hidden"
        with Cache(config(url)) as cache, pytest.raises(InvalidationNotAcknowledged) as told:
            cache.delete("k")
    assert "no Sentinel names the primary" in str(told.value)
    assert "hidden" not in str(told.value)


def test_the_wrong_password_for_sentinels_is_told(group: Group) -> None:
    with (
        Cache(config(group.url.replace("sentinel_secret", "guessed"))) as cache,
        pytest.raises(InvalidationNotAcknowledged, match="AuthenticationError"),
    ):
        cache.delete("k")


def test_the_documented_acl_of_the_sentinels_user_is_enough(group: Group) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sentinel.md").read_text()
    [allowed] = re.findall(r"^`(\+hello .*?)`;", page, re.MULTILINE)
    with group.sentinel() as sentinel:
        sentinel.execute_command("ACL", "SETUSER", "least", "reset", "on", ">pw", *allowed.split())
    url = group.url.replace(
        "sentinel_password=sentinel_secret", "sentinel_username=least&sentinel_password=pw"
    )
    with Cache(config(url)) as cache:
        assert cache.set("k", 1)


def test_nothing_of_the_old_primary_is_served_though_it_goes_on(group: Group, namespace: str) -> None:
    """A fail-over by hand: for ten seconds there are two primaries, and the caches have connections to the old one."""
    of = config(group.url, namespace=namespace)
    old = group.number(group.primary())
    with Cache(of) as called, awaited(of) as awaiting, group.admin(old) as admin:
        kept_trying(lambda: called.set("k", "old"))
        assert called.get("k") == awaiting.get("k") == "old"
        group.fail_over()
        with Cache(of) as another:
            kept_trying(lambda: another.delete("k"))
            assert called.get("k") is awaiting.get("k") is another.get("k") is None
            kept_trying(lambda: awaiting.set("k", "new"))
            assert called.get("k") == awaiting.get("k") == another.get("k") == "new"
        wait_until(lambda: clients_of(admin) == 0)


@contextmanager
def awaited(of: CacheConfig) -> Iterator[Any]:
    cache = Awaited(of)
    try:
        yield cache
    finally:
        cache.end()


def clients_of(admin: Any) -> int:
    """Connections to a server, but for those of Sentinels, of other servers and of whoever asks."""
    mine = str(admin.client_id())
    return sum(
        one["flags"] == "N" and "sentinel" not in one["name"] and one["id"] != mine
        for one in admin.client_list()
    )

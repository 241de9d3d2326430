"""Commands that are put together from words packed before are sent as hiredis would pack them."""

from typing import Any

import hiredis
import pytest

from stoker.cache import scripts
from stoker.cache.bans import Control, View
from stoker.cache.dialogue import Line
from stoker.cache.protocol import Shard
from stoker.cache.wire import Call, words
from tests.cache.ban_world import a_shard

SERVER = b"0123456789abcdef"
KEYS = ["k", "100%s", "%d%b", "ключ", "x" * 300]


@pytest.fixture
def shard(namespace: str) -> Shard:
    shard = a_shard(namespace, [])
    digest = shard.digest.decode()
    raw = f"1:00112233445566ff:7:0a0b0c0d:0:0:1:{digest}:{SERVER.decode()}".encode()
    control = Control.parse(raw)
    assert control is not None
    shard.view = View(control)
    return shard


def sent(*given: Any) -> bytes:
    return bytes(hiredis.pack_command(given))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("tenant_id", [None, "50% off"])
def test_a_look_at_one_entry_is_an_mget(shard: Shard, tenant_id: str | None, key: str) -> None:
    [command] = next(shard.look_at(tenant_id, key))
    assert Line().packed((command,)) == sent("MGET", shard.keys.entry(tenant_id, key), shard.keys.ctl)


@pytest.mark.parametrize("server", [SERVER, b"-", b"100%"])
@pytest.mark.parametrize("key", KEYS)
def test_a_set_is_the_call_of_its_script(shard: Shard, key: str, server: bytes) -> None:
    line = Line()
    line.server = server
    [call] = next(shard.store([((None, key), bytes(range(256)), 60_000)]))
    assert isinstance(call, Call)
    assert call.packed is not None
    keys = shard.keys
    names = keys.ctl, keys.entry(None, key), keys.lease(None, key), keys.writes
    assert call.keys == names
    given = ("EVALSHA", scripts.SET.sha, 4, *names, server, *call.args)
    assert line.packed((call,)) == sent(*given)
    assert line.packed((call, call)) == 2 * sent(*given)
    assert line.packed((call,), whole=True) == sent("EVAL", scripts.SET.source, *given[2:])


def test_words_leave_what_is_not_given_to_be_put_in() -> None:
    assert words(b"SET", None, b"5%", None) % (1, b"%", 2, b"%d") == (
        b"$3\r\nSET\r\n$1\r\n%\r\n$2\r\n5%\r\n$2\r\n%d\r\n"
    )

"""An invalidation is one script call, however many keys it kills."""

from collections.abc import Callable
from functools import partial
from typing import Any

from stoker.cache import Cache
from stoker.cache.keys import ShardKeys
from tests.cache.conftest import MakeCache


def commands_of(client: Any, action: Callable[[], Any]) -> dict[str, int]:
    """Calls by command that the server counted during the action, this client's own left out."""

    def calls() -> dict[str, int]:
        stats: Any = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): facts["calls"] for name, facts in stats.items()}

    before = calls()
    action()
    after = calls()
    counted = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in counted.items() if count and name != "info"}


OPERATIONS: dict[str, Callable[[Cache], None]] = {
    "pattern": lambda cache: cache.invalidate_pattern("*:?*", "acme"),
    "prefix": lambda cache: cache.invalidate_pattern("user:*", "acme"),
    "tag": lambda cache: cache.invalidate_tags(["users"], "acme"),
    "tenant": lambda cache: cache.invalidate_tenant("acme"),
}


def test_it_sends_as_much_for_a_hundred_thousand_keys_as_for_a_thousand(
    make_redis: MakeCache, client: Any, namespace: str
) -> None:
    cache = make_redis()
    sent: dict[int, dict[str, dict[str, int]]] = {}
    for size in (1_000, 100_000):
        keys = [f"user:{i}" for i in range(size)]
        cache.set_many(dict.fromkeys(keys, 0), "acme", tags=["users"])
        cache.invalidate_pattern("nothing*")  # the first time also brings the script to the server
        sent[size] = {}
        for name, invalidate in OPERATIONS.items():
            cache.set_many(dict.fromkeys(keys[:100], 0), "acme", tags=["users"])
            client.delete(
                ShardKeys(namespace).marks
            )  # a mark is written once a second: make it be written each time
            sent[size][name] = commands_of(client, partial(invalidate, cache))
            assert cache.get_many(keys[::97], "acme") == {}
    assert sent[1_000] == sent[100_000]
    for counts in sent[1_000].values():
        assert counts["evalsha"] == 1
        assert not {"scan", "del", "unlink", "keys"} & set(counts)

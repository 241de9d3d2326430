"""An invalidation through a real worker costs the cache's server one script call, however many keys it kills."""

from collections.abc import Iterator

import pytest
import redis

from stoker.cache import Cache
from stoker.cache.keys import ShardKeys
from stoker.tasks import send
from stoker.worker.embedded import embedded_server
from tests.flow.conftest import Deployment

NO_SWEEP_YET = "600"
BATCH = 5_000


@pytest.fixture
def cache_server() -> Iterator[str]:
    """One of its own: what is counted is what the whole server was asked for."""
    with embedded_server("cache") as server:
        yield server.url


def test_it_asks_as_much_of_the_server_for_a_hundred_thousand_keys_as_for_a_thousand(
    deployment: Deployment, other_cache: Cache, cache_server: str, namespace: str
) -> None:
    deployment.worker(STOKER_JOB__SWEEP_DELAY=NO_SWEEP_YET)
    asked: dict[int, dict[str, int]] = {}
    with redis.Redis.from_url(cache_server) as client:
        for size in (1_000, 100_000):
            # Given so many keys, and a worker that has seen an invalidation before
            for first in range(0, size, BATCH):
                keys = (f"user:{number}" for number in range(first, min(first + BATCH, size)))
                other_cache.set_many(dict.fromkeys(keys, 0))
            send.invalidate_pattern("other:*").wait(timeout=60)
            # When all of them are invalidated
            client.delete(ShardKeys(namespace).marks)  # written once a second: make it be written each time
            client.config_resetstat()
            send.invalidate_pattern("user:*").wait(timeout=60)
            found = client.info("commandstats")
            asked[size] = {name.removeprefix("cmdstat_"): found[name]["calls"] for name in found}
            # Then they are gone for readers
            assert other_cache.get("user:0") is other_cache.get(f"user:{size - 1}") is None
    assert asked[1_000]["evalsha"] == asked[100_000]["evalsha"] == 1
    assert asked[1_000] == asked[100_000]
    assert not {"scan", "del", "unlink", "keys"} & asked[1_000].keys()

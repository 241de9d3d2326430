"""dogpile.cache with its Redis backend and its lock in Redis.

- read: `get_or_create`, https://dogpilecache.sqlalchemy.org/en/latest/api.html#dogpile.cache.region.CacheRegion.get_or_create
- lock and early refresh: `distributed_lock`, `thread_local_lock=False`, and a `redis_expiration_time` above the
  `expiration_time`, between which one caller loads and the others get the old value,
  https://dogpilecache.sqlalchemy.org/en/latest/api.html#dogpile.cache.backends.redis.RedisBackend
- by key: `delete`, https://dogpilecache.sqlalchemy.org/en/latest/api.html#dogpile.cache.region.CacheRegion.delete
- groups: no tags or patterns; the recipe deletes the keys that belong together, here in one `delete_multi`,
  https://dogpilecache.sqlalchemy.org/en/latest/recipes.html#invalidating-a-group-of-related-keys. `region.invalidate`
  would be for this process only, as its documentation warns.

It promises one creator at a time, and nothing of values whose creation had begun before a `delete`.
"""
# pyright: reportMissingImports=false

from typing import Any

from dogpile.cache import make_region

from benchmarks.consistency.peer import LOCK_S, Change, Item, Load, Peer, Value


class Dogpile(Peer):
    """Blocks. Raises when there is no server, reads too."""

    def __init__(self, url: str, ttl: int) -> None:
        self._region: Any = make_region().configure(
            "dogpile.cache.redis",
            expiration_time=ttl,
            arguments={
                "url": url,
                "redis_expiration_time": 2 * ttl,
                "distributed_lock": True,
                "thread_local_lock": False,
                "lock_timeout": LOCK_S,
            },
        )

    def read(self, item: Item, load: Load) -> Value:
        got: Value = self._region.get_or_create(item.name, load.now)
        return got

    def forget_keys(self, change: Change) -> None:
        self._region.delete_multi([item.name for item in change.items])

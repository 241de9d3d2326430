"""redis-py, cache-aside by hand: GET; on a miss load and SET with a TTL; DEL on a change.

As Redis's own guide for redis-py does it, with its short lock around loads and its polling:
https://redis.io/docs/latest/develop/use-cases/cache-aside/redis-py/

- read: #cache-aside-reads; lock: #stampede-protection-with-a-lua-lock (redis-py's `Lock` is that script)
- by key: #invalidation-on-write. By tag: the keys, in one DEL
- by pattern: SCAN and UNLINK, https://redis.io/docs/latest/commands/scan/

It promises what the guide says: the TTL is the upper bound on how long a stale value can be served.
"""

import json
import time

import redis
from redis.exceptions import LockError
from redis.lock import Lock

from benchmarks.consistency.peer import LOCK_S, Change, Item, Load, Peer, Value

POLL_S = 0.025


class RedisPy(Peer):
    """Blocks. Raises when there is no server, reads too: redis-py leaves that to the program."""

    def __init__(self, url: str, ttl: int) -> None:
        self._redis = redis.Redis.from_url(url)
        self._ttl = ttl

    def read(self, item: Item, load: Load) -> Value:
        found = self._get(item.name)
        return self._load_alone(item.name, load) if found is None else found

    def forget_keys(self, change: Change) -> None:
        self._redis.delete(*(item.name for item in change.items))

    def forget_pattern(self, change: Change) -> None:
        if names := list(self._redis.scan_iter(f"{change.tenant}:{change.pattern}", count=1000)):
            self._redis.unlink(*names)

    def forget_tenant(self, change: Change) -> None:
        self.forget_pattern(change._replace(pattern="*"))

    def _get(self, name: str) -> Value | None:
        found = self._redis.get(name)
        return None if found is None else json.loads(found)

    def _load_alone(self, name: str, load: Load) -> Value:
        lock = self._redis.lock(f"lock:{name}", timeout=LOCK_S)
        if lock.acquire(blocking=False):
            try:
                loaded = load.now()
                self._redis.set(name, json.dumps(loaded), ex=self._ttl)
                return loaded
            finally:
                _release(lock)
        deadline = time.monotonic() + LOCK_S
        while time.monotonic() < deadline:
            time.sleep(POLL_S)
            if (found := self._get(name)) is not None:
                return found
        return load.now()


def _release(lock: Lock) -> None:
    try:
        lock.release()
    except LockError:
        return  # it ran out, or was flushed: the guide's script says 0 and nobody asks

"""What the fleet has sampled of its reads, collected from the cache's server: for `stoker.tasks`, which learns from it
which keys are hot. How the samples are taken is `hot`'s business."""

from stoker.cache import hot
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.engine import Cache
from stoker.cache.hot import Reads

_AT_ONCE = 50


def collect(cache: Cache) -> list[Reads]:
    """Take what processes have reported since the last time; of two who do so at once each gets another part.

    Raises:
        CacheUnavailable: The server cannot be asked.
    """
    backend = cache._core.backend
    if not isinstance(backend, RedisBackend):
        return []  # nobody reports to a cache in one process
    packed: list[bytes] = []
    while more := cache._run(backend.reports(_AT_ONCE)):
        packed += more
        if len(more) < _AT_ONCE or len(packed) >= hot.MOST_REPORTS:
            break
    return [reads for report in packed if (reads := hot.unpack(report)) is not None]

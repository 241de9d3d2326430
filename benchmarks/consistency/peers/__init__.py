"""The contenders by name, imported only when they take part: none of the others' libraries needs to be there."""

from importlib import import_module
from typing import NamedTuple

from benchmarks.consistency.peer import Peer


class Contender(NamedTuple):
    """Where its adapter is, how it is driven, and which packages it consists of, for their versions."""

    module: str
    adapter: str
    awaited: bool
    packages: tuple[str, ...]

    def load(self) -> type[Peer]:
        """Its adapter.

        Raises:
            ModuleNotFoundError: Its library is not installed.
        """
        adapter: type[Peer] = getattr(import_module(f"{__name__}.{self.module}"), self.adapter)
        return adapter


CONTENDERS = {
    "stoker": Contender("stoker_peer", "Stoker", False, ("stoker",)),
    "stoker-async": Contender("stoker_peer", "AsyncStoker", True, ("stoker",)),
    "cashews": Contender("cashews_peer", "Cashews", True, ("cashews",)),
    "dogpile.cache": Contender("dogpile_peer", "Dogpile", False, ("dogpile.cache",)),
    "aiocache": Contender("aiocache_peer", "Aiocache", True, ("aiocache",)),
    "django-redis": Contender("django_redis_peer", "DjangoRedis", False, ("django-redis", "django")),
    "redis-py": Contender("redis_py_peer", "RedisPy", False, ("redis",)),
}

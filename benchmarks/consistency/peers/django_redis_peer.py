"""django-redis: Django's cache API on Redis, without a Django project.

- read: `get`, and `set` after a miss, https://docs.djangoproject.com/en/5.2/topics/cache/#basic-usage
- against stampedes: the herd client, https://github.com/jazzband/django-redis#herd-client: for `CACHE_HERD_TIMEOUT`
  after its end a value is still served, but to few who load it anew. (`get_or_set` would not overwrite it.)
- by key: `delete_many`, https://docs.djangoproject.com/en/5.2/topics/cache/#django.core.caches.cache.delete_many.
  By tag: the same, for there are none
- by pattern and tenant: `delete_pattern`, with a large `DJANGO_REDIS_SCAN_ITERSIZE` as recommended,
  https://github.com/jazzband/django-redis#scan--delete-keys-in-bulk

Reads go through a cache with `IGNORE_EXCEPTIONS`, invalidations through one without, so that a lost one is known,
https://github.com/jazzband/django-redis#memcached-exceptions-behavior. No promise is made about loads that race a
deletion.
"""
# pyright: reportMissingImports=false

from typing import Any

from django.conf import settings
from django.core.cache import caches

from benchmarks.consistency.peer import Change, Item, Load, Peer, Value


class DjangoRedis(Peer):
    """Blocks. Reads load when there is no server."""

    def __init__(self, url: str, ttl: int) -> None:
        def alias(ignore: bool) -> dict[str, Any]:
            options = {"CLIENT_CLASS": "django_redis.client.HerdClient", "IGNORE_EXCEPTIONS": ignore}
            return {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": url,
                "TIMEOUT": ttl,
                "OPTIONS": options,
            }

        settings.configure(
            CACHES={"default": alias(ignore=True), "strict": alias(ignore=False)},
            CACHE_HERD_TIMEOUT=ttl,
            DJANGO_REDIS_SCAN_ITERSIZE=100_000,
        )

    def read(self, item: Item, load: Load) -> Value:
        cache = caches["default"]
        found: Value | None = cache.get(item.name)
        if found is not None:
            return found
        loaded = load.now()
        cache.set(item.name, loaded)
        return loaded

    def forget_keys(self, change: Change) -> None:
        caches["strict"].delete_many([item.name for item in change.items])

    def forget_pattern(self, change: Change) -> None:
        caches["strict"].delete_pattern(f"{change.tenant}:{change.pattern}")

    def forget_tenant(self, change: Change) -> None:
        caches["strict"].delete_pattern(f"{change.tenant}:*")

"""The broker's URL as Celery takes it: with Sentinels its own form of URL, and options beside it.

Used by `app`, and by what makes a Celery app of its own.
"""

from typing import Any

from stoker.cache import plain_client, sentinel_url
from stoker.cache.sentinel_url import is_sentinel


def for_celery(url: str) -> str:
    """The URL, as `sentinel://...;sentinel://...` if there are Sentinels."""
    if not is_sentinel(url):
        return url
    group = sentinel_url.parse(url)
    return ";".join(f"sentinel://{group.credentials}{one}/{group.database}" for one in group.sentinels)


def transport_options(url: str, connect_timeout: float, timeout: float) -> dict[str, Any]:
    """What else kombu's transport has to know. Both waits are seconds."""
    waits = {"socket_connect_timeout": connect_timeout, "socket_timeout": timeout}
    if not is_sentinel(url):
        return waits
    return waits | {
        "master_name": sentinel_url.parse(url).name,
        "sentinel_kwargs": waits | plain_client.sentinel_options(url),
    }


def use_ssl(url: str) -> dict[str, Any] | None:
    """Options of TLS to servers behind Sentinels; None: the URL itself says all."""
    if not is_sentinel(url) or not sentinel_url.parse(url).secure:
        return None
    given = {
        name: value for name, value in plain_client.sentinel_options(url).items() if name.startswith("ssl_")
    }
    return {"ssl_cert_reqs": "required"} | given

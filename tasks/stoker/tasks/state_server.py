"""Connections to the state server, for what keeps something there: bounded waits, our error, our scripts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stoker.cache import plain_client
from stoker.tasks.errors import StateUnavailable

T = TypeVar("T")
CONNECT_TIMEOUT = 0.5
TIMEOUT = 1.0
_PAUSE_S = 0.2


def connect(url: str) -> Any:
    """A client that waits `TIMEOUT` at most. It does not connect before its first use."""
    return plain_client.client(
        url,
        decode_responses=True,
        encoding_errors="backslashreplace",  # what somebody else wrote there must not end a call
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=TIMEOUT,
        # One retry, and only on a broken connection: an idle one may have been closed by a restart of the server.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )


def script(client: Any, name: str) -> Any:
    """One of `scripts/*.lua`, to be called with `keys` and `args`."""
    text = resources.files("stoker.tasks").joinpath("scripts", f"{name}.lua").read_text()
    return client.register_script(text)


@contextmanager
def bounded() -> Iterator[None]:
    """Turn what the client raises into `StateUnavailable`."""
    try:
        yield
    except redis.RedisError as error:
        raise StateUnavailable(f"{type(error).__name__}: {error}") from error


def patiently(ask: Callable[[], T], seconds: float) -> T:
    """Ask until there is an answer. Raises StateUnavailable if there is none for so long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with bounded():
                return ask()
        except StateUnavailable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE_S)

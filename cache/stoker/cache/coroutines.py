"""One event loop for this process's synchronous callers whose loaders are coroutine functions. Only `threads` uses it.

It runs in a daemon thread, begun by the first such load, so that what loaders share (a session, a pool of connections)
belongs to one loop however many threads ask.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, and wait for that. An exception in the waiting thread cancels it."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _running())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _running() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="stoker-coroutines", daemon=True).start()
        return _loop


def _forked() -> None:
    """The parent's thread does not exist in its child."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


os.register_at_fork(after_in_child=_forked)

"""One event loop for this process's synchronous callers whose loaders are coroutine functions. Only `threads` uses it.

It runs in a daemon thread, begun by the first such load, so that what loaders share (a session, a pool of connections)
belongs to one loop however many threads ask.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from stoker.cache.errors import LoaderError

T = TypeVar("T")
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def refuse_here() -> None:
    """Called before a thread waits for a load.

    Raises:
        LoaderError: It is the loop's own, and what it waits for may need the loop.
    """
    if threading.current_thread() is _thread:
        raise LoaderError(
            "a coroutine function that loads for a Cache has read a key that must be loaded too, and would hold up all "
            "others: let it await AsyncCache(cache)"
        )


def result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, and wait for that. An exception in the waiting thread cancels it."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _running())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _running() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_run, args=(_loop,), name="stoker-coroutines", daemon=True)
            _thread.start()
        return _loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            loop.run_forever()
        except (KeyboardInterrupt, SystemExit):
            continue  # a loader raised it: whoever waits for that one is told, and the loop serves the others


def _forked() -> None:
    """The parent's thread does not exist in its child."""
    global _lock, _loop, _thread
    _lock, _loop, _thread = threading.Lock(), None, None


os.register_at_fork(after_in_child=_forked)

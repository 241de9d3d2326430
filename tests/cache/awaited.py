"""An `AsyncCache` behind the methods of a `Cache`, so that the same tests run over both.

An event loop in a thread of its own runs what callers ask for; each call is a task.
"""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Self

import redis
import uvloop

from stoker.cache import AsyncCache, CacheConfig


class Awaited:
    """Calls from any thread, awaited on one loop: asyncio's, or uvloop's."""

    def __init__(self, config: CacheConfig, *, uv: bool = False) -> None:
        self._loop = uvloop.new_event_loop() if uv else asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="awaited", daemon=True)
        self._thread.start()
        self.aio = AsyncCache(config)
        self._core = self.aio._core
        self.config = config

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop, from another thread."""
        assert threading.current_thread() is not self._thread
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def _run(self, operation: Any) -> Any:
        async def run() -> Any:
            transport = self.aio._here().transport
            return (
                await self.aio._here().loop._do(operation)
                if transport is None
                else await transport.run(operation)
            )

        return self.wait(run())

    def _do(self, program: Any) -> Any:
        return self.wait(self.aio._do(program))

    @property
    def _client(self) -> Any:
        if self.config.redis_url is None:
            raise AttributeError("_client: a memory cache has no server")
        return redis.Redis.from_url(self.config.redis_url)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.aio, name)
        if inspect.iscoroutinefunction(found):
            return lambda *args, **kwargs: self.wait(found(*args, **kwargs))
        if name.endswith("_steps"):
            return lambda *args, **kwargs: self._steps(found, args, kwargs)
        return found

    def _steps(self, found: Any, args: Any, kwargs: Any) -> Iterator[Any]:
        async def begin() -> AsyncIterator[Any]:
            steps: AsyncIterator[Any] = found(*args, **kwargs)
            return steps

        steps = self.wait(begin())
        try:
            while True:
                try:
                    yield self.wait(anext(steps))
                except StopAsyncIteration:
                    return
        finally:
            self.wait(steps.aclose())

    def close(self) -> None:
        """Close the cache; it stays usable, as a `Cache` does."""
        if self._loop.is_running():
            self.wait(self.aio.close())

    def end(self) -> None:
        """Close the cache and end the loop."""
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.aio)

    def __bool__(self) -> bool:
        return bool(self.aio)

    def __repr__(self) -> str:
        return repr(self.aio)

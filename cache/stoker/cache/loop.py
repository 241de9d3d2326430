"""Performs programs in an asyncio task: what `threads` does with threads, for one event loop.

Coroutine functions are awaited on the loop; other loaders run in its default executor, so that they hold up nobody. For
`aio`.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar, copy_context
from types import GeneratorType
from typing import Any, TypeVar, cast

from stoker.cache.errors import CacheUnavailable
from stoker.cache.flight import Flights
from stoker.cache.leases import HeldLeases
from stoker.cache.loading import UnderWay, all_loading
from stoker.cache.options import CacheConfig
from stoker.cache.programs import Aside, Effect, Load, Program, Sleep, Spawn, Steps, Wait
from stoker.cache.protocol import Lease
from stoker.cache.steps import Step
from stoker.cache.wire import Operation

T = TypeVar("T")
R = TypeVar("R")
Renew = Callable[[list[Lease]], Operation[None]]
log = logging.getLogger(__name__)
_loading: ContextVar["Loop | None"] = ContextVar("stoker_loading", default=None)
"""Whose place among the loads the present task has."""


class Loop:
    """Performs the programs of one cache on one event loop. Arguments as of `Threads`."""

    def __init__(
        self,
        config: CacheConfig,
        run: Callable[[Operation[Any]], Awaitable[Any]],
        renew: Renew | None,
    ) -> None:
        self._config = config
        self._run = run
        self._renew = renew
        leases = HeldLeases(config.lease, config.max_load, self._begin_renewing)
        self.under_way = UnderWay(Flights(asyncio.Event), leases, {})
        self._loads = asyncio.Semaphore(config.max_loads)
        self._spawned: set[asyncio.Task[None]] = set()
        self._renewer: asyncio.Task[None] | None = None

    async def perform(self, program: Program[T]) -> T:
        """Do what the program asks for, hand it errors where they happen, and return its result."""
        try:
            effect = next(program)
            while True:
                try:
                    answer = await self._do(effect)
                except GeneratorExit:
                    program.close()
                    raise
                except BaseException as error:
                    effect = program.throw(error)
                else:
                    effect = program.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def steps(self, program: Steps[R]) -> AsyncIterator[Step[R]]:
        """As `perform`, yielding the steps."""
        answer: Any = None
        try:
            while True:
                effect = program.send(answer)
                while not isinstance(effect, Step):
                    try:
                        answer = await self._do(effect)
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        effect = program.throw(error)
                    else:
                        effect = program.send(answer)
                yield effect
                answer = None
        except StopIteration:
            return
        finally:
            program.close()

    async def _do(self, effect: Effect) -> Any:
        if isinstance(effect, GeneratorType):
            return await self._run(effect)
        match effect:
            case Load(call):
                return await self._load(call)
            case Wait(landed, seconds):
                await _wait(cast("asyncio.Event", landed), seconds)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Aside(call):
                await asyncio.to_thread(call)
            case Spawn(program):
                self._spawn(program)
        return None

    def _spawn(self, program: Program[None]) -> None:
        context = copy_context()
        context.run(_loading.set, None)  # its loads need places of their own
        task = asyncio.create_task(self.perform(program), name="stoker-refresh", context=context)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    async def _load(self, call: Callable[[], Any]) -> tuple[Any, int]:
        if _loading.get() is self:  # a loader that reads through the cache has its place already
            return await _timed(call)
        try:
            async with asyncio.timeout(self._config.max_load):
                await self._loads.acquire()
        except TimeoutError:
            raise all_loading(self._config) from None
        mark = _loading.set(self)
        try:
            return await _timed(call)
        finally:
            _loading.reset(mark)
            self._loads.release()

    def _begin_renewing(self) -> None:
        if self._renew is not None and (self._renewer is None or self._renewer.done()):
            self._renewer = asyncio.create_task(self._renewing(self._renew), name="stoker-leases")

    async def _renewing(self, renew: Renew) -> None:
        held = self.under_way.leases
        while True:
            await asyncio.sleep(held.every)
            leases = held.due()
            if leases is None:
                self._renewer = None
                return
            if leases:
                try:
                    await self._run(renew(leases))
                except CacheUnavailable as error:
                    log.warning("leases of %d loads were not renewed: %s", len(leases), error)

    async def close(self) -> None:
        """End the background tasks; leases still held run out."""
        tasks = [*self._spawned, *([self._renewer] if self._renewer else [])]
        self._renewer = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait(landed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await landed.wait()
    except TimeoutError:
        return


async def _timed(call: Callable[[], Any]) -> tuple[Any, int]:
    began = time.perf_counter()
    value = await call() if inspect.iscoroutinefunction(call) else await asyncio.to_thread(call)
    if inspect.isawaitable(value):
        value = await value
    return value, round((time.perf_counter() - began) * 1e6)

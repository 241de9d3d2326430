"""Performs programs in an asyncio task: what `threads` does with threads, for one event loop.

Coroutine functions are awaited on the loop; other loaders run in threads, so that they hold up nobody. Not in those of
the loop's executor: it looks up host names, and slow loaders would keep the cache from connecting. For `aio`.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from types import GeneratorType
from typing import Any, TypeVar, cast

from stoker.cache.errors import CacheUnavailable
from stoker.cache.flight import Flights
from stoker.cache.leases import HeldLeases, Renew
from stoker.cache.loading import UnderWay, all_loading
from stoker.cache.options import CacheConfig
from stoker.cache.programs import Aside, Effect, Lane, Load, Program, Sleep, Spawn, Steps, Wait
from stoker.cache.steps import Step
from stoker.cache.wire import Operation

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)
_MOST_THREADS = 10_000
"""Never reached: loaders are few by their places, except those that wait for loaders they called."""


class _Place:
    """A load's place among those that run at once; what its loader loads in turn is loaded in it."""

    __slots__ = ("_threads", "loads", "over")

    def __init__(self, loads: asyncio.Semaphore) -> None:
        self.loads = loads
        self.over = False
        self._threads = 0

    def end(self) -> None:
        """The load has ended. When it was cancelled, threads may still be busy for it: they keep the place."""
        self.over = True
        self._give_back()

    def thread_began(self) -> None:
        self._threads += 1

    def thread_ended(self) -> None:
        self._threads -= 1
        self._give_back()

    def _give_back(self) -> None:
        if self.over and not self._threads:
            self.loads.release()


_loading: ContextVar[_Place | None] = ContextVar("stoker_loading", default=None)
"""The place of the load that the present task is part of."""


class Loop:
    """Performs the programs of one cache on one event loop. Arguments as of `Threads`."""

    def __init__(
        self,
        config: CacheConfig,
        run: Callable[[Operation[Any]], Awaitable[Any]],
        renew: Renew | None,
    ) -> None:
        self._config = config
        self.run = run
        self._renew = renew
        leases = HeldLeases(config.lease, config.max_load, self._begin_renewing)
        self.under_way = UnderWay(Flights(asyncio.Event), leases, {})
        self._loads = asyncio.Semaphore(config.max_loads)
        self._spawned: set[asyncio.Task[None]] = set()
        self._renewer: asyncio.Task[None] | None = None
        self._threads = _pool()
        self._closed = False

    async def perform(self, program: Program[T]) -> T:
        """Do what the program asks for, hand it errors where they happen, and return its result."""
        try:
            effect = next(program)
            while True:
                try:
                    # Most effects are operations, and most programs have but this one.
                    answer = await (
                        self.run(effect) if isinstance(effect, GeneratorType) else self._do(effect)
                    )
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
        lanes: list[asyncio.Task[None]] = []
        try:
            while True:
                effect = program.send(answer)
                while not isinstance(effect, Step):
                    try:
                        answer = await self._do(effect, lanes)
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
            for lane in lanes:
                lane.cancel()

    async def _do(self, effect: Effect, lanes: list[asyncio.Task[None]] | None = None) -> Any:
        if isinstance(effect, GeneratorType):
            return await self.run(effect)
        match effect:
            case Load(call, begins):
                return await self._load(call, begins)
            case Wait(landed, seconds):
                await _wait(cast("asyncio.Event", landed), seconds)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Aside(call):
                await asyncio.to_thread(call)
            case Spawn(program):
                self._spawn(program)
            case Lane(program) if lanes is not None:
                lanes.append(asyncio.create_task(self.perform(program)))
        return None

    def _spawn(self, program: Program[None]) -> None:
        if self._closed:
            return
        context = copy_context()
        context.run(_loading.set, None)  # its loads need places of their own
        task = asyncio.create_task(self.perform(program), name="stoker-refresh", context=context)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    async def _load(self, call: Callable[[], Any], begins: Callable[[], None]) -> tuple[Any, int]:
        outer = _loading.get()
        # A loader that reads through the cache has its place already; a task that outlives its loader has not.
        if outer is not None and outer.loads is self._loads and not outer.over:
            begins()
            return await self._timed(call, outer)
        await self._turn()
        place = _Place(self._loads)
        _loading.set(place)
        try:
            begins()
            return await self._timed(call, place)
        finally:
            _loading.set(outer)
            place.end()

    async def _turn(self) -> None:
        if not self._loads.locked():
            await self._loads.acquire()
            return
        try:
            async with asyncio.timeout(self._config.max_load):
                await self._loads.acquire()
        except TimeoutError:
            raise all_loading(self._config) from None

    async def _timed(self, call: Callable[[], Any], place: _Place) -> tuple[Any, int]:
        began = time.perf_counter()
        if inspect.iscoroutinefunction(call):
            value = await call()
        else:
            value = await self._in_thread(call, place)
        if inspect.isawaitable(value):
            value = await value
        return value, round((time.perf_counter() - began) * 1e6)

    async def _in_thread(self, call: Callable[[], Any], place: _Place) -> Any:
        loop = asyncio.get_running_loop()
        future = self._threads.submit(copy_context().run, _called, call)
        place.thread_began()

        def ended(_: object) -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits for a place any more
                loop.call_soon_threadsafe(place.thread_ended)

        future.add_done_callback(ended)
        return await asyncio.wrap_future(future)

    def _begin_renewing(self) -> None:
        if self._closed or self._renew is None:
            return
        if self._renewer is None or self._renewer.done():
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
                    await self.run(renew(leases))
                except CacheUnavailable as error:
                    log.warning("leases of %d loads were not renewed: %s", len(leases), error)

    async def close(self) -> None:
        """End the background tasks, for good; what is still under way ends by itself, and its leases run out."""
        self._closed = True
        self._threads.shutdown(wait=False)
        self._threads = _pool()
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


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="stoker-load")


def _called(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except StopIteration as error:  # no future takes it: whoever awaits that would wait for ever
        raise RuntimeError(f"{call!r} raised StopIteration") from error

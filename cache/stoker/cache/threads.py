"""Performs programs in the caller's thread: calls loaders, waits, and keeps leases alive beside it.

For `engine`; what `loop` does with tasks is done with threads here.
"""

import inspect
import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from types import GeneratorType
from typing import Any, TypeVar, cast

from stoker.cache import coroutines
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
_REFRESHERS = 2
"""Threads that run what was spawned."""
_LAST_UNIT_S = 5.0
"""How long lanes are waited for that were told to end."""


class Threads:
    """Performs the programs of one cache.

    Args:
        run: Drives an operation.
        renew: Makes the operation that renews leases; None where they need no renewal.
    """

    def __init__(
        self,
        config: CacheConfig,
        run: Callable[[Operation[Any]], Any],
        renew: Renew | None,
    ) -> None:
        self._config = config
        self.run = run
        self._renew = renew
        self.forked()

    def forked(self) -> None:
        """Begin without loads: those of a parent never land in its child, and its leases are its own to renew."""
        leases = HeldLeases(self._config.lease, self._config.max_load, self._begin_renewing)
        self.under_way = UnderWay(Flights(threading.Event), leases, {})
        self._loads = threading.BoundedSemaphore(self._config.max_loads)
        self._loading = threading.local()
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._refreshers: ThreadPoolExecutor | None = None
        self._renewer: threading.Thread | None = None
        self._closed = threading.Event()

    def perform(self, program: Program[T]) -> T:
        """Do what the program asks for, hand it errors where they happen, and return its result."""
        try:
            effect = next(program)
            while True:
                try:
                    # Most effects are operations, and most programs have but this one.
                    answer = self.run(effect) if isinstance(effect, GeneratorType) else self._do(effect)
                except BaseException as error:
                    effect = program.throw(error)
                else:
                    effect = program.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def steps(self, program: Steps[R]) -> Generator[Step[R], None, None]:
        """As `perform`, yielding the steps."""
        answer: Any = None
        lanes: list[threading.Thread] = []
        try:
            while True:
                effect = program.send(answer)
                while not isinstance(effect, Step):
                    try:
                        answer = self._do(effect, lanes)
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
            over = time.monotonic() + _LAST_UNIT_S
            for lane in lanes:
                lane.join(max(0.0, over - time.monotonic()))
            if stuck := sum(lane.is_alive() for lane in lanes):
                log.error(
                    "%d loads of a warm that is over have not returned; give their loaders a time limit",
                    stuck,
                )

    def _do(self, effect: Effect, lanes: list[threading.Thread] | None = None) -> Any:
        if isinstance(effect, GeneratorType):
            return self.run(effect)
        match effect:
            case Load(call, begins):
                return self._load(call, begins)
            case Wait(landed, seconds):
                coroutines.refuse_here()
                cast("threading.Event", landed).wait(seconds)
            case Sleep(seconds):
                time.sleep(seconds)
            case Aside(call):
                call()
            case Spawn(program):
                self._spawn(program)
            case Lane(program) if lanes is not None:
                inside = getattr(self._loading, "now", False)
                lanes.append(threading.Thread(target=self._lane, args=(program, inside), daemon=True))
                lanes[-1].start()
        return None

    def _lane(self, program: Program[None], inside: bool) -> None:
        self._loading.now = inside  # a loader's place is its lanes' too
        self.perform(program)

    def _load(self, call: Callable[[], Any], begins: Callable[[], None]) -> tuple[Any, int]:
        coroutines.refuse_here()
        # A loader that reads through the cache has its place already.
        if getattr(self._loading, "now", False):
            begins()
            return _timed(call)
        if not self._loads.acquire(timeout=self._config.max_load):
            raise all_loading(self._config)
        self._loading.now = True
        try:
            begins()
            return _timed(call)
        finally:
            self._loading.now = False
            self._loads.release()

    def _spawn(self, program: Program[None]) -> None:
        with self._lock:
            if self._refreshers is None:
                self._refreshers = ThreadPoolExecutor(_REFRESHERS, thread_name_prefix="stoker-refresh")
            self._refreshers.submit(self.perform, program)

    def _begin_renewing(self) -> None:
        if self._renew is None:
            return
        with self._lock:  # a renewer that is about to end holds it, and has not seen this lease
            if self._renewer is None or not self._renewer.is_alive():
                self._renewer = threading.Thread(
                    target=self._renewing,
                    args=(self._closed, self._renew),
                    name="stoker-leases",
                    daemon=True,
                )
                self._renewer.start()

    def _renewing(self, closed: threading.Event, renew: Renew) -> None:
        held = self.under_way.leases
        while not closed.wait(held.every):
            with self._lock:
                leases = held.due()
                if leases is None:
                    self._renewer = None
                    return
            if leases:
                try:
                    self.run(renew(leases))
                except CacheUnavailable as error:
                    log.warning("leases of %d loads were not renewed: %s", len(leases), error)

    def close(self) -> None:
        """End the background threads; a refresh that has begun is waited for, leases still held run out."""
        with self._lock:
            self._closed.set()
            refreshers, renewer = self._refreshers, self._renewer
            self._begin()
        self.under_way.refreshing.clear()
        if refreshers is not None:
            refreshers.shutdown(wait=True, cancel_futures=True)
        if renewer is not None and renewer is not threading.current_thread():
            renewer.join(timeout=5)


def _timed(call: Callable[[], Any]) -> tuple[Any, int]:
    began = time.perf_counter()
    value = call()
    if inspect.iscoroutine(value):
        value = coroutines.result_of(value)
    return value, round((time.perf_counter() - began) * 1e6)

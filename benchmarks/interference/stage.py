"""Servers and workers of one run. With two cores the app and its cache have one, all that is done in the background the
other, as if on machines of their own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.interference import origin
from stoker.config import Settings
from stoker.worker import commands
from stoker.worker.embedded import start_server
from stoker.worker.processes import Child, Processes

NAMESPACE = "interference"
CACHE_BYTES = 2**30
_READY_WITHIN_S = 30.0


def cores() -> tuple[int, int] | None:
    """The app's core and the background's; None where there is only one, or no way to choose."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else None


@contextmanager
def on(core: int | None) -> Iterator[None]:
    """Run the block, and what it starts, on one core; None: on any."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Stage:
    """Two servers and a worker each for invalidations and for the rest; workers that warm come and go."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        both = cores()
        self.front = both[0] if both is not None else None
        self.back = both[1] if both is not None else None
        with on(self.front):
            cache = start_server(processes, "cache", cache_bytes=CACHE_BYTES)
        with on(self.back):
            broker = start_server(processes, "broker")
        self.settings = Settings(
            cache_url=cache.url,
            broker_url=broker.url,
            namespace=NAMESPACE,
            loaders=(origin.__name__,),
            log_level="WARNING",
        )
        self._environment = {
            **os.environ,
            **commands.WORKER_ENV,
            "STOKER_CACHE_URL": cache.url,
            "STOKER_BROKER_URL": broker.url,
            "STOKER_NAMESPACE": NAMESPACE,
            "STOKER_LOADERS": origin.__name__,
            "STOKER_LOG_LEVEL": "INFO",
        }
        self._standing = [self._worker(queue, keys=0, rate=None) for queue in ("invalidate", "maintenance")]

    def stop_standing(self) -> None:
        """End the workers that do not warm, and with them what they are still sweeping."""
        self._processes.stop(self._standing, 5)

    @contextmanager
    def warming(self, keys: int, rate: float | None) -> Iterator[None]:
        """A worker whose plans have so many keys, and of which one has a limit."""
        worker = self._worker("warm", keys=keys, rate=rate)
        try:
            yield
        finally:
            self._processes.stop([worker], 5)

    def _worker(self, queue: str, *, keys: int, rate: float | None) -> Child:
        limit = {} if rate is None else {origin.RATE: str(rate)}
        command = commands.worker(self._loud(), name=queue, queues=[queue], concurrency=1)
        with on(self.back):
            child = self._processes.start(
                queue, command, {**self._environment, origin.KEYS: str(keys), **limit}
            )
        ready = f"{queue}@"
        self._processes.wait_until(lambda: _says_ready(child, ready), child, _READY_WITHIN_S)
        return child

    def _loud(self) -> Settings:
        """A worker says that it is ready at level INFO."""
        return self.settings.model_copy(update={"log_level": "INFO"})


def _says_ready(child: Child, name: str) -> bool:
    return any(name in line and " ready." in line for line in child.tail(50).splitlines())

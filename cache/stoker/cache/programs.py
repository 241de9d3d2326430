"""What the engine asks for, besides operations: to load, wait, sleep, or start something beside the caller.

A program is a generator of effects and is sent their answers; what goes wrong is thrown in where it happened. `core`,
`flight`, `warm`, `sweep` and `evict` are written as programs, so that each rule stands once; `threads` performs them
for `Cache` and `loop` for `AsyncCache`. Programs run operations one after the other, each on a connection of its own.
"""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol, TypeVar

from stoker.cache.steps import Step
from stoker.cache.wire import Operation

T = TypeVar("T")
R = TypeVar("R")


class Landed(Protocol):
    """Set when a load has ended; `threading.Event` and `asyncio.Event` are two."""

    def set(self) -> object: ...

    def is_set(self) -> bool: ...


def unnoticed() -> None:
    """What a load calls that nobody waits for."""


class Load(NamedTuple):
    """Call a loader, when this process has a load to spare; `begins` is called right before. Answer: (value, µs)."""

    call: Callable[[], Any]
    begins: Callable[[], None] = unnoticed


class Wait(NamedTuple):
    """Wait for a load to land, at most so many seconds."""

    landed: Landed
    seconds: float


class Sleep(NamedTuple):
    """Do nothing for so many seconds."""

    seconds: float


class Aside(NamedTuple):
    """Call a function that may block for a moment, where it holds up nobody else."""

    call: Callable[[], object]


class Spawn(NamedTuple):
    """Run a program beside the caller. Its errors are its own."""

    program: "Program[None]"


class Lane(NamedTuple):
    """Run a program beside the one that yields steps, which is not over before it is. It keeps its errors."""

    program: "Program[None]"


Effect = Operation[Any] | Load | Wait | Sleep | Aside | Spawn | Lane
Program = Generator[Effect, Any, T]
Steps = Generator[Effect | Step[R], Any, None]
"""A program that also yields what it has done so far; that has no answer."""


def once(operation: Operation[T]) -> Program[T]:
    """A single operation as a program."""
    result: T = yield operation
    return result

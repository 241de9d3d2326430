"""What the protocol and the transport say to each other: commands, answers, and operations made of them.

An operation is a generator that yields an `Exchange` and is sent an `Answer`; all of it runs on one connection.
"""

from collections.abc import Callable, Generator, Sequence
from functools import lru_cache, wraps
from operator import countOf
from typing import Any, ParamSpec, TypeVar

from msgspec import Struct
from redis.exceptions import AskError, MovedError

from stoker.cache.errors import CacheUnavailable
from stoker.cache.scripts import Script

P = ParamSpec("P")
T = TypeVar("T")


class Call(Struct, frozen=True, gc=False):
    """A script, its keys and its arguments. The connection puts its server's id before the arguments.

    Attributes:
        packed: How it is sent, up to that id and from there on, where that is at hand (see `words`).
    """

    script: Script
    keys: tuple[bytes, ...]
    args: tuple[bytes | str | int, ...]
    packed: tuple[bytes, bytes] | None = None


Command = tuple[bytes | str | int, ...] | Call | bytes
"""Bytes are a command as it is sent."""
Exchange = tuple[Command, ...]


def words(*given: bytes | None) -> bytes:
    """Words of a command as they are sent; each None is left to `%`, with the length and the bytes of a word."""
    return b"".join([_WORD if word is None else _whole_word(word) for word in given])


def _whole_word(word: bytes) -> bytes:
    return (_WORD % (len(word), word)).replace(b"%", b"%%")


def alike(name: str, begin: str, endings: Sequence[str], last: str) -> bytes | None:
    """A command as it is sent, whose words begin alike but for the last one.

    None if there is more than ASCII in it, or an ending is of a class of its own, which may tell another length.
    """
    count = len(endings)
    if countOf(map(type, endings), str) != count:
        return None
    parts = [""] * (2 * count)
    parts[::2] = map(_up_to(begin).__getitem__, map(len, endings))
    parts[1::2] = endings
    text = f"*{count + 2}\r\n${len(name)}\r\n{name}{''.join(parts)}\r\n${len(last)}\r\n{last}\r\n"
    return text.encode() if text.isascii() else None


class _UpTo(dict[int, str]):
    """What is sent of words that begin so, from the end of the word before up to the ending, by its length."""

    def __init__(self, begin: str) -> None:
        self._begin = begin

    def __missing__(self, length: int) -> str:
        self[length] = made = f"\r\n${len(self._begin) + length}\r\n{self._begin}"
        return made


_up_to = lru_cache(maxsize=16)(_UpTo)  # of a few tenants; each has as many as there are lengths of keys


_WORD = b"$%d\r\n%b\r\n"


class Answer(Struct, frozen=True, gc=False):
    """One reply a command, in order, errors as values.

    `server` is what the boot fence calls the server process that gave them, `process` that process itself.
    """

    replies: list[Any]
    server: bytes
    process: bytes

    def reply(self, index: int = -1) -> Any:
        """A reply; an error is raised as CacheUnavailable."""
        reply = self.replies[index]
        if isinstance(reply, Exception):
            raise refusal(reply)
        return reply


Operation = Generator[Exchange, Answer, T]


def once(*commands: Command) -> Operation[Answer]:
    """One round trip as an operation."""
    return (yield commands)


def asking_nobody(method: Callable[P, T]) -> Callable[P, Operation[T]]:
    """Make an operation of a plain method: it runs when the operation is driven, and yields nothing."""

    @wraps(method)
    def operation(*args: P.args, **kwargs: P.kwargs) -> Operation[T]:
        return method(*args, **kwargs)
        yield ()

    return operation


def finished(operation: Operation[T]) -> T:
    """The result of an operation that asks nobody, as all of the memory backend's do."""
    try:
        next(operation)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError(f"{operation!r} asks a server that is not there")


def refusal(error: Exception) -> CacheUnavailable:
    """The server's error as ours, with what to do where that is known."""
    text = str(error)
    if isinstance(error, MovedError | AskError):
        text += "; the server is a node of a cluster: say so with cluster=True"
    if "NOPERM" in text or "no permissions" in text.lower():
        text += "; the user's ACL must allow the commands listed in docs/operations.md"
    return CacheUnavailable("redis", text)


def out_of_memory(reply: object) -> bool:
    """Whether a reply is the server's refusal to use more memory."""
    return isinstance(reply, Exception) and ("OOM" in str(reply) or "maxmemory" in str(reply))


def not_known(reply: object) -> bool:
    """Whether a reply says that the server does not know a command, or that this user may not use it."""
    return isinstance(reply, Exception) and (
        "unknown command" in str(reply) or "no permissions" in str(reply)
    )


def together(operations: Sequence[Operation[T]]) -> Operation[list[T]]:
    """Several operations as one: each round trip carries what all of them ask for next.

    Raises:
        CacheUnavailable: One of them failed; the others were carried to their end first.
    """
    results: dict[int, T] = {}
    failure: CacheUnavailable | None = None
    waiting: dict[int, Exchange] = {}

    def advance(index: int, answer: Answer | None) -> None:
        nonlocal failure
        try:
            waiting[index] = next(operations[index]) if answer is None else operations[index].send(answer)
        except StopIteration as stop:
            results[index] = stop.value
        except CacheUnavailable as error:
            failure = error

    for index in range(len(operations)):
        advance(index, None)
    while waiting:
        asked, waiting = waiting, {}
        answer = yield tuple(command for commands in asked.values() for command in commands)
        at = 0
        for index, commands in asked.items():
            replies = answer.replies[at : at + len(commands)]
            at += len(commands)
            advance(index, Answer(replies, answer.server, answer.process))
    if failure is not None:
        raise failure
    return [results[index] for index in range(len(operations))]

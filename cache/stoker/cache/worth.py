"""What keeping an entry is worth: how often it is read, times what its load cost, by the memory it takes.

That is the value of GreedyDual-Size-Frequency (Cherkasova: Improving WWW Proxies Performance with
Greedy-Dual-Size-Frequency Caching Policy, HP Labs 1998). It ages because the server's own counts do. For `sampling`
and `cut`; no I/O.
"""

from enum import IntEnum
from typing import Literal, get_args

from stoker.cache.errors import ConfigError

EvictWhen = Literal["normal", "first", "last", "never"]
"""When a template's entries go, against those of others: see `Turn`."""
UNKNOWN_COST_US = 1000
"""What a load counts as where nothing tells: a plain `set` does not know what its value cost."""
_NEW = 5
"""What the server's counter begins with."""
_LOG_FACTOR = 10
"""Its `lfu-log-factor`, unless somebody has changed that; what differs is the weight of reads against cost."""


class Turn(IntEnum):
    """In which class an entry's header puts it; within one the value decides."""

    NORMAL = 0
    FIRST = 1
    """Before all others, whatever it is worth."""
    LAST = 2
    """Only when all others are gone."""
    NEVER = 3
    """Not while it may be served. (The server's own policy knows nothing of this.)"""


ORDER = (1, 0, 2, 3)
"""Of the turns, by their numbers: what has the lowest goes first."""


def turn_of(evict: EvictWhen) -> Turn:
    """The class of that name.

    Raises:
        ConfigError: There is none.
    """
    if evict not in get_args(EvictWhen):
        raise ConfigError("evict", evict, "choose 'never', 'last', 'normal' or 'first'")
    return Turn[evict.upper()]


def reads_of(counter: int) -> float:
    """About how many reads the server's LFU counter stands for, the one that stored the entry included.

    The n-th step above the first value is taken with chance 1 / (factor * n + 1); below it, time has halved nothing
    but patience: the counter falls by one for each `lfu-decay-time` without a read.
    """
    steps = counter - _NEW
    if steps <= 0:
        return (counter + 1) / (_NEW + 1)
    return 1 + steps + _LOG_FACTOR * steps * (steps - 1) / 2


def density(reads: float, load_us: int, size: int) -> float:
    """Microseconds of loading that a byte saves: reads times cost by size."""
    return reads * (load_us or UNKNOWN_COST_US) / size


def reads_by_idle(idle_s: int) -> float:
    """A stand-in for reads where the server does not count them: the longer unread, the fewer are to come."""
    return 1 / (1 + idle_s)

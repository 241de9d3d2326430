"""Whether what was asked for was done once, as the calls of the loaders tell."""

from collections import defaultdict
from collections.abc import Collection, Iterable

from tests.flow.loaders import Call


def loaded_again(calls: Iterable[Call], killed: Collection[int] = ()) -> dict[str, list[int]]:
    """Keys that were loaded more than once without need, each with the processes that loaded it.

    A key may be loaded again only after a process was killed in the middle of its batch, that is, if the call
    before was the last one of a process in `killed`.
    """
    numbered = list(enumerate(calls))
    last = {call.pid: number for number, call in numbered}
    by_key: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, call in numbered:
        for key in call.keys:
            by_key[key].append((number, call.pid))
    return {
        key: [pid for _, pid in found]
        for key, found in by_key.items()
        if any(pid not in killed or last[pid] != number for number, pid in found[:-1])
    }

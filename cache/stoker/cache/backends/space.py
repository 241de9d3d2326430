"""One placement of a namespace, as a process has it: the shards, and where keys live among them.

It is replaced as a whole when the namespace is resharded: whoever holds one sees nothing half changed, and whatever is
still done by it is refused, since its agreement knows no other placement. For `redis` and `cluster`.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from stoker.cache import keys, quotas
from stoker.cache.bans import Rule
from stoker.cache.control import ATTEMPTS
from stoker.cache.errors import CacheUnavailable
from stoker.cache.keys import EntryNames
from stoker.cache.protocol import Name, Shard
from stoker.cache.quotas import Quotas
from stoker.cache.shards import Agreement, Placement, Resharded
from stoker.cache.tenancy import tenant_field
from stoker.cache.wire import Operation

P = ParamSpec("P")
T = TypeVar("T")


class Space:
    """The shards of a placement.

    Attributes:
        quotas_key: Where tenants' quotas are.
    """

    def __init__(
        self,
        namespace: str,
        placement: Placement,
        agreement: Agreement,
        make_shard: Callable[[int, Agreement], Shard],
    ) -> None:
        self.placement = placement
        self.agreement = agreement
        self.names = EntryNames(namespace, placement.num_shards)
        self.shards = [make_shard(n, agreement) for n in range(placement.num_shards)]
        self.quotas_key = keys.quotas(namespace)

    def quotas(self) -> Operation[Quotas]:
        """What tenants may have, of all shards together."""
        return (yield from quotas.read(self.quotas_key)).quotas

    def number_of(self, tenant_id: str | None, key: str) -> int:
        """The number of the shard that the key lives in."""
        return self.placement.shard_of(tenant_field(tenant_id), key)

    def shard_of(self, tenant_id: str | None, key: str) -> Shard:
        """The shard that the key lives in."""
        if len(self.shards) == 1:
            return self.shards[0]
        return self.shards[self.number_of(tenant_id, key)]

    def by_shard(self, names: Sequence[Name]) -> dict[int, list[int]]:
        """The places of the names among them, by the number of the shard they live in."""
        groups: dict[int, list[int]] = {}
        for index, name in enumerate(names):
            groups.setdefault(self.number_of(*name), []).append(index)
        return groups

    def keys_by_shard(self, tenant_id: str | None, keys: Sequence[str]) -> dict[int, list[int]]:
        """The same of the keys of one tenant."""
        groups: dict[int, list[int]] = {}
        for index, number in enumerate(self.placement.shards_of(tenant_field(tenant_id), keys)):
            groups.setdefault(number, []).append(index)
        return groups

    def concerned(self, rules: Iterable[Rule]) -> Sequence[int]:
        """The numbers of the shards that may have what these rules kill: all, unless their tenants are pinned."""
        pins = {self.placement.pin_of(rule.tenant) for rule in rules}
        return range(len(self.shards)) if None in pins else sorted(pin for pin in pins if pin is not None)


class Spacious(Protocol):
    """A backend, as `resettling` wants it."""

    def settle(self, news: Resharded) -> None:
        """Go by the placement that the namespace has now."""
        ...


B = TypeVar("B", bound=Spacious)


def resettling(
    method: Callable[Concatenate[B, P], Operation[T]],
) -> Callable[Concatenate[B, P], Operation[T]]:
    """Begin an operation of a backend anew if the namespace was resharded under it: all of them may run twice."""

    @wraps(method)
    def operation(self: B, /, *args: P.args, **kwargs: P.kwargs) -> Operation[T]:
        left = ATTEMPTS
        while True:
            try:
                return (yield from method(self, *args, **kwargs))
            except Resharded as news:
                left = settled(self, news, left)

    return operation


def settled(backend: Spacious, news: Resharded, left: int) -> int:
    """Take in the news. Returns how many attempts are left, of so many with the one that met them.

    Raises:
        CacheUnavailable: None is.
    """
    backend.settle(news)
    if left <= 1:
        raise CacheUnavailable("redis", "the namespace is resharded again and again; try again")
    return left - 1


def resettled(
    backend: Spacious,
    begin: Callable[[dict[str, Any] | None], Generator[T, Any, None]],
    cursor: dict[str, Any] | None,
) -> Generator[T, Any, None]:
    """The same of a walk over all keys: it begins from the start, as there may be new incarnations everywhere."""
    left = ATTEMPTS
    while True:
        try:
            yield from begin(cursor)
            return
        except Resharded as news:
            left = settled(backend, news, left)
            cursor = None

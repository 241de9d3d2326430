"""What an invalidation would kill, found without making it: a walk over all names. For `redis` and `cluster`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stoker.cache import scan
from stoker.cache.bans import BanTable, Rule
from stoker.cache.scan import Link, Seen
from stoker.cache.wire import Operation, together

EXAMPLES = 10
"""Keys that are named."""


@dataclass(frozen=True, slots=True)
class Matching:
    """Live entries that some rules name.

    Attributes:
        entries: How many; a server that is growing or shrinking its table meanwhile may name some of them twice.
        bytes: Their names, headers and payloads; on the memory backend 0.
        examples: Keys of some of them, at most ten.
    """

    entries: int = 0
    bytes: int = 0
    examples: tuple[str, ...] = ()


def table_of(rules: Iterable[Rule]) -> BanTable:
    """The rules as a table to be asked with seq 0."""
    table = BanTable()
    for rule in rules:
        table.add(rule, 1)
    return table


def find(link: Link, rules: Sequence[Rule], batch: int) -> Operation[Matching]:
    """Of one server, what rules of one tenant name. Headers are read of what may be meant by its name alone."""
    table = table_of(rules)
    tags = table.has_tags()
    tenant = rules[0].tenant
    begin = f"{tenant}:" if tags else table.common_prefix()
    found, cursor = Matching(), "0"
    while True:
        # In this order: a view that is read later is as new as any entry of the page.
        looks: list[Operation[Any]] = [shard.catch_up() for shard in link.shards]
        page, *_ = yield from together([scan.page(link, cursor, batch, begin), *looks])
        its = [name for name in scan.parsed(link, page.raws) if name.tenant == tenant]
        named = its if tags else [name for name in its if table.kills(tenant, name.key, (), 0)]
        seen = yield from scan.look(named)
        found = added(found, _among(table, seen))
        cursor = page.cursor.decode()
        if cursor == "0":
            return found


def _among(table: BanTable, seen: Iterable[Seen]) -> Matching:
    meant = [
        one for one in seen if not one.dead() and table.kills(one.name.tenant, one.name.key, one.meta.tags, 0)
    ]
    return Matching(
        len(meant), sum(one.size for one in meant), tuple(one.name.key for one in meant[:EXAMPLES])
    )


def added(one: Matching, other: Matching) -> Matching:
    """Both together."""
    return Matching(
        one.entries + other.entries,
        one.bytes + other.bytes,
        (one.examples + other.examples)[:EXAMPLES],
    )

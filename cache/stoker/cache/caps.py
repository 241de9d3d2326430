"""How long a ban log may get, and what is said about one that gets long (rule 10). `control` goes by it.

A reader's check costs more with every live pattern, and every process holds all rules in memory: what a tenant may have
of both is bounded.
"""

from dataclasses import dataclass
from functools import cached_property

from stoker.cache.bans import TenantSize


@dataclass(frozen=True)
class Caps:
    """Bounds of one shard's ban log.

    The log is looked at once in `stride` invalidations of the fleet, by the process whose turn it is: a tenant may pass
    its bounds by as many.

    Attributes:
        patterns: Most live patterns of a tenant, prefixes and `*` left out. Beyond it the tenant is banned as a whole.
        named: Most live prefixes and tags of a tenant, likewise.
        many_patterns: Patterns of a tenant above which a sweep is due.
        many_bans: Rules in the log above which a sweep is due.
        stride: Invalidations from one look to the next.
    """

    patterns: int = 200
    named: int = 20_000
    many_patterns: int = 100
    many_bans: int = 2_000
    stride: int = 32

    @cached_property
    def least(self) -> int:
        """A log of so many rules cannot be beyond any bound."""
        return min(self.patterns, self.named, self.many_patterns, self.many_bans)

    def exceeded_by(self, size: TenantSize) -> bool:
        """Whether the tenant has so many rules that it must be banned as a whole."""
        return size.patterns > self.patterns or size.named > self.named


CAPS = Caps()


@dataclass(frozen=True, slots=True)
class ManyBans:
    """A sweep is due: the shard's ban log holds `bans` rules, and one tenant has `patterns` live patterns in it."""

    bans: int
    patterns: int


@dataclass(frozen=True, slots=True)
class Coalesced:
    """A tenant had too many live rules: `rules` of them became one that kills all it had stored."""

    tenant_id: str | None
    rules: int


BanNews = ManyBans | Coalesced

"""The ban log as a reader sees it: the control record, the rules, and the view that judges entries.

Nothing here does I/O. A `View` is what one process knows of one shard's ban log; it is replaced as a whole when bans
retire or the incarnation changes, and only ever gains bans otherwise, so a reader that holds an old one stays right.
Rules that a later ban of their tenant makes needless are let go with the table they are in, never out of it.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from os.path import commonprefix
from typing import NamedTuple

from stoker.cache.entry import MAX_SEQ, Stamp
from stoker.cache.errors import InvalidPattern
from stoker.cache.patterns import compile_pattern

_MOST_LEFT = 64
_MOST_COMPARED = 100
_LITERAL = re.compile(r"[^*?\[\\]*").match

_CONTROL = re.compile(
    rb"1:([0-9a-f]{16}):(\d{1,16}):([0-9a-f]{8}):(\d{1,16}):(\d{1,16}):(\d{1,9}):([0-9a-f]{16}):(.+)"
)


EXPECTED = b">"
"""What the name of a server begins with that is to take over a record, and must not be believed yet."""


class Kind(StrEnum):
    """What a rule kills, as the first letter of its member in the ban log."""

    TENANT = "n"
    PREFIX = "x"
    PATTERN = "p"
    TAG = "t"


class Rule(NamedTuple):
    """One invalidation. `tenant` is encoded (see `tenancy`); `argument` is a prefix, pattern or tag."""

    kind: Kind
    tenant: str
    argument: str

    def member(self) -> bytes:
        """The rule as a member of the ban log's sorted set."""
        return f"{self.kind.value}|{self.tenant}|{self.argument}".encode()

    @classmethod
    def parse(cls, member: bytes) -> "Rule | None":
        """The rule of a member, or None if it is not one.

        A rule that this version does not understand becomes a ban of its whole tenant: too much, never too little.
        """
        try:
            kind, _, rest = member.decode().partition("|")
        except UnicodeDecodeError:
            return None
        tenant, bar, argument = rest.partition("|")
        if not bar:
            return None
        try:
            known = Kind(kind)
            if known is Kind.PATTERN:
                compile_pattern(argument)
        except (ValueError, InvalidPattern):
            return cls(Kind.TENANT, tenant, "")
        return cls(known, tenant, argument)


@dataclass(frozen=True, slots=True)
class Control:
    """A shard's control record.

    Attributes:
        incarnation: Random id of the ban log's life, 8 bytes.
        head: The newest seq.
        nonce: New at every ban, so that two histories with the same head differ.
        closing: Fills stamped below it are refused.
        floor: Bans up to it are retired; entries below it that were dead are gone.
        generation: Of `boots`; a sweep that saw it change starts again.
        digest: Of the map, and of its life, that all processes of the namespace share.
        boots: Ids of the server processes that may answer for this record. One that begins with a mark may not yet:
            that of a draft (in a cluster), or of who is expected to take it over.
    """

    raw: bytes
    incarnation: bytes
    head: int
    nonce: bytes
    closing: int
    floor: int
    generation: int
    digest: bytes
    boots: frozenset[bytes]

    @classmethod
    def parse(cls, raw: bytes | None) -> "Control | None":
        """Read a record; None if there is none, it is corrupt, or of an unknown version."""
        match = _CONTROL.fullmatch(raw) if raw else None
        if match is None:
            return None
        incarnation, head, nonce, closing, floor, generation, digest, boots = match.groups()
        numbers = int(head), int(closing), int(floor)
        if not 0 < numbers[0] <= MAX_SEQ or max(numbers[1:]) > numbers[0]:
            return None
        return cls(
            raw=match.group(),
            incarnation=bytes.fromhex(incarnation.decode()),
            head=numbers[0],
            nonce=nonce,
            closing=numbers[1],
            floor=numbers[2],
            generation=int(generation),
            digest=digest,
            boots=frozenset(boots.split(b",")),
        )


def sentinel(incarnation: bytes) -> bytes:
    """The member, scored +inf, by which a ban log proves that it belongs to this incarnation."""
    return b"i|" + incarnation.hex().encode()


class _TenantBans:
    """The live rules of one tenant. Grows in place; every lookup is safe beside an addition."""

    __slots__ = ("patterns", "prefixes", "seq", "tags")

    def __init__(self, seq: int = 0) -> None:
        self.seq = seq
        self.tags: dict[str, int] = {}
        self.prefixes: tuple[tuple[int, dict[str, int]], ...] = ()
        self.patterns: tuple[tuple[int, str, Callable[[str], bool]], ...] = ()

    def add(self, rule: Rule, seq: int) -> None:
        """Take in any rule but one of the whole tenant."""
        if rule.kind is Kind.TAG:
            self.tags[rule.argument] = max(seq, self.tags.get(rule.argument, 0))
        elif rule.kind is Kind.PREFIX:
            self._add_prefix(rule.argument, seq)
        else:
            others = tuple(p for p in self.patterns if p[1] != rule.argument)
            self.patterns = (*others, (seq, rule.argument, compile_pattern(rule.argument)))

    def _add_prefix(self, prefix: str, seq: int) -> None:
        for length, table in self.prefixes:
            if length == len(prefix):
                table[prefix] = max(seq, table.get(prefix, 0))
                return
        self.prefixes = (*self.prefixes, (len(prefix), {prefix: seq}))

    def kills(self, key: str, tags: Iterable[str], seq: int) -> bool:
        if self.seq > seq:
            return True
        for length, table in self.prefixes:
            if table.get(key[:length], 0) > seq:
                return True
        if self.tags:
            for tag in tags:
                if self.tags.get(tag, 0) > seq:
                    return True
        return any(ban_seq > seq and matches(key) for ban_seq, _, matches in self.patterns)

    def above(self, floor: int) -> "_TenantBans":
        """A copy without the rules up to `floor`."""
        kept = _TenantBans(self.seq if self.seq > floor else 0)
        kept.tags = {tag: seq for tag, seq in self.tags.items() if seq > floor}
        tables = ((n, {p: seq for p, seq in table.items() if seq > floor}) for n, table in self.prefixes)
        kept.prefixes = tuple((n, table) for n, table in tables if table)
        kept.patterns = tuple(p for p in self.patterns if p[0] > floor)
        return kept

    def literals(self) -> list[str]:
        """What the keys begin with that the prefixes and patterns can match."""
        prefixes = [prefix for _, table in self.prefixes for prefix in list(table)]
        return prefixes + [_LITERAL(pattern)[0] for _, pattern, _ in self.patterns]  # type: ignore[index]

    @property
    def named(self) -> int:
        """Rules that are found by name: prefixes and tags."""
        return len(self.tags) + sum(len(table) for _, table in self.prefixes)

    def __len__(self) -> int:
        return self.named + len(self.patterns) + bool(self.seq)


class TenantSize(NamedTuple):
    """How many live rules a tenant has, its ban as a whole left out; `named` are prefixes and tags."""

    tenant: str
    patterns: int
    named: int


class BanTable:
    """Live rules by tenant.

    Attributes:
        newest: No rule has a greater seq; every read asks for it.
    """

    __slots__ = ("_length", "_tenants", "newest")

    def __init__(self) -> None:
        self._tenants: dict[str, _TenantBans] = {}
        self._length = 0
        self.newest = 0

    def add(self, rule: Rule, seq: int) -> None:
        """Take in a rule. The caller holds a lock; readers need none."""
        bans = self._tenants.get(rule.tenant)
        if bans is None:
            bans = self._tenants[rule.tenant] = _TenantBans()
        if seq <= bans.seq:
            return  # a ban of the tenant kills all that this one does
        before = len(bans)
        if rule.kind is Kind.TENANT:
            # In place of the rules that it makes needless, not into them: a reader among those has not seen this one.
            bans = bans.above(seq)
            bans.seq = seq
            self._tenants[rule.tenant] = bans
        else:
            bans.add(rule, seq)
        self._length += len(bans) - before
        self.newest = max(seq, self.newest)

    def kills(self, tenant: str, key: str, tags: Iterable[str], seq: int) -> bool:
        """Whether a rule newer than `seq` matches the entry."""
        bans = self._tenants.get(tenant)
        return bans is not None and bans.kills(key, tags, seq)

    def above(self, floor: int) -> "BanTable":
        """A copy without the rules up to `floor`: readers that hold the old table keep its rules."""
        kept = BanTable()
        tables = ((tenant, bans.above(floor)) for tenant, bans in self._tenants.items())
        kept._tenants = {tenant: bans for tenant, bans in tables if len(bans)}
        kept._length = sum(len(bans) for bans in kept._tenants.values())
        kept.newest = self.newest if kept._length else 0
        return kept

    def common_prefix(self) -> str:
        """What all names begin with that a rule can kill: an encoded tenant, ':' and part of a key; or a part of that.

        Rules by tag are left out. Of many rules it is not looked for.
        """
        if not 0 < self._length <= _MOST_COMPARED:
            return ""
        begins = [
            f"{tenant}:{begin}"
            for tenant, bans in list(self._tenants.items())
            for begin in ([""] if bans.seq else bans.literals())
        ]
        return commonprefix(begins)  # noqa: RUF071 - these are no paths

    def as_prefixes(self) -> list[tuple[str, int]] | None:
        """The rules, if they are few, and all of whole tenants or prefixes: what names begin with, and the seqs."""
        if self._length > _MOST_COMPARED:
            return None
        found: list[tuple[str, int]] = []
        for tenant, bans in list(self._tenants.items()):
            if bans.tags or bans.patterns:
                return None
            if bans.seq:
                found.append((f"{tenant}:", bans.seq))
            found += [
                (f"{tenant}:{prefix}", seq)
                for _, table in bans.prefixes
                for prefix, seq in list(table.items())
            ]
        return found

    def has_tags(self) -> bool:
        """Whether any tag rule lives, so that names alone cannot tell what is dead."""
        return any(bans.tags for bans in list(self._tenants.values()))

    def size_of(self, tenant: str) -> TenantSize:
        """How many rules the tenant has."""
        bans = self._tenants.get(tenant)
        return TenantSize(tenant, len(bans.patterns) if bans else 0, bans.named if bans else 0)

    def sizes(self) -> list[TenantSize]:
        """How many rules each tenant has."""
        return [self.size_of(tenant) for tenant in list(self._tenants)]

    def __len__(self) -> int:
        return self._length


NO_CONTROL = Control(b"", b"", 0, b"", 0, 0, 0, b"", frozenset())


@dataclass(frozen=True, slots=True)
class View:
    """What this process knows of one shard's ban log, at least as new as `control`.

    Attributes:
        left: The incarnations this process has seen end: one that comes back is a rolled-back server.
        stamp: What a load that begins now is stamped with.
    """

    control: Control = NO_CONTROL
    bans: BanTable = field(default_factory=BanTable)
    left: tuple[bytes, ...] = ()
    stamp: Stamp = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamp", Stamp(self.control.incarnation, self.control.head))

    def current(self, raw: bytes | None, server: bytes) -> bool:
        """Whether the view is at least as new as the control record that came with an answer of `server`."""
        return raw == self.control.raw and server in self.control.boots

    def regressed(self, control: Control) -> bool:
        """Whether `control`, asked for after this view was known, is older than it: state went backwards (rule 5)."""
        known = self.control
        if control.incarnation in self.left:
            return True
        if control.incarnation != known.incarnation:
            return False
        return control.head < known.head or (control.head == known.head and control.nonce != known.nonce)

    def kills(self, tenant: str, key: str, tags: Iterable[str], stamp: Stamp) -> bool:
        """Whether a value with this stamp must not be served (rule 3)."""
        if stamp.incarnation != self.control.incarnation:
            return True
        return self.bans.kills(tenant, key, tags, stamp.seq)

    def advanced(self, control: Control, rules: Iterable[tuple[Rule, int]]) -> "View":
        """The view that follows this one: `rules` came after it. The caller holds the shard's lock."""
        same_life = control.incarnation == self.control.incarnation
        bans = self.bans if same_life else BanTable()
        for rule, seq in rules:
            bans.add(rule, seq)
        if same_life and control.floor > self.control.floor:
            bans = bans.above(control.floor)
        left = self.left
        if not same_life and self.control.incarnation:
            left = (*left, self.control.incarnation)[-_MOST_LEFT:]
        return View(control, bans, left)

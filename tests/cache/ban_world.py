"""A small world of keys with a versioned truth, and who reads, loads and bans in it, one exchange at a time.

`Stage` takes the turns at random, by seed: an answer waits until its asker's next turn, and anything may happen before
that. So every order of the steps of coalescing, pruning, sweeping, reading and filling comes up, and again by its seed
(but for what the server's clock decides: which bans are old enough to retire).
"""

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any

from stoker.cache import Cache, CacheConfig, CacheUnavailable, entry
from stoker.cache.bans import Rule
from stoker.cache.caps import BanNews, Coalesced
from stoker.cache.codec import MSGPACK
from stoker.cache.control import BanLog
from stoker.cache.invalidate import pattern_rule, tag_rules, tenant_rule
from stoker.cache.keys import ShardKeys
from stoker.cache.patterns import compile_pattern
from stoker.cache.programs import Steps
from stoker.cache.protocol import Filling, Found, Lease, Name, Shard
from stoker.cache.shards import Agreement, Map, Placement
from stoker.cache.steps import Step
from stoker.cache.sweep import SweepReport
from stoker.cache.transport import Transport
from stoker.cache.wire import Answer, Call, Exchange, Operation

TENANTS: tuple[str | None, ...] = (None, "acme")
KEYS = tuple(f"user:{n}" for n in range(8))
PATTERNS = (
    "user:?",
    "*:[0-3]",
    "*:[4-7]",
    "?ser:*",
    "*:1",
    "*:2",
    "*:5",
    "u*:[^07]",
    "user:1*",
    "user:2*",
    "us*",
)
MAX_LOAD_MS = 100
"""As little as may be, so that bans retire within a run."""
_LEASE_MS = 300
_SHARE_OF_TENANT_BANS = 0.02
_LOST = ("ctl", "bans", "marks", "map")

Turns = Generator[Exchange | None, Any, Any]
"""What one party does, a turn a step: it asks the server, or passes."""


def tag_of(key: str) -> str:
    return f"group {int(key[-1]) % 3}"


def some_rules(
    chance: random.Random, tenant: str | None, prefixes: bool = False
) -> tuple[list[Rule], list[str]]:
    """An invalidation, and the keys that it names."""
    kind = chance.random()
    if prefixes:
        pattern = chance.choice(["user:1*", "user:2*", "user:3*", "us*"]) if kind > 0.1 else "*"
        return [pattern_rule(pattern, tenant)], [key for key in KEYS if compile_pattern(pattern)(key)]
    if kind < _SHARE_OF_TENANT_BANS:
        return [tenant_rule(tenant)], list(KEYS)
    if kind < 0.3:
        tag = f"group {chance.randrange(3)}"
        return tag_rules([tag, "nobody's"], tenant), [key for key in KEYS if tag_of(key) == tag]
    pattern = chance.choice(PATTERNS)
    return [pattern_rule(pattern, tenant)], [key for key in KEYS if compile_pattern(pattern)(key)]


def connect(url: str, namespace: str) -> Transport:
    return Transport(CacheConfig(backend="redis", redis_url=url, namespace=namespace))


def a_shard(namespace: str, news: list[BanNews] | None = None) -> Shard:
    """A shard as a process of its own would have it."""
    agreement = Agreement(Map(max_load_ms=MAX_LOAD_MS), Placement())
    return Shard(ShardKeys(namespace), agreement, lambda *_: None, (news if news is not None else []).append)


def sweeper(url: str, namespace: str) -> Cache:
    seconds = MAX_LOAD_MS / 1000
    config = CacheConfig(backend="redis", redis_url=url, namespace=namespace, max_load=seconds, lease=seconds)
    return Cache(config)


def packed(lease: Lease, version: int) -> Filling:
    """A version of a key's value, as an entry."""
    tags = (tag_of(lease.key),)
    blob = entry.pack(
        lease.stamp,
        b"%d" % version,
        MSGPACK,
        flags=0,
        tags=tags,
        soft_ms=0,
        hard_ms=0,
        load_us=0,
    )
    return Filling(lease, blob, 60_000, tags)


def ask(*commands: Any) -> Operation[Answer]:
    return (yield commands)


def ban(log: BanLog, rules: list[Rule]) -> Operation[int]:
    """Ban, and shorten the log if it is time to. Returns how long it was then, or 0."""
    length = yield from log.ban([rule.member() for rule in rules])
    if length:
        yield from log.shorten(length)
    return length


@dataclass
class Stage:
    """All parties of one history, and what they saw.

    Attributes:
        stale: Reads of a value that an invalidation acknowledged before them had killed.
        losses: Whether control keys are lost now and then.
        prefixes: Whether all bans are prefixes, or of whole tenants.
    """

    url: str
    namespace: str
    seed: int
    losses: bool = False
    prefixes: bool = False
    stale: list[str] = field(default_factory=list)
    news: list[BanNews] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._truth: dict[Name, int] = {(tenant, key): 1 for tenant in TENANTS for key in KEYS}
        self._acknowledged = dict.fromkeys(self._truth, 0)

    def play(self, turns: int) -> None:
        """Let somebody take a turn, so many times, or until a read was stale."""
        processes = [a_shard(self.namespace, self.news) for _ in range(4)]
        parties = [
            *(self._again(self._read, shard) for shard in processes[1:]),
            *(self._again(self._load, shard) for shard in processes[1:] for _ in range(3)),
            *(self._again(self._write, shard) for shard in processes[:3]),
            *(self._again(self._come_anew) for _ in range(2)),
            self._again(self._sweep),
        ]
        if self.losses:
            parties.append(self._again(self._lose))
        waiting: dict[int, Exchange | None] = {n: next(party) for n, party in enumerate(parties)}
        answers: dict[int, Answer | None] = {}
        transport = connect(self.url, self.namespace)
        for _ in range(turns):
            n = self.chance.randrange(len(parties))
            if n in answers:
                waiting[n] = parties[n].send(answers.pop(n))
            asked = waiting[n]
            answers[n] = transport.run(ask(*asked)) if asked else None
            if asked and isinstance(asked[0], Call) and asked[0].script.name.startswith("prune"):
                self._count("pruned", int(answers[n].reply()))  # type: ignore[union-attr]
            if self.stale:
                break
        transport.close()
        for news in self.news:
            self._count(type(news).__name__, 1)

    def __str__(self) -> str:
        return f"seed={self.seed} {self.counts} {self.stale[:1]}"

    def _count(self, what: str, by: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + by

    def _name(self) -> Name:
        return self.chance.choice(TENANTS), self.chance.choice(KEYS)

    def _judge(self, name: Name, found: Found | None, least: int) -> None:
        self._count("reads")
        if found is None:
            return
        self._count("hits")
        version = int(found.blob[found.meta.payload_at :])
        if version < least:
            self.stale.append(f"{name} has version {version} after {least} was acknowledged")

    def _again(self, role: Callable[..., Turns], *args: Shard) -> Turns:
        """Play a role for ever. What is given up because control keys are lost all the time was not done."""
        while True:
            try:
                yield from role(*args)
            except CacheUnavailable:
                self._count("given up")

    def _read(self, shard: Shard) -> Turns:
        name = self._name()
        least = self._acknowledged[name]
        found = yield from shard.read([name])
        self._judge(name, found[0], least)

    def _come_anew(self) -> Turns:
        """A process that knows nothing yet, and reads every key once."""
        shard = a_shard(self.namespace)
        for name in self._truth:
            least = self._acknowledged[name]
            found = yield from shard.read([name])
            self._judge(name, found[0], least)

    def _load(self, shard: Shard) -> Turns:
        name = self._name()
        least = self._acknowledged[name]
        [(lease, found)] = yield from shard.acquire([name], _LEASE_MS)
        self._judge(name, found, least)
        if isinstance(lease, Lease):
            version = self._truth[name]
            for _ in range(self.chance.randrange(4)):
                yield None
            yield from shard.fill([packed(lease, version)])

    def _write(self, shard: Shard) -> Turns:
        tenant = self.chance.choice(TENANTS)
        rules, keys = some_rules(self.chance, tenant, self.prefixes)
        for key in keys:
            self._truth[tenant, key] += 1
        written = {key: self._truth[tenant, key] for key in keys}
        length = yield from shard.ban([rule.member() for rule in rules])
        for key, version in written.items():
            self._acknowledged[tenant, key] = max(version, self._acknowledged[tenant, key])
        self._count("bans")
        if length and self.chance.random() < 0.9:  # else it was killed there
            yield from shard.shorten(length)
        for _ in range(self.chance.randrange(8)):
            yield None

    def _sweep(self) -> Turns:
        """Step by step; where the server judges, now and then with others' turns between any two round trips.

        Few of these come to an end.
        """
        in_steps = not self.prefixes or self.losses or self.chance.random() < 0.7
        batch = self.chance.choice([1, 1, 3, 10]) if self.prefixes else 10
        with sweeper(self.url, self.namespace) as cache:
            steps = cache._core.backend.sweep_steps(batch, None)
            effect = next(steps, None)
            while effect is not None:
                answer = None
                if isinstance(effect, GeneratorType):
                    asked = self._counting_pages(effect)
                    answer = cache._run(asked) if in_steps else (yield from asked)
                elif isinstance(effect, Step):
                    yield None
                    if effect.last:
                        self._count("retired", effect.report.retired)
                effect = _next(steps, answer)
        enough = self.counts.get("bans", 0) + self.chance.randrange(8)
        while self.counts.get("bans", 0) < enough:  # let the log become long
            yield None

    def _counting_pages(self, operation: Operation[Any]) -> Generator[Exchange, Answer, Any]:
        commands = next(operation)
        try:
            while True:
                pages = [
                    one
                    for one in commands
                    if isinstance(one, Call) and one.script.name.startswith("drop_page")
                ]
                self._count("pages judged by name", len(pages))
                commands = operation.send((yield commands))
        except StopIteration as stop:
            return stop.value

    def _lose(self) -> Turns:
        for _ in range(60):
            yield None
        keys = ShardKeys(self.namespace)
        yield (("DEL", *(getattr(keys, lost) for lost in self.chance.sample(_LOST, 2))),)
        self._count("losses")


def _next(steps: Steps[SweepReport], answer: Any) -> Any:
    try:
        return steps.send(answer)
    except StopIteration:
        return None


def coalesced(news: list[BanNews]) -> list[Coalesced]:
    return [one for one in news if isinstance(one, Coalesced)]

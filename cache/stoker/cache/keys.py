"""Every Redis key that Stoker writes; nothing else builds one.

On the cache's server each key of a shard carries the shard's hash tag `{<namespace>:<shard>}`, so that a shard
lives on one node and in one cluster slot. On the state server (the broker's) keys begin `<namespace>:`.

Permanent keys, that is, without a TTL: the namespace's `map`, and each shard's `ctl`, `bans` and `marks` (control
state must not expire before the entries it judges); entries whose `ttl` is None, as the caller asked.
"""

import re
from collections.abc import Sequence
from operator import itemgetter

from stoker.cache.tenancy import tenant_field

_escaped = re.compile(r"[*?\[\]\\]").sub


class ShardKeys:
    """The keys of one shard, with their types beside them."""

    __slots__ = (
        "_namespace",
        "bans",
        "ctl",
        "entry_prefix",
        "lease_prefix",
        "map",
        "marks",
        "number",
        "refresh_prefix",
        "tag",
        "writes",
    )

    def __init__(self, namespace: str, shard: int = 0) -> None:
        self._namespace = namespace
        self.number = shard
        self.tag = f"{{{namespace}:{shard}}}"
        self.map = f"{{{namespace}}}:map".encode()  # string: what all processes must agree on, as JSON
        self.ctl = f"{self.tag}:ctl".encode()  # string: the control record, see bans.Control
        self.bans = f"{self.tag}:bans".encode()  # sorted set: rule -> seq, and the sentinel -> +inf
        self.marks = f"{self.tag}:marks".encode()  # sorted set: head -> server time in ms
        # list, PX a lease: secrets of batches, and the entries that were deleted or set meanwhile, see batch
        self.writes = f"{self.tag}:writes".encode()
        self.entry_prefix = f"{self.tag}:e:"
        self.lease_prefix = f"{self.tag}:l:"
        self.refresh_prefix = f"{self.tag}:r:"

    def every_ctl(self, most: int) -> tuple[bytes, ...]:
        """The control records of every shard that this namespace may have."""
        return tuple(f"{{{self._namespace}:{shard}}}:ctl".encode() for shard in range(most))

    def every_control(self, most: int) -> tuple[bytes, ...]:
        """All control state of every shard that this namespace may have: record, bans and marks."""
        return tuple(
            f"{{{self._namespace}:{shard}}}:{name}".encode()
            for shard in range(most)
            for name in ("ctl", "bans", "marks")
        )

    @property
    def control(self) -> tuple[bytes, ...]:
        """What the shard has one of each."""
        return self.ctl, self.bans, self.marks

    def entry(self, tenant_id: str | None, key: str) -> bytes:
        """String, PX as the entry's TTL: header, tags, payload."""
        field = "" if tenant_id is None else tenant_field(tenant_id)
        return f"{self.entry_prefix}{field}:{key}".encode()

    def entries_begin(self, tenant_id: str | None) -> str:
        """What `entry` of each key of a tenant begins with: the key is all that follows."""
        return f"{self.entry_prefix}{tenant_field(tenant_id)}:"

    def lease(self, tenant_id: str | None, key: str) -> bytes:
        """String, PX at most `max_load`: the token of whoever may fill the entry."""
        field = "" if tenant_id is None else tenant_field(tenant_id)
        return f"{self.lease_prefix}{field}:{key}".encode()

    def entries_of(self, names: Sequence[tuple[str | None, str]]) -> list[bytes]:
        """`entry` of each (tenant, key)."""
        prefix = self.entry_prefix.encode()
        return [prefix + ending for ending in _endings(names)]

    def entries_and_leases(self, names: Sequence[tuple[str | None, str]]) -> tuple[list[bytes], list[bytes]]:
        """`entry` and `lease` of each (tenant, key)."""
        endings = _endings(names)
        entry, lease = self.entry_prefix.encode(), self.lease_prefix.encode()
        return [entry + ending for ending in endings], [lease + ending for ending in endings]

    def refresh(self, tenant_id: str | None, key: str) -> bytes:
        """String, PX ten leases: the server time in ms when the entry's refresh was asked for."""
        return f"{self.refresh_prefix}{tenant_field(tenant_id)}:{key}".encode()


_OF_A_CACHE = re.compile(rb"\{[A-Za-z0-9_.-]{1,64}(:\d{1,4})?\}:").match


def is_of_a_cache(name: bytes) -> bool:
    """Whether a key of a cache's server may be Stoker's, of this namespace or another."""
    return _OF_A_CACHE(name) is not None


def traffic(namespace: str) -> bytes:
    """Hash, PX from the last flush: hits and misses of the fleet by tenant and family of keys."""
    return f"{{{namespace}}}:traffic".encode()


def samples(namespace: str) -> bytes:
    """List, PX from the last flush: samples of the keys that processes read, until a worker collects them."""
    return f"{{{namespace}}}:samples".encode()


def quotas(namespace: str) -> bytes:
    """String, PX from the last look of a worker: the tenants' quotas and who is full, see `quotas.Copy`."""
    return f"{{{namespace}}}:quotas".encode()


def _endings(names: Sequence[tuple[str | None, str]]) -> list[bytes]:
    """What the names of entries and leases end with; as a rule all are one tenant's."""
    tenants = set(map(itemgetter(0), names))
    if len(tenants) == 1:
        begin = f"{tenant_field(tenants.pop())}:".encode()
        return [begin + key.encode() for _, key in names]
    return [f"{tenant_field(tenant_id)}:{key}".encode() for tenant_id, key in names]


class EntryNames:
    """The names of a namespace's entries: the pattern that finds them, and what they were built from.

    `every` is the pattern of all keys of all shards.
    """

    __slots__ = ("_parse", "_shard", "every", "pattern")

    def __init__(self, namespace: str, num_shards: int) -> None:
        shard = "0" if num_shards == 1 else "*"
        self.pattern = f"{{{namespace}:{shard}}}:e:*"  # a namespace holds no glob characters
        self.every = f"{{{namespace}:*}}:*"
        self._shard = re.compile(rf"\{{{re.escape(namespace)}:(\d{{1,4}})\}}:".encode()).match
        self._parse = re.compile(
            rf"\{{{re.escape(namespace)}:(\d{{1,4}})\}}:e:([^:]*):(.+)", re.DOTALL
        ).fullmatch

    def going_on(self, begin: str) -> str:
        """The pattern of those whose encoded tenant, ':' and key begin so."""
        return self.pattern[:-1] + _escaped(r"\\\g<0>", begin) + "*"

    def shard_in(self, name: bytes) -> int | None:
        """The number of the shard of any key; None for what is of none."""
        found = self._shard(name)
        return int(found[1]) if found else None

    def split(self, name: bytes) -> tuple[int, str, str] | None:
        """The (shard, encoded tenant, key) of an entry's name; None for what only looks like one."""
        try:
            found = self._parse(name.decode())
        except UnicodeDecodeError:
            return None
        return (int(found[1]), found[2], found[3]) if found else None


def job(namespace: str, job_id: str) -> str:
    """Hash, PX: one job's state, progress, cursor and report."""
    return f"{namespace}:job:{job_id}"


def job_lock(namespace: str, target: str) -> str:
    """String, PX: the fencing token of the coordinator that runs the job of this target."""
    return f"{namespace}:lock:{target}"


def job_target(namespace: str, target: str) -> str:
    """String, PX: the id of the unfinished job of this target, which a second request joins."""
    return f"{namespace}:target:{target}"


def jobs(namespace: str) -> str:
    """Sorted set, PX: job id -> time of creation in ms. Trimmed to the jobs' own lifetime on every write."""
    return f"{namespace}:jobs"


def jobs_unfinished(namespace: str) -> str:
    """Sorted set, PX: id of an unfinished job -> when the reaper looks at it next, in ms."""
    return f"{namespace}:unfinished"


def jobs_dead(namespace: str) -> str:
    """Sorted set, PX: id of a job that was given up -> when, in ms. Trimmed to their lifetime on every write."""
    return f"{namespace}:dead"


def jobs_counts(namespace: str) -> str:
    """Hash, PX from the last job that ended: kind and final state -> how many."""
    return f"{namespace}:jobs:counts"


def job_done(namespace: str, job_id: str) -> str:
    """Stream, PX: one entry once the job is over; whoever waits for it blocks on this."""
    return f"{namespace}:done:{job_id}"


def plans(namespace: str) -> str:
    """Hash, PX from the last look at it: name of a warm plan -> what is known of it, as JSON.

    Also `:life` and `:lost`.
    """
    return f"{namespace}:plans"


def plan_tenants(namespace: str, plan: str) -> str:
    """String, PX from the last look: the tenants of the latest run of a plan for all tenants, as JSON."""
    return f"{namespace}:tenants:{plan}"


def event(namespace: str, event_id: str, rule: str) -> str:
    """Hash, PX: how one rule fared with one event, and until it is done the event itself."""
    return f"{namespace}:event:{event_id}:{rule}"


def events_open(namespace: str) -> str:
    """Sorted set, PX: event and rule that are not done -> when the reaper looks at them, in ms."""
    return f"{namespace}:events:open"


def events_dead(namespace: str) -> str:
    """Sorted set, PX: event and rule that were given up -> when, in ms. Trimmed to the newest on every write."""
    return f"{namespace}:events:dead"


def events_counts(namespace: str) -> str:
    """Hash, PX from the last event: what became of events, for each rule and in all."""
    return f"{namespace}:events:counts"


def events_recent(namespace: str) -> str:
    """Stream, PX likewise: the latest outcomes. Trimmed on every write."""
    return f"{namespace}:events:recent"


def events_rules(namespace: str) -> str:
    """Hash, PX from the last sign of a worker: rule -> its pattern."""
    return f"{namespace}:events:rules"


def watch(namespace: str) -> str:
    """Hash, PX from the last look: what the cache's server was like then, so that a change is told once."""
    return f"{namespace}:watch"


def pressure(namespace: str) -> str:
    """List, PX from the last look: the latest looks at the cache's memory, newest first. Trimmed on every write."""
    return f"{namespace}:pressure"


def composition(namespace: str) -> str:
    """String, PX from the last sample: whose the cache's entries are, as JSON."""
    return f"{namespace}:composition"


def quota_book(namespace: str) -> str:
    """Hash, PX 90 days from the last look: tenants' quotas as operators gave them, and that of all others, as JSON."""
    return f"{namespace}:quotas"


def budget(namespace: str, owner: str) -> str:
    """Hash, PX an hour from the last use: the tokens of a loader or a plan, and how it has been doing."""
    return f"{namespace}:budget:{owner}"


def under_way(namespace: str, owner: str) -> str:
    """Sorted set, PX likewise: unit of a loader or a plan that is being loaded -> when it counts as over."""
    return f"{namespace}:batches:{owner}"


def work(namespace: str, job_id: str) -> tuple[str, str, str]:
    """Of a warm, all PX from the last sign and gone with the end of its job: how it stands (hash); its units (hash:
    id -> keys, as JSON); and when each may be taken (sorted set: id -> ms).
    """
    begin = f"{namespace}:work:{job_id}"
    return begin, f"{begin}:units", f"{begin}:due"


def hot_tenants(namespace: str) -> str:
    """Hash, PX from the last merge: encoded tenant -> how much was learned of its reads, see hot_merge.lua."""
    return f"{namespace}:hot-tenants"


def hot_keys(namespace: str, tenant_field: str) -> str:
    """Sorted set, PX likewise: a tenant's most read keys -> reads, decayed, up to the present span."""
    return f"{namespace}:hot-keys:{tenant_field}"


def hot_span(namespace: str, tenant_field: str) -> str:
    """Sorted set, PX likewise: a tenant's most read keys -> reads in the present span."""
    return f"{namespace}:hot-span:{tenant_field}"


def hot_snapshots(namespace: str) -> str:
    """Hash, PX from the last snapshot: `now` and `before` -> the hottest keys of one life of the cache, as JSON."""
    return f"{namespace}:hot-snapshots"

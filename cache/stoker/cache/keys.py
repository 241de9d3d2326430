"""Every Redis key that Stoker writes; nothing else builds one.

On the cache's server each key of a shard carries the shard's hash tag `{<namespace>:<shard>}`, so that a shard
lives on one node and in one cluster slot. On the state server (the broker's) keys begin `<namespace>:`.

Permanent keys, that is, without a TTL: the namespace's `map`, and each shard's `ctl`, `bans` and `marks` (control
state must not expire before the entries it judges); entries whose `ttl` is None, as the caller asked.
"""

import re

from stoker.cache.tenancy import tenant_field


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
        "refresh_prefix",
        "tag",
    )

    def __init__(self, namespace: str, shard: int = 0) -> None:
        self._namespace = namespace
        self.tag = f"{{{namespace}:{shard}}}"
        self.map = f"{{{namespace}}}:map".encode()  # string: what all processes must agree on, as JSON
        self.ctl = f"{self.tag}:ctl".encode()  # string: the control record, see bans.Control
        self.bans = f"{self.tag}:bans".encode()  # sorted set: rule -> seq, and the sentinel -> +inf
        self.marks = f"{self.tag}:marks".encode()  # sorted set: head -> server time in ms
        self.entry_prefix = f"{self.tag}:e:"
        self.lease_prefix = f"{self.tag}:l:"
        self.refresh_prefix = f"{self.tag}:r:"

    def every_ctl(self, most: int) -> tuple[bytes, ...]:
        """The control records of every shard that this namespace may have."""
        return tuple(f"{{{self._namespace}:{shard}}}:ctl".encode() for shard in range(most))

    def entry(self, tenant_id: str | None, key: str) -> bytes:
        """String, PX as the entry's TTL: header, tags, payload."""
        return f"{self.entry_prefix}{tenant_field(tenant_id)}:{key}".encode()

    def lease(self, tenant_id: str | None, key: str) -> bytes:
        """String, PX at most `max_load`: the token of whoever may fill the entry."""
        return f"{self.lease_prefix}{tenant_field(tenant_id)}:{key}".encode()

    def refresh(self, tenant_id: str | None, key: str) -> bytes:
        """String, PX ten leases: the server time in ms when the entry's refresh was asked for."""
        return f"{self.refresh_prefix}{tenant_field(tenant_id)}:{key}".encode()


def traffic(namespace: str) -> bytes:
    """Hash, PX from the last flush: hits and misses of the fleet by tenant and family of keys."""
    return f"{{{namespace}}}:traffic".encode()


class EntryNames:
    """The names of a namespace's entries: the pattern that finds them, and what they were built from."""

    __slots__ = ("_parse", "pattern")

    def __init__(self, namespace: str, num_shards: int) -> None:
        shard = "0" if num_shards == 1 else "*"
        self.pattern = f"{{{namespace}:{shard}}}:e:*"  # a namespace holds no glob characters
        self._parse = re.compile(
            rf"\{{{re.escape(namespace)}:(\d{{1,4}})\}}:e:([^:]*):(.+)", re.DOTALL
        ).fullmatch

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
    """Sorted set: job id -> time of creation in ms. Trimmed to the jobs' own lifetime on every write."""
    return f"{namespace}:jobs"


def jobs_unfinished(namespace: str) -> str:
    """Sorted set, PX: id of an unfinished job -> when the reaper looks at it next, in ms."""
    return f"{namespace}:unfinished"


def jobs_dead(namespace: str) -> str:
    """Sorted set, PX: id of a job that was given up -> when, in ms. Trimmed to their lifetime on every write."""
    return f"{namespace}:dead"


def job_done(namespace: str, job_id: str) -> str:
    """Stream, PX: one entry once the job is over; whoever waits for it blocks on this."""
    return f"{namespace}:done:{job_id}"


def plans(namespace: str) -> str:
    """Hash, PX from the last look at it: name of a warm plan -> what is known of it, as JSON.

    Also `:life` and `:lost`.
    """
    return f"{namespace}:plans"


def budget(namespace: str, template: str) -> str:
    """Hash, PX an hour from the last use: the tokens of a loader, and how it has been doing."""
    return f"{namespace}:budget:{template}"


def under_way(namespace: str, template: str) -> str:
    """Sorted set, PX likewise: batch of a loader that is being loaded -> when it counts as over."""
    return f"{namespace}:batches:{template}"

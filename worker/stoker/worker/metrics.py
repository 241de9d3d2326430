"""`stoker metrics`: what Prometheus is told of the fleet. `docs/metrics.md` lists the names.

Nothing is counted here: at each scrape the servers are asked for what processes have written down, so a metric is the
whole fleet's, and goes on when processes come and go. What a server does not answer is left out, and `stoker_up` says
so. Names of tenants, plans, rules and of families of keys are labels; keys and values are nowhere.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from stoker.cache import CacheMonitor, CacheUnavailable, ConfigError
from stoker.tasks import StateUnavailable, names, state_server
from stoker.tasks.pressure_store import Row
from stoker.tasks.runtime import Runtime
from stoker.tasks.status import FINAL

log = logging.getLogger(__name__)
SHARED = "(shared)"
"""Stands for the shared key space among the tenants."""
_JOBS = (names.INVALIDATE, names.SWEEP, names.WARM, names.EVICT, names.REBALANCE, names.RESHARD)
KINDS = tuple(map(names.kind, _JOBS))
Source = Callable[[Runtime], Iterator[Metric]]


@contextmanager
def served(here: Runtime) -> Iterator[int]:
    """Answer at `/metrics`, as the settings say where; yields the port.

    Raises:
        ConfigError: Nothing can listen there.
    """
    wanted = here.settings.metrics
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Fleet(here))
    try:
        server, thread = start_http_server(wanted.port, wanted.host, registry)
    except OSError as error:
        raise ConfigError("STOKER_METRICS__PORT", f"{wanted.host}:{wanted.port}", str(error)) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Fleet(Collector):
    """Asks the servers of these settings at each scrape."""

    def __init__(self, here: Runtime) -> None:
        self._here = here

    def describe(self) -> Iterable[Metric]:
        """Nothing: to say it would take asking."""
        return ()

    def collect(self) -> Iterator[Metric]:
        up = _gauge("stoker_up", "Whether the server answered at this scrape.", "server")
        for server, sources in SOURCES.items():
            found: list[Metric] = []
            try:
                for source in sources:
                    found += source(self._here)
            except (CacheUnavailable, StateUnavailable, RedisError) as error:
                log.warning("metrics of the %s are left out: %s", server, error)
                up.add_metric([server], 0)
            else:
                up.add_metric([server], 1)
            yield from found
        yield up


def reads(here: Runtime) -> Iterator[Metric]:
    total = _counter(
        "stoker_reads",
        "Reads by tenant and family of keys (up to the first ':').",
        "tenant",
        "family",
        "result",
    )
    for (tenant, family), counts in CacheMonitor(here.cache).get_reads().items():
        total.add_metric([_tenant(tenant), family, "hit"], counts.hits)
        total.add_metric([_tenant(tenant), family, "miss"], counts.misses)
    yield total


def server(here: Runtime) -> Iterator[Metric]:
    node = CacheMonitor(here.cache).get_node()
    yield _gauge(
        "stoker_cache_used_bytes",
        "Memory that counts against maxmemory, of all nodes.",
        value=node.used_bytes,
    )
    yield _gauge(
        "stoker_cache_limit_bytes", "maxmemory of all nodes; 0: one has none.", value=node.limit_bytes
    )
    yield _gauge("stoker_cache_resident_bytes", "Memory of the machine.", value=node.rss_bytes)
    yield _gauge("stoker_cache_client_bytes", "Of it buffers of connections.", value=node.client_bytes)
    yield _gauge("stoker_cache_fragmentation_ratio", "Of the worst node.", value=node.fragmentation)
    yield _gauge("stoker_cache_keys", "Keys of the server, also others' than Stoker's.", value=node.keys)
    yield _gauge(
        "stoker_cache_nodes_missing",
        "Nodes of a cluster that did not answer: the others are counted.",
        value=len(node.missing),
    )
    if not node.missing:  # these must not fall, nor rise by all that a node has counted when it is back
        yield _counter(
            "stoker_cache_evicted_keys", "Keys that the server evicted by itself.", value=node.evicted
        )
        yield _counter("stoker_cache_expired_keys", "Keys that expired.", value=node.expired)


def bans(here: Runtime) -> Iterator[Metric]:
    rules = CacheMonitor(here.cache).get_bans()
    yield _gauge(
        "stoker_bans", "Invalidations that readers still have to look at, of all shards.", value=sum(rules)
    )
    yield _gauge(
        "stoker_bans_largest_shard", "The same of the shard that has most.", value=max(rules, default=0)
    )


def pressure(here: Runtime) -> Iterator[Metric]:
    last, made = here.pressure.last(), here.pressure.composition()
    if last is not None:
        yield _gauge(
            "stoker_watched_timestamp_seconds", "When a worker last looked at memory.", value=last.at
        )
        yield _gauge("stoker_pressed", "Whether warm plans wait for memory.", value=last.pressed)
        full = _gauge(
            "stoker_tenant_full", "Tenants above their hard quota, who store nothing more.", "tenant"
        )
        for tenant in last.full:
            full.add_metric([_tenant(tenant)], 1)
        yield full
    if made is not None:
        yield from _rows("tenant", made.tenants)
        yield from _rows("family", made.families)


def _rows(what: str, rows: Iterable[Row]) -> Iterator[Metric]:
    size = _gauge(f"stoker_{what}_bytes", f"Estimated bytes of entries by {what}.", what)
    number = _gauge(f"stoker_{what}_entries", f"Estimated entries by {what}.", what)
    for row in rows:
        label = [_tenant(row.name) if what == "tenant" else row.name]
        size.add_metric(label, row.bytes)
        number.add_metric(label, row.entries)
    yield size
    yield number


def jobs(here: Runtime) -> Iterator[Metric]:
    known = here.jobs.census()
    ended = _counter("stoker_jobs_ended", "Jobs that ended, by their final state.", "kind", "state")
    unfinished = _gauge("stoker_jobs_unfinished", "Jobs that are queued or running.", "kind", "state")
    oldest = _gauge(
        "stoker_jobs_oldest_created_timestamp_seconds", "When the oldest of them was asked for.", "kind"
    )
    for kind in KINDS:  # those too of which there is none: an increase is seen from 0 on
        its = [job for job in known.unfinished if job.kind == kind]
        for state in sorted(FINAL):
            ended.add_metric([kind, state], known.ended.get((kind, state), 0))
        for state in ("queued", "running"):
            unfinished.add_metric([kind, state], sum(job.state == state for job in its))
        if its:
            oldest.add_metric([kind], min(job.created_at for job in its))
    yield from (ended, unfinished, oldest)
    yield _gauge("stoker_jobs_given_up", "Jobs that `stoker jobs --dead` lists.", value=known.dead)


def plans(here: Runtime) -> Iterator[Metric]:
    missed = _counter("stoker_plan_missed_runs", "Runs that were due and did not come.", "plan")
    failed = _gauge("stoker_plan_failed", "Whether its last run did not succeed.", "plan")
    paused = _gauge("stoker_plan_paused", "Whether an operator keeps the clock from starting it.", "plan")
    for name, plan in here.plans.read().plans.items():
        missed.add_metric([name], plan.missed)
        failed.add_metric([name], plan.outcome not in ("", "succeeded"))
        paused.add_metric([name], plan.paused)
    yield from (missed, failed, paused)


def events(here: Runtime) -> Iterator[Metric]:
    known = here.events.overview(1)
    total = _counter("stoker_events", "Runs of rules by what became of them.", "outcome", "rule")
    for labels, count in known.counts.items():
        total.add_metric(labels, count)
    yield total
    yield _gauge("stoker_events_dead_letters", "Events that `stoker events dead` lists.", value=known.dead)
    yield _gauge(
        "stoker_events_unfinished", "Events and rules that run, or will run again.", value=known.unfinished
    )


def queues(here: Runtime) -> Iterator[Metric]:
    waiting = _gauge("stoker_queue_messages", "Messages that no worker has taken.", "queue")
    namespace = here.settings.namespace
    with state_server.connect(here.settings.broker()) as client:
        pipeline = client.pipeline(transaction=False)
        for name in names.QUEUES:
            pipeline.llen(names.queue(namespace, name))
        pipeline.hlen(names.queue(namespace, "unacked"))
        *lengths, taken = pipeline.execute()
    for name, length in zip(names.QUEUES, lengths, strict=True):
        waiting.add_metric([name], length)
    yield waiting
    yield _gauge(
        "stoker_messages_unacknowledged", "Messages that workers have taken and not done.", value=taken
    )


SOURCES: dict[str, tuple[Source, ...]] = {
    "cache": (reads, server, bans),
    "state": (pressure, jobs, plans, events),
    "broker": (queues,),
}


def _gauge(name: str, text: str, *labels: str, value: float | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value, labels or None)


def _counter(name: str, text: str, *labels: str, value: float | None = None) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value, labels or None)


def _tenant(name: str | None) -> str:
    return name or SHARED

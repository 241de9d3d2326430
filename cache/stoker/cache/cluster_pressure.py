"""How full the nodes of a cluster are and what fills them, taken together; and what tenants may have on each.

Nodes that cannot be asked are left out, and named: neither what they have counts nor what room they offer, so shares
are of what is there. For `backends.cluster` and `cluster_verbs`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from redis.crc import key_slot

from stoker.cache import pressure, quotas
from stoker.cache.node_link import NodeLink, Spread
from stoker.cache.parts import Answers, Layout, Node, NotAll, Part, at_once, everywhere, wherever
from stoker.cache.pressure import added_limit
from stoker.cache.quotas import Quotas
from stoker.cache.sampling import SAMPLE
from stoker.cache.usage import Usage, redis_usage
from stoker.cache.wire import Operation

log = logging.getLogger(__name__)


def usage(spread: Spread) -> Operation[Usage]:
    """Of all nodes together; `share` is that of the fullest, as each has a limit of its own."""
    found = yield from everywhere(lambda node, layout: redis_usage(NodeLink(spread, node, layout)))
    nodes = list(found.values())
    return Usage(
        sum(one.entries for one in nodes),
        sum(one.used_bytes for one in nodes),
        added_limit([one.limit_bytes for one in nodes]),
        max((one.share for one in nodes), default=0.0),
        sum(one.evictions for one in nodes),
    )


def node() -> Operation[pressure.Node]:
    """All nodes as one: sums, and the fragmentation of the worst; with a policy that is not the same, none."""
    answers = yield from _counted(wherever(lambda _node, _layout: pressure.node()))
    nodes: Sequence[pressure.Node] = list(answers.of.values())
    policies = {one.policy for one in nodes}
    return pressure.Node(
        used_bytes=sum(one.used_bytes for one in nodes),
        limit_bytes=added_limit([one.limit_bytes for one in nodes]),
        policy=policies.pop() if len(policies) == 1 else "",
        rss_bytes=sum(one.rss_bytes for one in nodes),
        fragmentation=max(one.fragmentation for one in nodes),
        client_bytes=sum(one.client_bytes for one in nodes),
        keys=sum(one.keys for one in nodes),
        evicted=sum(one.evicted for one in nodes),
        expired=sum(one.expired for one in nodes),
        shares={name: one.share for name, one in answers.of.items()},
        missing=answers.missing,
    )


def makeup(spread: Spread, wanted: int) -> Operation[pressure.Makeup]:
    """Of all nodes together, each sampled alike."""
    answers = yield from _makeups(spread, lambda layout: max(1, wanted // len(layout.nodes)))
    return replace(pressure.added_up(list(answers.of.values())), missing=answers.missing)


def portions(spread: Spread, low_watermark: float) -> Operation[tuple[dict[Node, Quotas], str]]:
    """What tenants may have on each node, by samples of all; and what is to be told of how that came about.

    Who is above his quota is decided here, once for all nodes: each then goes by its own portion.
    """
    try:
        [kept] = yield from at_once((Part(key_slot(spread.quotas_key), spread.quotas, "tenants' quotas"),))
    except NotAll as error:
        log.warning("tenants' quotas are not known: %s", error.reason)
        return {}, "tenants' quotas are not known"
    if not kept.any:
        return {}, ""
    answers = yield from _makeups(spread, lambda _layout: SAMPLE)
    room = pressure.added_up(list(answers.of.values())).room(low_watermark)
    sizes = {node: found.sizes for node, found in answers.of.items()}
    told = f"quotas are of all nodes but {', '.join(answers.missing)}" if answers.missing else ""
    return quotas.portions(kept, sizes, room), told


def _makeups(spread: Spread, wanted: Callable[[Layout], int]) -> Operation[Answers]:
    def sampled(node: Node, layout: Layout) -> Operation[pressure.Makeup]:
        return pressure.makeup(NodeLink(spread, node, layout), wanted(layout))

    return _counted(wherever(sampled))


def _counted(asked: Operation[Answers]) -> Operation[Answers]:
    answers = yield from asked
    if answers.missing:
        log.warning("what %s have is not counted: %s", ", ".join(answers.missing), answers.why)
    return answers

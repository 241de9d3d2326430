"""What a rule may ask for, and how it is done.

Invalidations are done at once, in the process that runs the rule, and before everything else: when a warm is sent,
they have been acknowledged. The rest is sent as jobs.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Self, cast

from stoker.tasks import names, send
from stoker.tasks.errors import InvalidArguments, NotSent
from stoker.tasks.events import COLD, Event
from stoker.tasks.invalidate import apply, rewarm
from stoker.tasks.runtime import Runtime

log = logging.getLogger(__name__)


class Whose(Enum):
    """In place of a tenant."""

    OF_EVENT = "the event's"


OF_EVENT = Whose.OF_EVENT
TenantId = str | None | Whose


@dataclass(frozen=True)
class Action(ABC):
    """One thing that follows from an event."""

    def of(self, event: Event) -> Self:  # noqa: ARG002 - those that are about a tenant need it
        """The action as it is done for this event. Raises InvalidArguments: it cannot be done."""
        self.check()
        return self

    @abstractmethod
    def check(self) -> None:
        """Raise InvalidArguments if it cannot be done."""


@dataclass(frozen=True)
class TenantAction(Action):
    """An action on one tenant's keys.

    Attributes:
        tenant_id: Whose; left out, the event's; None, the shared key space.
    """

    tenant_id: TenantId = field(default=OF_EVENT, kw_only=True)

    def of(self, event: Event) -> Self:
        resolved = replace(self, tenant_id=event.tenant_id) if self.tenant_id is OF_EVENT else self
        resolved.check()
        return resolved


@dataclass(frozen=True)
class Invalidate(TenantAction):
    """Invalidate keys, tags, a pattern or a whole tenant: all that are given.

    Attributes:
        keys: At most 10,000.
        pattern: Such as `user:*`.
        tags: At most 64.
        whole_tenant: Everything of the tenant.
        rewarm: Of the hot keys among them at most so many are warmed again, hottest first.
    """

    keys: Iterable[str] = ()
    pattern: str | None = None
    tags: Iterable[str] = ()
    whole_tenant: bool = False
    rewarm: int = 0

    def __post_init__(self) -> None:
        _freeze(self, "keys", "tags")

    def check(self) -> None:
        self.arguments()

    def arguments(self) -> names.Invalidate:
        given = {
            "keys": list(self.keys),
            "pattern": self.pattern,
            "tags": list(self.tags),
            "whole_tenant": self.whole_tenant,
            "tenant_id": self.tenant_id,
            "rewarm": self.rewarm,
        }
        return cast("names.Invalidate", names.check(names.INVALIDATE, given))


@dataclass(frozen=True)
class InvalidateTags(TenantAction):
    """Invalidate every entry that carries one of the tags."""

    tags: Iterable[str]

    def __post_init__(self) -> None:
        _freeze(self, "tags")

    def check(self) -> None:
        self.arguments()

    def arguments(self) -> names.Invalidate:
        return Invalidate(tags=self.tags, tenant_id=self.tenant_id).arguments()


@dataclass(frozen=True)
class Warm(TenantAction):
    """Load keys of a tenant, or run a warm plan.

    Attributes:
        keys: At most 100,000.
        plan: Or a plan's name, which knows its tenants by itself.
    """

    keys: Iterable[str] = ()
    plan: str | None = None

    def __post_init__(self) -> None:
        _freeze(self, "keys")

    def check(self) -> None:
        if self.plan is None:
            names.check(names.WARM, {"keys": list(self.keys), "tenant_id": self.tenant_id})
        else:
            names.check(names.WARM, {"plan": self.plan, **({"keys": list(self.keys)} if self.keys else {})})


@dataclass(frozen=True)
class Refresh(TenantAction):
    """Load keys anew while the old values are served; what is not begun within a lease is dropped."""

    keys: Iterable[str]

    def __post_init__(self) -> None:
        _freeze(self, "keys")

    def check(self) -> None:
        for key in self.keys:
            names.check(names.REFRESH, {"key": key, "tenant_id": self.tenant_id})


@dataclass(frozen=True)
class Evict(Action):
    """Bring the cache's memory down to `target_bytes`, or to the low watermark."""

    target_bytes: int | None = None

    def check(self) -> None:
        names.check(names.EVICT, {"target_bytes": self.target_bytes})


@dataclass(frozen=True)
class Rebalance(Action):
    """Bring the nodes of the cluster to their shares.

    Attributes:
        by: What counts: `keys`, `bytes` or `load`.
        act: Whether slots are moved; else the job only says which would be.
    """

    by: str = "keys"
    act: bool = True

    def check(self) -> None:
        names.check(names.REBALANCE, {"by": self.by, "act": self.act})


KINDS = (Invalidate, InvalidateTags, Warm, Refresh, Evict, Rebalance)


def perform(actions: Iterable[Action], event: Event, here: Runtime, run: str) -> None:
    """Do what a rule asked for on this event: first what invalidates, then the rest in order.

    Args:
        run: Names this run of the rule, unlike every other run of any rule.

    Raises:
        CacheUnavailable: An invalidation was not acknowledged; nothing after it was begun.
        NotSent: A server did not take a job. Doing all of it again does no harm.
    """
    wanted = list(actions)
    first = [action for action in wanted if isinstance(action, Invalidate | InvalidateTags)]
    # Each run that invalidates has a cause of its own: a warm of another may have passed the keys before this ban.
    cause = f"{event.id}.{run}"
    bans = sum([apply(here.cache, action.arguments())["bans"] for action in first])
    for action in first:
        if (arguments := action.arguments()).rewarm:
            rewarm(here, arguments, cause)
    if bans:
        _ask_for_a_sweep(here.settings.job.sweep_delay)
    after = cause if first else event.id if event.name == COLD else None
    for other in wanted:
        if other not in first:
            _send(other, after)


def _send(action: Action, cause: str | None) -> None:
    """`cause`: of a warm that must not join a job that began before the invalidation, or before the cold start."""
    match action:
        case Warm(plan=str(plan)):
            send.warm_plan(plan, cause=cause)
        case Warm():
            send.warm(action.keys, _told(action.tenant_id), cause=cause)
        case Refresh():
            for key in action.keys:
                send.refresh(key, _told(action.tenant_id))
        case Evict():
            send.evict(action.target_bytes)
        case Rebalance():
            send.rebalance(by=action.by, act=action.act)
        case _:
            raise InvalidArguments(type(action).__name__, why_not_known())


def why_not_known() -> str:
    """What to tell of an action that is none of `KINDS`."""
    return f"there is no such action; use {', '.join(kind.__name__ for kind in KINDS)}"


def _ask_for_a_sweep(delay: float) -> None:
    try:
        send.sweep(delay=delay)
    except NotSent as error:  # readers are safe; what is banned is deleted by the next scheduled sweep
        log.warning("%s", error)


def _told(tenant_id: TenantId) -> str | None:
    assert not isinstance(tenant_id, Whose), "the action was not resolved"
    return tenant_id


def _freeze(action: Action, *fields: str) -> None:
    """Make tuples of lists, so that actions compare equal and stay as they are."""
    for name in fields:
        given: Any = getattr(action, name)
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise InvalidArguments(type(action).__name__, f"{name}={given!r:.80}: give a list")
        object.__setattr__(action, name, tuple(given))

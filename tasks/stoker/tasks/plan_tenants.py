"""The tenants of a warm plan for all tenants: those for whom any process has read, by the counts of all processes.

They are looked up when a run begins, and kept for the run: if it goes on elsewhere, it counts its keys by the same
list.
"""

import logging

from stoker.cache import Cache, CacheMonitor, InvalidName
from stoker.cache.tenancy import tenant_field
from stoker.tasks.errors import PlanError
from stoker.tasks.runtime import Runtime

log = logging.getLogger(__name__)

MOST_TENANTS = 10_000
"""Those that were read for most, if there are more."""


def tenants_of_run(here: Runtime, name: str, *, begins: bool) -> tuple[str, ...]:
    """The tenants of a plan's run that begins, or of the one that goes on.

    Raises:
        PlanError: There are none.
        CacheUnavailable: The cache does not answer; StateUnavailable: the state server.
    """
    kept = None if begins else here.plans.kept_tenants(name)
    if kept is None:
        kept = _every_tenant(here.cache, name)
        here.plans.keep_tenants(name, kept)
    return kept


def _every_tenant(cache: Cache, name: str) -> tuple[str, ...]:
    reads = {tenant: count for tenant, count in CacheMonitor(cache).tenants().items() if _is_usable(tenant)}
    if not reads:
        raise PlanError(name, "it is for all tenants, and nobody has read for any tenant yet; name them")
    busiest = sorted(reads, key=lambda tenant: (-reads[tenant], tenant))
    if len(busiest) > MOST_TENANTS:
        log.warning("plan %r: %s tenants; only the busiest %s are warmed", name, len(busiest), MOST_TENANTS)
    return tuple(sorted(busiest[:MOST_TENANTS]))


def _is_usable(tenant: str) -> bool:
    """What stands in the counts may have been written by anybody."""
    try:
        tenant_field(tenant)
    except InvalidName:
        return False
    return True

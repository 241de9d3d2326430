"""Taking one guard out of the protocol, in this process only, to show that the demo would notice.

Only the demo's own readers import this, when `--break` asks for it: no setting and no environment variable
can do it to a program that uses the cache.
"""

from collections.abc import Callable

from stoker.cache import scripts

_LEASE_GUARD = b"if redis.call('GET', KEYS[3]) ~= ARGV[3] then return 0 end\n"


def break_lease() -> None:
    """Fill without asking whether the lease is still ours: a slow load may overwrite what it missed."""
    source = scripts.FILL.source.replace(_LEASE_GUARD, b"")
    if source == scripts.FILL.source:
        raise RuntimeError(
            "fill.lua does not hold the line that guards the lease; this module must follow it"
        )
    scripts.FILL = scripts.Script(scripts.FILL.name, source)


GUARDS: dict[str, Callable[[], None]] = {"lease": break_lease}
"""What `stoker demo --break` takes."""

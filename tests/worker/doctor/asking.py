"""Asking the doctor, in this process."""

from typing import Any

import redis

from stoker.cache import Cache, CacheConfig
from stoker.config import Settings
from stoker.worker.doctor.check import Finding, Severity
from stoker.worker.doctor.run import diagnose
from stoker.worker.embedded import Server

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
NOWHERE = "redis://127.0.0.1:1/0"


def client_of(there: Server) -> Any:
    return redis.Redis.from_url(there.url)


def a_cache(there: Server, **fields: Any) -> Cache:
    return Cache(CacheConfig(backend="redis", redis_url=there.url, **fields))


def found(*checks: str, **settings: Any) -> list[Finding]:
    """What these checks find that is not all right."""
    return [f for f in diagnose(Settings(**settings), checks) if f.severity > Severity.OK]


def sole(check: str, **settings: Any) -> Finding:
    """The one thing that the check finds."""
    findings = found(check, **settings)
    assert len(findings) == 1, findings
    return findings[0]


def all_in_one_shard(_: str) -> int:
    return 0

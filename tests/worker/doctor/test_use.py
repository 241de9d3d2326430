"""What the doctor says of how a cache is used: misses, latency, sharding, loaders, jobs, queues."""

import re
import time
from pathlib import Path

import pytest

from stoker.cache import CacheSharder, CacheShardingConfig
from stoker.cache.keys import ShardKeys
from stoker.config import Settings
from stoker.tasks import runtime, send
from stoker.tasks.job import ANY
from stoker.worker.doctor import jobs, latency, warming
from stoker.worker.doctor.check import Finding
from stoker.worker.doctor.run import diagnose
from stoker.worker.embedded import Server
from tests.cache.proxy import SlowProxy
from tests.worker.doctor.asking import ERROR, NOTE, NOWHERE, a_cache, all_in_one_shard, client_of, found, sole


@pytest.mark.usefixtures("at_once")
def test_a_queue_that_nobody_serves_is_an_error_with_the_command_that_serves_it(
    cache_server: Server, broker_server: Server
) -> None:
    urls = {"cache_url": cache_server.url, "broker_url": broker_server.url}
    list(diagnose(Settings(**urls), ["broker"]))  # takes the settings over
    send.warm(["user:1"])
    findings = found("workers", "beat", "invalidation", **urls)
    assert [(f.check, f.severity, f.remedy) for f in findings] == [
        ("workers", ERROR, "stoker worker -q invalidate"),
        ("workers", ERROR, "stoker worker -q events"),
        ("workers", ERROR, "stoker worker -q refresh"),
        ("workers", ERROR, "stoker worker -q warm"),
        ("workers", ERROR, "stoker worker -q maintenance"),
        ("beat", ERROR, "stoker beat"),
        ("invalidation", ERROR, "stoker worker -q invalidate"),
    ]
    assert "stoker.warm, in which 1 message wait" in findings[3].seen


def test_jobs_that_failed_were_given_up_or_that_nobody_runs_are_told(
    broker_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LEAST_STUCK_S", 0)
    monkeypatch.setattr(jobs, "MISSED", 0)
    assert found("jobs", broker_url=broker_server.url) == []
    failed, dead, stuck = send.sweep(), send.evict(), send.warm(["user:1"])
    runtime.current().jobs.finish(dead.id, "failed", ANY, {"error": "kills its process"}, dead=True)
    runtime.current().jobs.finish(failed.id, "failed", ANY, {"error": "no coal"})
    time.sleep(0.01)  # jobs are dated to the millisecond
    given_up, first, second = found("jobs", broker_url=broker_server.url)
    assert (given_up.cause, given_up.remedy[:18]) == ("evict: kills its process", "stoker jobs --dead")
    assert (first.cause, first.remedy.split()[2]) == ("sweep: no coal", f"{failed.id};")
    assert second.cause.startswith("warm queued for")
    assert f"stoker jobs --abort {stuck.id}" in second.remedy


def test_a_low_hit_rate_names_the_keys_that_are_missed_most(cache_server: Server, namespace: str) -> None:
    with a_cache(cache_server, namespace=namespace) as cache:
        cache.set("user:1", 1)
        for number in range(1000):
            cache.get(f"report:{number}")
            cache.get(f"user:{number % 4}")
    finding = sole("misses", cache_url=cache_server.url, namespace=namespace)
    assert finding.seen == (
        "12.5% of the fleet's 2,000 reads were hits; most misses have report:*: 0.0% of 1,000"
    )


def test_a_ttl_of_seconds_is_told(cache_server: Server) -> None:
    assert "STOKER_DEFAULT_TTL is 2 s" in found("misses", cache_url=cache_server.url, default_ttl=2)[1].seen


def test_a_namespace_that_begins_cold_again_and_again_is_found_by_what_it_left(
    cache_server: Server, namespace: str
) -> None:
    client = client_of(cache_server)
    with a_cache(cache_server, namespace=namespace) as cache:
        for life in range(3):
            client.delete(ShardKeys(namespace).ctl)
            cache.set(f"user:{life}", life)
        _, cold = found("misses", cache_url=cache_server.url, namespace=namespace)
    assert cold.seen == (
        "2 of 3 sampled entries are of earlier lives of the cache: it began cold at least 2 times"
    )


def test_slow_reads_are_told_with_what_to_look_at(
    cache_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "READS", 20)
    with a_cache(cache_server, namespace=namespace) as cache:
        cache.set("user:1", 1)
    with monkeypatch.context() as busy:  # as this machine may be
        busy.setattr(latency, "SLOW_MEDIAN_MS", 1000)
        busy.setattr(latency, "SLOW_P99_MS", 1000)
        assert found("latency", cache_url=cache_server.url, namespace=namespace) == []
    with SlowProxy(cache_server.url) as proxy:
        proxy.delay_s = 0.01
        finding = sole("latency", cache_url=proxy.url, namespace=namespace)
    assert re.match(r"20 reads: median \d\d+\.\d\d ms", finding.seen)
    assert "SLOWLOG GET" in finding.remedy
    assert not [name for name in client_of(cache_server).scan_iter() if b"doctor" in name]


def test_the_doctor_opens_no_namespace(cache_server: Server, namespace: str) -> None:
    findings = found("misses", "latency", "sharding", cache_url=cache_server.url, namespace=namespace)
    assert {f.severity for f in findings} == {NOTE}
    assert client_of(cache_server).dbsize() == 0


@pytest.mark.parametrize(
    ("ours", "theirs"), [({"max_load": 30}, "max_load_ms=60000"), ({"num_shards": 2}, "num_shards=1")]
)
def test_other_settings_than_the_maps_are_refused_with_the_remedy(
    cache_server: Server, namespace: str, ours: dict[str, int], theirs: str
) -> None:
    with a_cache(cache_server, namespace=namespace) as cache:
        cache.set("user:1", 1)
    finding = sole("sharding", cache_url=cache_server.url, namespace=namespace, **ours)
    assert (finding.severity, theirs in finding.remedy) == (ERROR, True)


def test_shards_of_very_different_size_are_told(cache_server: Server, namespace: str) -> None:
    with a_cache(cache_server, namespace=namespace) as cache:
        CacheSharder(cache, CacheShardingConfig(True, 4, all_in_one_shard))
        cache.set_many({f"user:{number}": 1 for number in range(1000)})
    shards = {"num_shards": 4, "shard_key_func": f"{all_in_one_shard.__module__}:all_in_one_shard"}
    finding = sole("sharding", cache_url=cache_server.url, namespace=namespace, **shards)
    assert finding.seen == "the largest of 4 shards, 0, holds 4.0 times the average"
    # With as many shards, but keys placed otherwise:
    refused = found("sharding", cache_url=cache_server.url, namespace=namespace, num_shards=4)[1]
    assert (refused.severity, "hash='crc32'" in refused.seen) == (ERROR, True)


def test_a_function_that_places_keys_and_cannot_be_imported_is_told(cache_server: Server) -> None:
    shards = {"num_shards": 4, "shard_key_func": "no_such_module:place"}
    assert "STOKER_SHARD_KEY_FUNC" in sole("sharding", cache_url=cache_server.url, **shards).seen


GOOD = "from stoker.cache import loader\n@loader('doctored:{n}')\ndef load(n: int) -> int: return n\nprint('noise')\n"


def loaders(text: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    (path / "their_loaders.py").write_text(text)
    monkeypatch.setattr(warming, "IMPORTED_WITHIN_S", 1.0 if "sleep" in text else 60.0)
    settings = Settings(cache_url=NOWHERE, loaders=("their_loaders",))
    return list(diagnose(settings, ["warming"]))


def test_loaders_that_can_be_imported_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [f.seen for f in loaders(GOOD, tmp_path, monkeypatch)] == ["1 loader: doctored:{n}"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import no_such_thing", "cannot be imported (ModuleNotFoundError: No module named 'no_such_thing')"),
        ("raise SystemExit('no coal')", "ended the process (exit code 1)"),
        ("import time; time.sleep(60)", "did not end within 1 s"),
        ("pass", "no loader is registered"),
    ],
)
def test_loaders_that_workers_could_not_use_are_told(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [finding] = loaders(text, tmp_path, monkeypatch)
    assert told in finding.seen
    assert finding.remedy

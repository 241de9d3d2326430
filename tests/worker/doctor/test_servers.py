"""What the doctor says of servers, each broken in turn."""

import http.server
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from stoker.worker.doctor import redis_server, server
from stoker.worker.doctor.check import Severity
from stoker.worker.embedded import Server, start_server
from stoker.worker.processes import Processes
from tests.worker.doctor.asking import ERROR, NOTE, NOWHERE, WARNING, a_cache, client_of, found, sole


def test_a_server_in_order_leaves_nothing_to_be_said(cache_server: Server) -> None:
    assert found("redis", "memory", "pressure", cache_url=cache_server.url) == []


def test_a_wrong_url_is_told_once_with_the_setting_that_holds_it() -> None:
    first, *others = found("redis", "misses", "memory", "latency", "sharding", cache_url=NOWHERE)
    assert first.severity is ERROR
    assert "127.0.0.1:1 gives no answer" in first.seen
    assert first.cause == "nothing listens there, or the name or port is wrong"
    assert "STOKER_CACHE_URL" in first.remedy
    assert {(f.severity, f.seen[:14]) for f in others} == {(NOTE, "not looked at:")}


def test_without_a_cache_server_every_process_has_its_own() -> None:
    assert "workers refuse to start" in sole("redis").cause


def test_frozen_servers_are_found_within_the_time_of_a_run(
    cache_server: Server, broker_server: Server
) -> None:
    for frozen in (cache_server, broker_server):
        os.kill(frozen.child.pid, signal.SIGSTOP)
    began = time.monotonic()
    findings = found(cache_url=cache_server.url, broker_url=broker_server.url)
    assert time.monotonic() - began < 8
    errors = [f for f in findings if f.severity is ERROR]
    assert [f.check for f in errors] == ["redis", "broker"]
    assert all("its process is stopped" in f.cause for f in errors)
    for frozen in (cache_server, broker_server):
        os.kill(frozen.child.pid, signal.SIGCONT)


def test_a_wrong_password_is_told_but_not_shown(cache_server: Server) -> None:
    client_of(cache_server).config_set("requirepass", "right-password")
    finding = sole("redis", cache_url=cache_server.url.replace("://", "://:wrong-password@"))
    assert finding.cause.startswith("it asks for a user or password")
    assert "wrong-password" not in str(finding)


def test_what_is_no_redis_is_told_apart() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        finding = sole("redis", cache_url=f"redis://127.0.0.1:{other.server_port}/0")
    assert finding.severity is ERROR


def test_a_replica_is_no_place_for_a_cache(processes: Processes, cache_server: Server) -> None:
    replica = start_server(processes, "cache")
    client_of(replica).replicaof("127.0.0.1", cache_server.port)
    first, *others = found("redis", "misses", "latency", cache_url=replica.url)
    assert (first.severity, first.remedy) == (
        ERROR,
        f"point STOKER_CACHE_URL to its primary, 127.0.0.1:{cache_server.port}",
    )
    assert {f.severity for f in others} == {NOTE}
    processes.stop([replica.child], 0)


def test_a_server_that_is_too_old_is_refused(cache_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LEAST_VALKEY", (99, 0))
    monkeypatch.setattr(redis_server, "LEAST_VALKEY", (99, 0))
    assert "needs" not in (finding := sole("redis", cache_url=cache_server.url)).seen
    assert finding.severity is ERROR
    assert finding.seen.endswith("is too old")


def test_an_acl_that_is_too_small_is_told_by_command(cache_server: Server, namespace: str) -> None:
    admin = client_of(cache_server)
    admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-zcount", "-memory|usage")
    url = cache_server.url.replace("://", "://app:pw@")
    finding = sole("redis", cache_url=url, namespace=namespace)
    assert finding.seen == "the user may not run memory|usage, zcount"
    assert "+memory|usage +zcount" in finding.remedy
    # and one that may touch other keys only
    admin.execute_command("ACL", "SETUSER", "app", "resetkeys", "~other:*", "+@all")
    assert f"~{{{namespace}}}*" in sole("redis", cache_url=url, namespace=namespace).remedy
    assert admin.dbsize() == 0


def test_the_documented_acl_is_enough_for_the_doctor_too(cache_server: Server, namespace: str) -> None:
    with a_cache(cache_server, namespace=namespace) as cache:
        cache.set("user:1", 1)
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    rules = page[page.index("### Least ACL") :].split("```")[1].split()
    admin = client_of(cache_server)
    known = [rule for rule in rules if rule != "+client|maint_notifications"]  # of Redis 8
    admin.execute_command(
        "ACL", "SETUSER", "app", "on", ">pw", f"~{{{namespace}}}*", f"~{{{namespace}:*", "-@all", *known
    )
    url = cache_server.url.replace("://", "://app:pw@")
    checks = ("redis", "misses", "memory", "pressure", "latency", "sharding")
    assert [f.seen for f in found(*checks, cache_url=url, namespace=namespace, near_size=10)] == [
        "0 reads so far: too few to judge the hit rate"
    ]
    admin.execute_command("ACL", "SETUSER", "app", "-client|tracking")
    assert found("redis", cache_url=url, namespace=namespace) == []
    finding = sole("redis", cache_url=url, namespace=namespace, near_size=10)
    assert finding.seen == "the user may not run client|tracking"


@pytest.mark.parametrize(
    ("policy", "evict_every", "severity"),
    [("allkeys-lru", 30, WARNING), ("noeviction", 30, NOTE), ("noeviction", None, WARNING)],
)
def test_a_policy_that_harms_the_cache_is_explained(
    cache_server: Server, policy: str, evict_every: float | None, severity: Severity
) -> None:
    client_of(cache_server).config_set("maxmemory-policy", policy)
    finding = sole("redis", cache_url=cache_server.url, beat={"evict_every": evict_every})
    assert finding.severity is severity
    assert policy in finding.seen
    assert "CONFIG SET maxmemory-policy volatile-lfu" in finding.remedy


def test_memory_without_a_limit_is_told_with_the_command_that_sets_one(cache_server: Server) -> None:
    client_of(cache_server).config_set("maxmemory", 0)
    finding = sole("memory", cache_url=cache_server.url)
    assert (finding.severity, finding.remedy[:20]) == (WARNING, "CONFIG SET maxmemory")


def test_memory_above_the_watermark_is_told_and_that_nobody_evicts(
    cache_server: Server, broker_server: Server
) -> None:
    client = client_of(cache_server)
    client.setrange("filler", 4 * 2**20, b"x")  # a value that is sent stands in the connection's buffer too
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.02))
    urls = {"cache_url": cache_server.url, "broker_url": broker_server.url}
    assert "above STOKER_HIGH_WATERMARK=0.9" in sole("memory", **urls).seen
    by_clock, last = found("pressure", beat={"evict_every": None}, **urls)
    assert by_clock.cause == "STOKER_BEAT__EVICT_EVERY is none"
    assert "no eviction ran lately" in last.seen


def test_evictions_by_the_server_itself_are_told(cache_server: Server) -> None:
    client = client_of(cache_server)
    for number in range(50):
        client.set(f"filler:{number}", bytes(2**16), ex=600)
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 0.9))
    client.set("one:more", bytes(2**16), ex=600)
    client.config_set("maxmemory", 2**30)
    assert "keys by itself" in sole("pressure", cache_url=cache_server.url).seen


@pytest.mark.slow
def test_fragmented_memory_is_told(cache_server: Server) -> None:
    client = client_of(cache_server)
    client.config_set("maxmemory", 2**30)
    fill = "for i = ARGV[1], ARGV[1] + 4999 do redis.call('SET', 'k' .. i, string.rep('x', 150)) end"
    thin = "for i = ARGV[1], ARGV[1] + 4999 do if i % 8 ~= 0 then redis.call('DEL', 'k' .. i) end end"
    for script in (fill, thin):
        for start in range(0, 1_500_000, 5_000):
            client.eval(script, 0, start)
    finding = sole("memory", cache_url=cache_server.url)
    assert "times the memory it uses" in finding.seen
    assert "activedefrag" in finding.remedy


def test_one_server_for_cache_and_broker_is_found_by_its_run_id(cache_server: Server) -> None:
    other_database = cache_server.url.removesuffix("0") + "1"
    finding = found("broker", cache_url=cache_server.url, broker_url=other_database)[0]
    assert finding.seen == "STOKER_CACHE_URL and STOKER_BROKER_URL are one server"


def test_a_broker_that_may_drop_tasks_is_an_error(broker_server: Server) -> None:
    client = client_of(broker_server)
    client.config_set("maxmemory", 2**28)
    client.config_set("maxmemory-policy", "allkeys-lru")
    policy, persistence = found("broker", broker_url=broker_server.url)
    assert (policy.severity, policy.seen) == (ERROR, "its maxmemory-policy is allkeys-lru")
    assert (persistence.severity, persistence.seen) == (WARNING, "it keeps no append-only file")


def test_a_broker_that_evicts_nothing_and_keeps_a_file_is_in_order(broker_server: Server) -> None:
    client_of(broker_server).config_set("appendonly", "yes")
    assert found("broker", broker_url=broker_server.url) == []


def test_another_server_of_the_jobs_is_looked_at_too(broker_server: Server) -> None:
    client_of(broker_server).config_set("appendonly", "yes")
    finding = sole("broker", broker_url=broker_server.url, state_url=NOWHERE)
    assert finding.remedy == "start the server, or correct STOKER_STATE_URL"

"""`stoker metrics`: names, values, and what it says of servers that do not answer."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from stoker.cache import CacheMonitor
from stoker.config import Settings
from stoker.tasks import runtime, send
from stoker.tasks.job import ANY
from stoker.tasks.pressure import look
from stoker.worker import health
from stoker.worker.app import make_app
from stoker.worker.health import Unhealthy
from stoker.worker.metrics import Fleet, served

ROOT = Path(__file__).parents[2]
Values = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture(autouse=True)
def _environment(operator: pytest.MonkeyPatch) -> None:
    operator.setenv("STOKER_METRICS__PORT", "0")
    make_app(Settings())


def scraped() -> Values:
    """Every sample by its name and the values of its labels, in the order of their names."""
    with (
        served(runtime.current()) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        text = answer.read().decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def busy() -> None:
    """Bring about something of each kind."""
    here = runtime.current()
    with here.cache as cache:
        cache.set_many({f"user:{n}": "x" * 100 for n in range(20)}, 'ac"me')
        cache.get_many([f"user:{n}" for n in range(25)], 'ac"me')
        cache.get("post:1")
        cache.invalidate_pattern("user:1*", 'ac"me')
    look(here)
    job = send.invalidate_pattern("x:*")
    here.jobs.finish(job.id, "failed", ANY)
    here.jobs.finish(send.sweep().id, "succeeded", ANY, dead=True)
    send.warm(["user:1"], "acme")


def test_the_fleet_is_seen_through_its_servers() -> None:
    busy()
    found = scraped()
    assert (
        found["stoker_up", ("cache",)]
        == found["stoker_up", ("state",)]
        == found["stoker_up", ("broker",)]
        == 1
    )
    assert found["stoker_reads_total", ("user", "hit", 'ac"me')] == 20
    assert found["stoker_reads_total", ("user", "miss", 'ac"me')] == 5
    assert found["stoker_reads_total", ("post", "miss", "(shared)")] == 1
    assert found["stoker_bans", ()] == found["stoker_bans_largest_shard", ()] == 1
    assert found["stoker_cache_used_bytes", ()] > 0
    assert found["stoker_cache_keys", ()] > 20
    assert found["stoker_tenant_entries", ('ac"me',)] > 0
    assert found["stoker_family_bytes", ("user",)] > 2000
    assert found["stoker_pressed", ()] == 0
    assert found["stoker_watched_timestamp_seconds", ()] > 1.7e9
    assert found["stoker_jobs_ended_total", ("invalidate", "failed")] == 1
    assert found["stoker_jobs_ended_total", ("sweep", "succeeded")] == 1
    assert found["stoker_jobs_unfinished", ("warm", "queued")] == 1
    assert found["stoker_jobs_ended_total", ("reshard", "failed")] == 0
    assert found["stoker_jobs_unfinished", ("sweep", "queued")] == 0
    assert found["stoker_jobs_oldest_created_timestamp_seconds", ("warm",)] > 1.7e9
    assert found["stoker_jobs_given_up", ()] == 1
    assert found["stoker_queue_messages", ("invalidate",)] == 1
    assert found["stoker_queue_messages", ("warm",)] == 1
    assert found["stoker_messages_unacknowledged", ()] == 0
    assert found["stoker_events_dead_letters", ()] == 0


def test_what_does_not_answer_is_left_out_and_said_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = "redis://:secret@127.0.0.1:1/0"
    monkeypatch.setenv("STOKER_STATE_URL", nowhere)
    make_app(Settings())
    found = scraped()
    assert [found["stoker_up", (name,)] for name in ("cache", "state", "broker")] == [1, 0, 1]
    assert not any(name.startswith("stoker_jobs") for name, _ in found)
    assert ("stoker_queue_messages", ("warm",)) in found
    monkeypatch.setenv("STOKER_CACHE_URL", nowhere)
    monkeypatch.setenv("STOKER_BROKER_URL", nowhere)
    make_app(Settings())
    assert scraped() == {("stoker_up", (name,)): 0 for name in ("cache", "state", "broker")}
    assert "metrics of the cache are left out" in caplog.text
    assert "secret" not in caplog.text


def test_what_nodes_have_counted_is_left_out_while_one_of_them_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = CacheMonitor(runtime.current().cache).get_node()
    assert ("stoker_cache_evicted_keys_total", ()) in scraped()
    monkeypatch.setattr(CacheMonitor, "get_node", lambda _: replace(node, missing=("10.0.0.7:7000",)))
    found = scraped()
    assert found["stoker_cache_nodes_missing", ()] == 1
    assert found["stoker_cache_used_bytes", ()] == node.used_bytes
    assert ("stoker_cache_evicted_keys_total", ()) not in found


def test_the_command_serves_until_it_is_told_to_stop_and_can_be_asked_whether_it_does() -> None:
    command = [sys.executable, "-c", "from stoker.worker.cli import main; main()", "metrics"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            port = int(said.strip().removesuffix("/metrics").rpartition(":")[2])
            health.check_metrics(Settings(metrics={"host": "0.0.0.0", "port": port}))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with pytest.raises(Unhealthy, match="cannot be had"):
        health.check_metrics(Settings(metrics={"port": port}))


def test_the_page_alerts_and_dashboard_know_no_other_names_than_are_told() -> None:
    busy()
    told = {f"{m.name}_total" if m.type == "counter" else m.name for m in Fleet(runtime.current()).collect()}
    named = set(re.findall(r"^\| `(stoker_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    used = set()
    rules = YAML(typ="safe").load(ROOT / "config" / "prometheus-alerts.yml")
    for rule in rules["groups"][0]["rules"]:
        used |= set(re.findall(r"stoker_\w+", rule["expr"]))
    dashboard = json.loads((ROOT / "config" / "grafana" / "stoker.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            used |= set(re.findall(r"stoker_\w+", target["expr"]))
    assert told == named
    assert used <= named

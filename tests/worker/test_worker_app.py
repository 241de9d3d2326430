"""The Celery app of workers and beat, and what a worker checks before it starts."""

import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
from celery.worker import state

from stoker.cache import ConfigError, LoaderError
from stoker.config import BeatSettings, Settings
from stoker.tasks import JobHandle, configure, names, runtime
from stoker.tasks.schedule import beat_schedule
from stoker.worker import lifecycle
from stoker.worker.app import make_app
from stoker.worker.lifecycle import check_cache, import_loaders


def test_the_app_is_made_from_the_settings_and_not_from_celerys_variables(
    broker_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://elsewhere")
    conf = make_app(
        Settings(broker_url=broker_server, namespace="shop", worker={"visibility_timeout": 7})
    ).conf
    assert conf.broker_read_url == conf.broker_write_url == broker_server
    queues = ["shop.invalidate", "shop.events", "shop.refresh", "shop.warm", "shop.maintenance"]
    assert [queue.name for queue in conf.task_queues] == queues
    assert conf.broker_transport_options["visibility_timeout"] == 7
    assert (conf.accept_content, conf.task_serializer) == (["json"], "json")
    assert (conf.task_acks_late, conf.worker_prefetch_multiplier, conf.task_ignore_result) == (True, 1, True)


def test_without_a_broker_there_is_no_app() -> None:
    with pytest.raises(ConfigError, match="STOKER_BROKER_URL"):
        make_app(Settings())


def test_the_module_of_the_app_reads_no_settings_until_the_app_is_asked_for() -> None:
    program = (
        "import os; os.environ['STOKER_NONSENSE'] = '1'\n"
        "import stoker.worker.app as module\n"
        "try: module.app\n"
        "except ValueError as error: assert 'STOKER_NONSENSE' in str(error)\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=110)


def test_everything_that_beat_sends_expires_before_its_next_turn() -> None:
    entries = beat_schedule(Settings(beat=BeatSettings(reap_every=3, sweep_every=None)))
    assert set(entries) == {names.REAP, names.TICK, names.WATCH, names.EVICT, names.HOT}
    assert all(entry["options"]["expires"] <= entry["schedule"] for entry in entries.values())
    for entry in entries.values():
        names.check(entry["task"], entry["kwargs"])


def test_invalidations_of_the_settings_are_sent_by_interval_or_cron_in_utc() -> None:
    given = [
        {"name": "news", "tags": ["news"], "every": "10m"},
        {"name": "prices", "pattern": "price:*", "tenant_id": "acme", "cron": "0 6 * * mon-fri"},
        {"name": "all", "whole_tenant": True, "tenant_id": "acme", "every": "1h"},
        {"name": "home", "keys": ["home"], "every": "1h"},
    ]
    settings = Settings(scheduled_invalidations=given, broker_url="redis://127.0.0.1:1/0")
    entries = {name.partition(" ")[2]: entry for name, entry in beat_schedule(settings).items()}
    news, prices = entries["news"], entries["prices"]
    assert (news["schedule"], news["options"]["expires"]) == (600, 600)
    assert (prices["schedule"]._orig_hour, prices["options"]["expires"]) == ("6", 3 * 86_400)
    assert make_app(settings).timezone.utcoffset(None) == timedelta(0)
    for name in ("news", "prices", "all", "home"):
        names.check(entries[name]["task"], entries[name]["kwargs"])


def test_a_worker_without_a_cache_server_is_refused() -> None:
    with pytest.raises(ConfigError, match="STOKER_CACHE_URL=None: name the cache server"):
        check_cache(Settings())


def test_a_loader_module_that_fails_is_named_with_the_reason() -> None:
    import_loaders(("json", "logging"))
    with pytest.raises(LoaderError, match=r"'no_such_module' cannot be imported \(ModuleNotFoundError"):
        import_loaders(("json", "no_such_module"))


def test_a_message_that_came_too_late_ends_no_job_that_its_first_delivery_began(
    cache_server: str, broker_server: str, namespace: str
) -> None:
    configure(Settings(cache_url=cache_server, broker_url=broker_server, namespace=namespace))
    request = SimpleNamespace(id="swept")
    jobs = runtime.current().jobs
    jobs.open("swept", "sweep", {}, None)
    state.revoked.add("swept")
    lifecycle.revoked(request, expired=True)
    assert JobHandle("swept").status().state == "queued"
    assert "swept" not in state.revoked
    lifecycle.revoked(request, expired=False)
    assert JobHandle("swept").status().state == "aborted"
    runtime.current().close()

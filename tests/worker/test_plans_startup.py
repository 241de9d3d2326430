"""Plans that run when workers start: a worker is not kept from its work by them, nor by a server that is away."""

import logging
import time

import pytest

from stoker.config import Settings
from stoker.tasks import configure, runtime
from stoker.tasks import plans as plans_module
from stoker.tasks.hot_replay import REPLAY
from stoker.worker import lifecycle

PLANS = {"home": {"keys": ["home"], "on_startup": True}, "menu": {"keys": ["menu"]}}


def test_a_starting_worker_starts_the_plans_of_the_start_and_makes_the_others_known(
    cache_server: str, broker_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans_module, "_registered", {REPLAY: plans_module._registered[REPLAY]})
    configure(
        Settings(cache_url=cache_server, broker_url=broker_server, namespace=namespace, warm_plans=PLANS)
    )
    for _ in range(2):
        lifecycle.warm_on_startup().join(10)
    plans = runtime.current().plans.read().plans
    started = {name: bool(plan.job) for name, plan in plans.items()}
    assert started == {"home": True, "menu": False, REPLAY: False}
    assert [job.id for job in runtime.current().jobs.recent(9)] == [plans["home"].job]
    runtime.current().close()


def test_a_state_server_that_is_away_does_not_keep_a_worker_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lifecycle, "_STARTUP_WAITS", (0.01, 0.01))
    configure(Settings(broker_url="redis://127.0.0.1:1/0", warm_plans=PLANS))
    began = time.monotonic()
    thread = lifecycle.warm_on_startup()
    assert time.monotonic() - began < 1
    with caplog.at_level(logging.WARNING):
        thread.join(10)
    assert "warm plans could not be started: the state server did not answer" in caplog.text
    assert "ticks start them when they are due" in caplog.text
    runtime.current().close()

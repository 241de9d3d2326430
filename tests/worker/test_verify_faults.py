"""In which order the faults of `stoker verify` do what they do, on a machine that holds the checker up."""

from types import SimpleNamespace

import pytest

from stoker.worker.processes import Processes
from stoker.worker.verify import harness
from stoker.worker.verify.plan import Plan
from stoker.worker.verify.server import Server


def test_a_broker_is_back_before_it_is_struck_again_however_late_everything_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Processes() as processes:
        run = harness.Run(Plan(seed=3, faults=["broker"], jobs=True), processes)
        broker = Server(processes, processes.directory / "broker", ())
        run.workers = SimpleNamespace(broker=broker)  # type: ignore[assignment]  # no worker has to be there
        # Given a checker that gets to what is due ten seconds late each time
        now = 0.0
        monkeypatch.setattr(harness, "time", SimpleNamespace(monotonic=lambda: now))
        run.strike_again("broker", 0.0, 0.0)
        for _ in range(3):
            now += 10.0
            # When it does it all at once, then each time it finds the broker at its place
            run.do_what_is_due()
        # And it did strike
        assert run._struck["broker"] == 2
        assert broker.admin.ping()

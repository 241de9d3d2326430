"""What the doctor says of events."""

from stoker.config import Settings
from stoker.tasks import configure, publish, runtime
from stoker.worker.doctor.run import diagnose
from stoker.worker.embedded import Server
from tests.worker.doctor.asking import ERROR, WARNING, sole


def test_where_nothing_waits_and_nothing_was_given_up_all_is_well(broker_server: Server) -> None:
    url = broker_server.url
    seen = [f.seen for f in diagnose(Settings(broker_url=url, namespace="no-events"), ["events"])]
    assert seen == ["0 rules; 0 runs done; no dead letter"]


def test_events_that_no_worker_takes_are_told(broker_server: Server) -> None:
    configure(Settings(broker_url=broker_server.url))
    publish("user.updated", {})
    finding = sole("events", broker_url=broker_server.url)
    assert (finding.severity, finding.seen) == (ERROR, "published, and taken by no worker: 1 event")
    assert finding.remedy == "stoker worker -q events"


def test_dead_letters_are_told_with_their_reason(broker_server: Server) -> None:
    settings = Settings(broker_url=broker_server.url, namespace="dead-events")
    configure(settings)
    runtime.current().events.refuse({"name": "user.updated"}, "event: version=2: Input should be 1")
    finding = sole("events", broker_url=broker_server.url, namespace="dead-events")
    assert (finding.severity, finding.seen) == (WARNING, "given up: 1 event")
    assert finding.cause == "user.updated by nobody: event: version=2: Input should be 1"
    assert "stoker events replay" in finding.remedy

"""What an operator sees in Flower, over its HTTP API: progress while a job runs, and how it ended."""

import base64
import json
import re
import urllib.error
import urllib.request
from typing import Any, NamedTuple

import pytest

from stoker.tasks import JobAborted, JobHandle, plan_changes, runtime, send
from stoker.worker.embedded import free_port
from tests.flow.conftest import Deployment
from tests.waiting import wait_until

PASSWORD = "coal, and fire"


class Shown(NamedTuple):
    """What Flower's result column says of a job that runs."""

    percent: float
    done: int
    rate: float
    eta: float

    @classmethod
    def of(cls, task: dict[str, Any]) -> "Shown | None":
        """None unless the row shows a job of 700 keys that runs."""
        found = re.fullmatch(r"([\d.]+)% (\d+)/700 (\d+)/s ETA (\d+)s", str(task.get("result")))
        if found is None or task["state"] != "STARTED":
            return None
        return cls(float(found[1]), int(found[2]), float(found[3]), float(found[4]))


class Flower:
    """Flower's HTTP API."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}"

    def get(self, path: str, password: str | None = PASSWORD, method: str = "GET") -> tuple[int, bytes]:
        request = urllib.request.Request(self._root + path, method=method)
        if password is not None:
            request.add_header(
                "Authorization", "Basic " + base64.b64encode(f"op:{password}".encode()).decode()
            )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def task(self, job: JobHandle) -> dict[str, Any]:
        """The row of a job; empty as long as there is none."""
        status, body = self.get(f"/api/task/info/{job.id}")
        return json.loads(body) if status == 200 else {}


@pytest.fixture
def flower(deployment: Deployment) -> Flower:
    port = free_port()
    deployment.start(
        "flower",
        "flower",
        ready="Connected to",
        STOKER_FLOWER__PORT=str(port),
        STOKER_FLOWER__USER="op",
        STOKER_FLOWER__PASSWORD=PASSWORD,
    )
    return Flower(port)


def test_flower_shows_a_jobs_progress_and_how_it_ended(deployment: Deployment, flower: Flower) -> None:
    deployment.worker()
    deployment.set_pace(0.02)  # so that none ends before it was seen

    # A plan that runs: STARTED, with share, keys, rate and time to go as text that moves on
    numbers = {"n": [str(number) for number in range(700)]}
    plan_changes.add(runtime.current().plans, "long", {"template": "slow:{n}", "params": numbers})
    job = send.warm_plan("long")
    first = wait_until(lambda: Shown.of(flower.task(job)))
    assert flower.task(job)["name"] == "stoker.warm"
    second = wait_until(lambda: s if (s := Shown.of(flower.task(job))) and s.done > first.done else None)
    for shown in (first, second):
        assert shown.percent == pytest.approx(100 * shown.done / 700, abs=0.1)
        assert shown.eta == pytest.approx((700 - shown.done) / shown.rate, abs=1 + shown.eta / shown.rate)

    # Its end: SUCCESS, with the report
    deployment.set_pace(0)
    assert job.wait(timeout=60).done == 700
    last = wait_until(lambda: t if (t := flower.task(job))["state"] != "STARTED" else None)
    assert last["state"] == "SUCCESS"
    assert "'written': 700" in last["result"]

    # A revoked one: REVOKED, and its job is over
    deployment.set_pace(0.02)
    job = send.warm([f"slow:{number}" for number in range(10_000, 12_000)])
    wait_until(lambda: flower.task(job).get("state") == "STARTED")
    deployment.control.revoke(job.id, terminate=True)
    with pytest.raises(JobAborted, match="its task was revoked"):
        job.wait(timeout=60)
    wait_until(lambda: flower.task(job)["state"] == "REVOKED", describe=lambda: str(flower.task(job)))

    # One that was told to stop: REVOKED too
    job = send.warm([f"slow:{number}" for number in range(20_000, 22_000)])
    wait_until(lambda: flower.task(job).get("state") == "STARTED")
    job.abort()
    wait_until(lambda: flower.task(job)["state"] == "REVOKED", describe=lambda: str(flower.task(job)))


def test_flower_asks_for_the_password_and_only_shows(flower: Flower) -> None:
    assert flower.get("/tasks", password=None)[0] == 401
    assert flower.get("/api/tasks", password="guess")[0] == 401
    status, page = flower.get("/tasks")
    assert status == 200
    assert b"op:" not in page
    assert flower.get("/api/task/send-task/stoker.sweep", method="POST")[0] == 403

"""Slots are moved by workers: progress, a kill, a stop, and what begins it by itself."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from stoker.cache import keys
from stoker.tasks import JobStatus, configure, runtime, send
from stoker.tasks.base import MAX_STARTS
from stoker.worker.embedded_cluster import EmbeddedCluster, add_primary, start_cluster
from stoker.worker.processes import Processes
from tests.cache.cluster_nodes import admin
from tests.cache.rebalancing import assert_settled, unsettled
from tests.flow.conftest import Deployment
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
KEPT = {f"kept:{n}": n for n in range(2000)}


@contextmanager
def on_a_cluster(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, **more: str
) -> Iterator[tuple[Deployment, EmbeddedCluster, Processes]]:
    """A deployment whose cache is on a cluster of three, with entries."""
    with Processes() as processes:
        cluster = start_cluster(processes, node_timeout_s=1.0)
        ours = {"STOKER_CACHE_URL": cluster.url, "STOKER_CACHE_CLUSTER": "true", **more}
        for name, value in ours.items():
            monkeypatch.setenv(name, value)
        deployment = Deployment({**environment, **ours}, processes)
        configure(deployment.settings)
        assert deployment.cache.set_many(KEPT, ttl=600)
        yield deployment, cluster, processes
        runtime.current().close()
        deployment.kill_all()


def newcomer_has_its_share(deployment: Deployment, cluster: EmbeddedCluster) -> bool:
    newcomer = f"127.0.0.1:{cluster.primaries[-1].port}"
    [its] = [one for one in deployment.cache.plan_rebalance().nodes if one.node == newcomer]
    return abs(its.before - its.target) <= 0.1 * its.target


@pytest.mark.soak
def test_a_worker_that_is_killed_while_it_moves_slots_is_taken_over_from(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_a_cluster(environment, monkeypatch) as (deployment, cluster, processes):
        # Given a worker under way with a newcomer's share
        cluster = add_primary(processes, cluster, node_timeout_s=1.0)
        first = deployment.worker()
        job = send.rebalance()
        begun = deployment.wait_for(job, lambda status: status.done >= 2, 60)
        assert begun.total is not None
        assert begun.total > 4
        # When it is killed, and there is another
        deployment.kill(first)
        deployment.worker("b")
        # Then that one goes on, and all are where they should be
        ended = job.wait(timeout=90)
        assert (ended.state, ended.failed, ended.done) == ("succeeded", 0, begun.total)
        assert ended.report["complete"]
        assert newcomer_has_its_share(deployment, cluster)
        assert_settled(deployment.cache, cluster)
        # And no more was lost than what was on its way when the worker died
        assert len(deployment.cache.get_many(KEPT)) >= len(KEPT) * 60 / 64


def test_a_job_that_is_told_to_stop_leaves_each_slot_at_one_node(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_a_cluster(environment, monkeypatch) as (deployment, cluster, processes):
        cluster = add_primary(processes, cluster, node_timeout_s=1.0)
        deployment.worker()
        job = send.rebalance()
        deployment.wait_for(job, lambda status: status.done >= 1, 60)
        assert job.abort()
        wait_until(lambda: job.status().final, 60)
        status = job.status()
        assert status.state == "aborted"
        assert status.total is not None
        assert 0 < status.done < status.total
        wait_until(lambda: not unsettled(deployment.cache, cluster), 30)
        assert len(deployment.cache.get_many(KEPT)) >= len(KEPT) * 62 / 64


@pytest.mark.parametrize("how", ["killed", "terminated", "given up"])
def test_a_move_that_goes_on_without_its_worker_is_cancelled_when_its_job_ends(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with on_a_cluster(environment, monkeypatch) as (deployment, cluster, processes):
        cluster = add_primary(processes, cluster, node_timeout_s=1.0)
        # Given a slot that will be on its way for half a minute, and a worker that is gone
        for node in range(3):
            with admin(cluster, node) as client:
                client.config_set("rdb-key-save-delay", 1_000_000)
        worker = deployment.worker()
        job = send.rebalance()
        wait_until(lambda: on_their_way(cluster), 30)
        if how == "terminated":
            deployment.control.revoke(job.id, terminate=True)
        else:
            deployment.kill(worker)
            wait_until(lambda: nobody_is_at(job.id, deployment), 10)
            # When the job is told to stop, or is given up by its next run
            if how == "killed":
                assert job.abort()
            else:
                has_been_started(job.id, MAX_STARTS, deployment)
            assert (job.status().state, len(on_their_way(cluster))) == ("running", 1)
            deployment.worker("b")
        # Then the next worker cancels the move, and all is as it was
        wait_until(lambda: job.status().final, 30, lambda: str(job.status()))
        assert job.status().state == ("failed" if how == "given up" else "aborted")
        assert on_their_way(cluster) == []
        assert_settled(deployment.cache, cluster)
        assert deployment.cache.get_many(KEPT) == KEPT
        assert deployment.cache.plan_rebalance().moves


def on_their_way(cluster: EmbeddedCluster) -> list[str]:
    """Slots that nodes are giving away."""
    found = []
    for node in range(len(cluster.primaries)):
        with admin(cluster, node) as client:
            for entry in client.execute_command("CLUSTER GETSLOTMIGRATIONS"):
                facts = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
                if facts["operation"] == "EXPORT" and facts["state"] not in (
                    "success",
                    "failed",
                    "cancelled",
                ):
                    found.append(facts["slot_ranges"])
    return found


def nobody_is_at(job_id: str, deployment: Deployment) -> bool:
    """Whether the lock of its last worker has run out."""
    with redis.Redis.from_url(deployment.settings.state(), decode_responses=True) as client:
        target = client.hget(keys.job(deployment.settings.namespace, job_id), "target")
        return not client.exists(keys.job_lock(deployment.settings.namespace, str(target)))


def has_been_started(job_id: str, times: int, deployment: Deployment) -> None:
    """Have its record say that it was started so often without progress."""
    with redis.Redis.from_url(deployment.settings.state()) as client:
        client.hset(keys.job(deployment.settings.namespace, job_id), "starts", times)


@pytest.mark.parametrize("act", [False, True])
def test_a_node_that_joins_begins_a_plan_and_slots_move_where_that_is_allowed(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, act: bool
) -> None:
    allowed = {"STOKER_REBALANCE__ACT": str(act).lower(), "STOKER_BEAT__WATCH_EVERY": "0.5"}
    with on_a_cluster(environment, monkeypatch, **allowed) as (deployment, cluster, processes):
        deployment.worker()
        deployment.start("beat", "beat", ready="beat: Starting")
        wait_until(lambda: runtime.current().events.last_look(), 30)
        cluster = add_primary(processes, cluster, node_timeout_s=1.0)

        def planned() -> JobStatus | None:
            found = deployment.newest("rebalance")
            return found if found is not None and found.state == "succeeded" else None

        job = wait_until(planned, 90)
        if act:
            wait_until(lambda: newcomer_has_its_share(deployment, cluster), 60)
        else:
            assert len(job.report["moves"]) > 4
            assert not newcomer_has_its_share(deployment, cluster)

"""Jobs that were given up, jobs that failed lately, and jobs that nobody seems to run."""

from collections.abc import Iterator

from stoker.cache import keys
from stoker.tasks import JobStatus
from stoker.worker.doctor.check import Finding, ok, warning
from stoker.worker.doctor.system import RECENT_JOBS, System
from stoker.worker.terminal import counted

LATELY_S = 3600.0
UNFINISHED_LOOKED_AT = 100
MISSED = 3
"""Lives of a job's lock without a sign before it counts as stuck."""
LEAST_STUCK_S = 60.0
_SHOWN = 3


def check(system: System) -> Iterator[Finding]:
    dead = system.jobs.dead(RECENT_JOBS)
    failed = [job for job in _failed_lately(system) if job not in dead]
    stuck = [job for job in _unfinished(system) if _silent(system, job) > _patience(system)]
    if dead:
        yield warning(
            f"given up: {counted(len(dead), 'job')}",
            "; ".join(f"{job.kind}: {job.error[:200]}" for job in dead[:_SHOWN]),
            "stoker jobs --dead; send them again when their cause is gone",
        )
    if failed:
        yield warning(
            f"failed within the last hour: {len(failed)} of the newest {counted(len(system.recent_jobs), 'job')}",
            "; ".join(f"{job.kind}: {job.error[:200]}" for job in failed[:_SHOWN]),
            f"stoker jobs {failed[0].id}; send it again when its cause is gone",
        )
    if stuck:
        yield warning(
            f"no sign of life for {_patience(system):.0f} s: {counted(len(stuck), 'unfinished job')}",
            "; ".join(_described(system, job) for job in stuck[:_SHOWN])
            + "; no worker serves their queue, it hangs, or no beat sends orphaned jobs again",
            f"see workers and beat; stoker jobs {stuck[0].id}, and to give it up: stoker jobs --abort {stuck[0].id}",
        )
    if not dead and not failed and not stuck:
        looked_at = counted(len(system.recent_jobs), "job")
        yield ok(f"none of the newest {looked_at} failed within the last hour, and none is stuck")


def _failed_lately(system: System) -> Iterator[JobStatus]:
    for job in system.recent_jobs:
        if job.state == "failed" and system.now - (job.finished_at or job.updated_at) < LATELY_S:
            yield job


def _unfinished(system: System) -> Iterator[JobStatus]:
    """Those that the reaper would look at next come first."""
    index = keys.jobs_unfinished(system.settings.namespace)
    for job_id in system.state_server.client.zrange(index, 0, UNFINISHED_LOOKED_AT - 1):
        status = system.jobs.status(job_id.decode())
        if status is not None and not status.final:
            yield status


def _silent(system: System, job: JobStatus) -> float:
    return system.now - job.updated_at


def _patience(system: System) -> float:
    return max(MISSED * system.settings.job.lock_ttl, LEAST_STUCK_S)


def _described(system: System, job: JobStatus) -> str:
    return f"{job.kind} {job.state} for {_silent(system, job):.0f} s" + (
        f" ({job.error})" if job.error else ""
    )

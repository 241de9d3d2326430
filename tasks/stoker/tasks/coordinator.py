"""Running a job in steps: claim it, work, show progress, and then end it, stop, or hand it over.

What a step does is the cache's business; what is written down, and by which rules, is `job`'s. A job may be run
twice, late, or be killed anywhere: whoever claims it next goes on from its cursor.

To Celery a job is one task id, whoever runs it and however often, so Flower shows it as one row. A message that has
nothing to do, or whose run hands over, ends with `Ignore`, which acknowledges it and leaves that row alone.
"""

import logging
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import asdict
from typing import Any, NoReturn

from celery.exceptions import Ignore, SoftTimeLimitExceeded

from stoker.cache import Cache, CacheUnavailable, Step
from stoker.tasks import names, runtime
from stoker.tasks.base import ALWAYS_DIES, LONGEST_WAIT, MAX_STARTS, MAX_TRIES, JobTask
from stoker.tasks.errors import InvalidArguments, JobFailed, JobLost, StateUnavailable
from stoker.tasks.job import Claim, JobStore
from stoker.tasks.pace import Pace
from stoker.tasks.renewal import Renewal
from stoker.tasks.status import State

log = logging.getLogger(__name__)

Steps = Callable[[Cache, Any, Claim, int], Generator[Step[Any], None, None]]
"""The cache's verb: called with the cache, the task's arguments, the claimed job and the keys in a batch."""

Verdict = Callable[[dict[str, Any]], str | None]
"""Called with the report of a verb that came to its end: why it failed nevertheless, or None."""

Stop = Callable[[Cache, Any], None]
"""Called with the cache and the last cursor when the job ends before its verb does: ends what goes on without this
process."""

HAND_OVER_AT = 0.8  # of the soft time limit
HAND_OVER_DELAY = 0.5  # a worker knows requests by id: the old one must be put away before the new one is
ANNOUNCE_EVERY = 1.0
MOST_STOPPED = 2 * MAX_STARTS
"""After more starts a job is ended as it stands: to stop what it has begun may be what kills its process."""


class HandOver(Exception):
    """This run ends here; the job goes on in another.

    Args:
        why: What the job waits for; "": for nothing.
        delay: Seconds until the other is due.
    """

    def __init__(self, why: str = "", delay: float = HAND_OVER_DELAY) -> None:
        super().__init__(why, delay)
        self.why = why
        self.delay = delay


class Aborted(Exception):
    """The job was asked to stop."""


class GivenUp(JobFailed):
    """No further run can end the job well."""


class SteppedTask(JobTask):
    """A task whose work is a verb in steps: for each target one run at a time, resumed from its cursor."""

    abstract = True

    def run_job(
        self, message: dict[str, Any], steps: Steps, why_failed: Verdict, stop: Stop | None = None
    ) -> dict[str, Any]:
        """Run the job until it ends or another run has to take over.

        Returns:
            The verb's report, or `{"joined": id}` if an unfinished job is about the same.
        """
        here = runtime.current()
        job_id = _write_down(self, here.jobs, message)
        if job_id not in (self.request.id, message.get("job_id")):
            return {"joined": job_id}
        claim = _claim(self, here.jobs, job_id)
        try:
            return Run(self, here, claim, stop).to_its_end(steps, why_failed)
        finally:  # also when the process is told to exit: the message goes back and its next run need not wait
            with suppress(StateUnavailable):  # then the lock ends by itself
                here.jobs.release(claim)


def _write_down(task: JobTask, jobs: JobStore, message: dict[str, Any]) -> str:
    """The id of the job that the message is about. One that was sent without a job becomes one here."""
    job_id, arguments = task.accept_in_worker(message)
    if arguments is None:
        return str(job_id)
    return jobs.open(
        str(job_id or task.request.id),
        names.kind(task.name),
        arguments.model_dump(),
        arguments.target(),
        again=arguments.wants_another_pass(),
    )


def _claim(task: JobTask, jobs: JobStore, job_id: str) -> Claim:
    claim = jobs.claim(job_id)
    if isinstance(claim, Claim):
        return claim
    if claim.reason == "lost":
        raise JobLost(job_id, "the state server does not know it; it was flushed or has expired")
    if claim.reason == "busy":  # whoever runs it may be alive or dead: look again when its lock has ended
        task.send_again(job_id, min(claim.wait, jobs.lock_ttl) + HAND_OVER_DELAY)
    raise Ignore(f"job {job_id} is {claim.reason}")


class Run:
    """One coordinator's run of a claimed job."""

    def __init__(self, task: JobTask, here: runtime.Runtime, claim: Claim, stop: Stop | None) -> None:
        self._stop = stop
        self._task = task
        self._here = here
        self._jobs = here.jobs
        self._claim = claim
        self._cursor: Any = claim.cursor
        self._began = self._last_sign = time.monotonic()
        self._announced = float("-inf")
        self._stepped = False
        self._pace = Pace(claim.done, self._began)

    def to_its_end(self, steps: Steps, why_failed: Verdict) -> dict[str, Any]:
        """Work, and give the job the state that follows from how that ended.

        The soft time limit comes once, and anywhere: also where the run hands over, or ends by itself.
        """
        try:
            return self._to_an_end(steps, why_failed)
        except SoftTimeLimitExceeded:
            self._go_on_after(HAND_OVER_DELAY)

    def _to_an_end(self, steps: Steps, why_failed: Verdict) -> dict[str, Any]:
        job_id = self._claim.job_id
        try:
            self._refuse_what_always_dies()
            report = self._work_or_heed(steps)
            if (reason := why_failed(report)) is not None:
                raise JobFailed(job_id, reason)
            return self._succeed(report)
        except HandOver as over:
            if over.why:
                self._wait(over)
            self._go_on_after(over.delay)
        except Aborted:
            self._end("aborted")
            self._task.announce("task-revoked", terminated=False, signum=None, expired=False)
            raise Ignore(f"job {job_id} was told to stop") from None
        except CacheUnavailable as error:
            self._try_later(error)
        except (Ignore, JobLost, SoftTimeLimitExceeded, StateUnavailable):
            raise
        except (GivenUp, InvalidArguments) as error:
            self._end("failed", _reason(error), dead=True)
            raise
        except Exception as error:
            reason = _reason(error)
            if not self._stepped and self._claim.cursor:
                reason += f"; it went on from cursor={names.shown(self._claim.cursor)}"
            self._end("failed", reason)
            raise

    def _work_or_heed(self, steps: Steps) -> dict[str, Any]:
        try:
            return self._work(steps)
        except JobLost:
            # What it shares with helpers goes with the job, so one that was ended from outside looks like a lost one.
            self._heed(self._write({}))
            raise

    def _work(self, steps: Steps) -> dict[str, Any]:
        settings = self._here.settings.job
        arguments = names.check(self._task.name, self._claim.arguments)
        report: dict[str, Any] = {}
        with Renewal(f"lock of job {self._claim.job_id}", self._jobs.lock_ttl, self._still_ours):
            self._heed(self._write({}))
            with closing(steps(self._here.cache, arguments, self._claim, settings.batch)) as batches:
                for step in batches:
                    report = self._tell(step)
                    if step.last:
                        break
                    if time.monotonic() - self._began > HAND_OVER_AT * settings.soft_time_limit:
                        raise HandOver
        return report

    def _still_ours(self) -> bool:
        return self._jobs.progress(self._claim) in ("on", "abort")

    def _tell(self, step: Step[Any]) -> dict[str, Any]:
        """Write a batch down, show it in Flower, and stop if the job is no longer ours to run."""
        self._stepped = True
        self._cursor = step.cursor
        now = time.monotonic()
        self._pace.add(step, now)
        report = asdict(step.report)
        fields: dict[str, Any] = {
            "done": step.done,
            "total": step.total,
            "failed": step.failed,
            "rate": round(self._pace.rate, 1),
            "eta": None if self._pace.eta is None else round(self._pace.eta, 1),
            "cursor": step.cursor,
            "report": report,
        }
        if self._stop is not None:
            fields["unattended"] = 1
        if step.done > self._claim.done:
            fields |= {"starts": 0, "tries": 0, "error": ""}
        self._heed(self._write(fields))
        if now - self._announced >= ANNOUNCE_EVERY:
            self._announced = now
            # Upper case keeps the state STARTED and with it the row's place, its Terminate button and its end.
            self._task.announce("task-STARTED", result=self._pace.text(step))
        return report

    def _write(self, fields: dict[str, Any]) -> str:
        """Show a sign of life. While the lock is surely ours a state server that is away does not stop the job."""
        try:
            answer = self._jobs.progress(self._claim, fields)
        except StateUnavailable as error:
            if time.monotonic() - self._last_sign > self._jobs.lock_ttl:
                raise
            log.warning("progress of job %s not written: %s", self._claim.job_id, error)
            return "on"
        self._last_sign = time.monotonic()
        return answer

    def _heed(self, answer: str) -> None:
        job_id = self._claim.job_id
        if answer == "on":
            return
        if answer == "abort":
            raise Aborted
        if answer == "expired":  # nobody has the lock: let the next run take it and read the cursor again
            raise HandOver
        if answer == "lost":
            raise JobLost(job_id, "the state server forgot it while it ran")
        raise Ignore(f"job {job_id} is {answer}")  # another runs it, or it was ended from outside

    def _succeed(self, report: dict[str, Any]) -> dict[str, Any]:
        fields = {"report": report, "error": ""}
        answer = self._jobs.finish(self._claim.job_id, "succeeded", self._claim.token, fields)
        if answer == "again":
            self._go_on_after(max(self._here.settings.job.sweep_delay, HAND_OVER_DELAY))
        if answer != "succeeded":
            self._heed(answer)
        return report

    def _go_on_after(self, delay: float) -> NoReturn:
        job_id = self._claim.job_id
        self._jobs.postpone(job_id, delay)
        self._jobs.release(self._claim)
        self._task.send_again(job_id, delay)
        raise Ignore(f"job {job_id} goes on in another run") from None

    def _wait(self, over: HandOver) -> None:
        """Say what for. A run that chose to end has not been killed, so it does not count as one more start."""
        self._heed(self._write({"starts": 0, "error": over.why}))
        self._task.announce("task-STARTED", result=over.why)

    def _try_later(self, error: CacheUnavailable) -> NoReturn:
        tries = self._claim.tries + 1
        if tries > MAX_TRIES:
            self._end("failed", _text(error), dead=True)
            raise error
        log.warning("job %s, try %d of %d: %s", self._claim.job_id, tries, MAX_TRIES, error)
        self._heed(self._jobs.progress(self._claim, {"tries": tries, "starts": 0, "error": _text(error)}))
        self._go_on_after(min(2.0 ** (tries - 1), LONGEST_WAIT))

    def _refuse_what_always_dies(self) -> None:
        if self._claim.starts > MAX_STARTS:
            raise GivenUp(self._claim.job_id, ALWAYS_DIES)

    def _end(self, state: State, error: str = "", *, dead: bool = False) -> None:
        """Give the job another final state than success, once nothing goes on without this process."""
        if left := self._stop_what_goes_on():
            error = f"{error}; {left}" if error else left
        fields = {"error": error} if error else {}
        self._jobs.finish(self._claim.job_id, state, self._claim.token, fields, dead=dead)

    def _stop_what_goes_on(self) -> str:
        """Says what could not be stopped, and why: the job ends nevertheless."""
        if self._stop is None or not self._cursor or self._claim.starts > MOST_STOPPED:
            return ""
        try:
            with Renewal(f"lock of job {self._claim.job_id}", self._jobs.lock_ttl, self._still_ours):
                self._stop(self._here.cache, self._cursor)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # whatever it is, the job has an end, and another reason for it
            log.warning("job %s: what it had begun was not stopped: %s", self._claim.job_id, _text(error))
            return f"what it had begun was not stopped: {_text(error)}"
        return ""


def _reason(error: BaseException) -> str:
    return error.reason if isinstance(error, JobFailed) else _text(error)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:1000]

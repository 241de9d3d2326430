"""What a producer holds after it has asked for a job."""

import time
from typing import Any

from stoker.tasks import runtime
from stoker.tasks.errors import JobAborted, JobFailed, JobLost
from stoker.tasks.job import NOBODY
from stoker.tasks.status import JobStatus


class JobHandle:
    """A job by its id. Two requests for one target hold the same id.

    Every method may raise `StateUnavailable`, within about a second.
    """

    __slots__ = ("id",)

    def __init__(self, job_id: str) -> None:
        self.id = job_id

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def status(self) -> JobStatus:
        """The job as it stands.

        Raises:
            JobLost: The state server does not know it (any more).
        """
        status = runtime.current().jobs.status(self.id)
        if status is None:
            raise JobLost(
                self.id, "the state server does not know it; it was flushed or has expired: send it again"
            )
        return status

    @property
    def report(self) -> dict[str, Any]:
        """What the verb has to say so far, as the fields of its report; `{}` before the first batch."""
        return self.status().report

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Block until the job has succeeded.

        Args:
            timeout: Seconds; None waits as long as the job is known.

        Raises:
            JobFailed, JobAborted, JobLost: It ended otherwise.
            TimeoutError: It has not ended in time; it goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (status := self.status()).final:
            left = 60.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"job {self.id} is still {status.state} after {timeout:g} s")
            runtime.current().jobs.wait(self.id, left)
        if status.state == "failed":
            raise JobFailed(self.id, status.error)
        if status.state == "aborted":
            raise JobAborted(self.id, status.error or "it was told to stop")
        return status

    def abort(self) -> bool:
        """Tell the job to stop: at once if it is not running, else after its present batch.

        A rebalance that has begun and that no worker is at ends with its next run, as its move may be under way: a
        worker cancels that.

        Returns:
            Whether the job is aborted or will be; False if it had ended otherwise, or is not known.
        """
        answer = runtime.current().jobs.finish(self.id, "aborted", NOBODY)
        return answer in ("aborted", "asked")

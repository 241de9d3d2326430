"""Keeps a coordinator's lock alive during a batch that takes longer than the lock."""

import logging
import threading
from types import TracebackType

from stoker.tasks.errors import StateUnavailable
from stoker.tasks.job import Claim, JobStore

log = logging.getLogger(__name__)


class Renewal:
    """Renews the claim three times in the life of its lock, in a thread, until the block ends.

    A refusal is not reported from here: the coordinator meets the same one after its batch.
    """

    def __init__(self, jobs: JobStore, claim: Claim) -> None:
        self._jobs = jobs
        self._claim = claim
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"renew {claim.job_id}", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._jobs.lock_ttl / 3):
            try:
                if self._jobs.progress(self._claim) not in ("on", "abort"):
                    return
            except StateUnavailable as error:
                log.warning("lock of job %s not renewed: %s", self._claim.job_id, error)

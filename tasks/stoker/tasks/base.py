"""Our Task class: messages checked on both sides of the wire, bounded sends, events for Flower."""

import logging
from typing import TYPE_CHECKING, Any

from celery import Task
from kombu.exceptions import OperationalError

from stoker.tasks import names, runtime
from stoker.tasks.errors import InvalidArguments, NotSent, StateUnavailable
from stoker.tasks.job import ANY

log = logging.getLogger(__name__)

MAX_STARTS = 5  # without progress in between: what kills its process each time is not started for ever
MAX_TRIES = 20  # without progress, while the cache does not answer: about eight minutes
LONGEST_WAIT = 30.0  # seconds between two of them
ALWAYS_DIES = f"given up after {MAX_STARTS} runs without progress; each was killed or ran into its time limit"

if TYPE_CHECKING:
    CeleryTask = Task[Any, Any]  # celery-types wants the parameters, Celery at run time does not take them
else:
    CeleryTask = Task


class JobTask(CeleryTask):
    """A task that works on a job. Its message is the task's arguments, the id of its job, or both.

    It is acknowledged after it has run, so a killed worker's message is given to another; a process that dies alone
    has its message sent again by its worker.
    """

    abstract = True
    acks_late = True
    retry_on_worker_lost = True
    max_retries = (
        MAX_TRIES  # above MAX_STARTS: what always kills its process is given up by its record, which says so
    )
    default_retry_delay = 1
    ignore_result = True

    def apply_async(  # type: ignore[override]  # Celery takes the options by name too
        self, args: Any = None, kwargs: Any = None, **options: Any
    ) -> Any:
        """Send the task, as Celery's own method does.

        Raises:
            InvalidArguments: The arguments do not fit the task's model.
            NotSent: The broker did not take it.
        """
        if args:
            raise InvalidArguments(self.name, "give keyword arguments")
        self.accept(kwargs or {})
        try:
            return super().apply_async((), kwargs, **options)
        except OperationalError as error:
            raise NotSent(self.name, str(error)) from error

    def accept(self, message: dict[str, Any]) -> tuple[str | None, names.Arguments | None]:
        """The job's id and the arguments in a message; either may be missing, but not both.

        Raises:
            InvalidArguments: They do not fit the task's model.
        """
        return names.accept(self.name, message)

    def accept_in_worker(self, message: dict[str, Any]) -> tuple[str | None, names.Arguments | None]:
        """As `accept`; a job whose message is refused is dead, or it would be sent again and again.

        One that has no record gets one, so that it is listed: what was asked for has not been done.
        """
        try:
            return self.accept(message)
        except InvalidArguments as error:
            self._refuse(message.get("job_id"), str(error))
            raise

    def _refuse(self, job_id: Any, reason: str) -> None:
        if not names.is_job_id(job_id):
            job_id = str(self.request.id)
        try:
            runtime.current().jobs.open(job_id, names.kind(self.name), {}, None)
            self.give_up(job_id, reason)
        except StateUnavailable as error:
            log.warning("that job %s is refused (%s) could not be written down: %s", job_id, reason, error)

    def accept_stored(self, job_id: str, arguments: dict[str, Any]) -> names.Arguments:
        """The arguments in a job's record, which may be of another version of ours; refused as in a message."""
        try:
            return names.check(self.name, arguments)
        except InvalidArguments as error:
            self.give_up(job_id, str(error))
            raise

    def give_up(self, job_id: str, reason: str, token: str = ANY) -> None:
        """End a job that no further run can end well: it has failed, and is listed as dead."""
        runtime.current().jobs.finish(job_id, "failed", token, {"error": reason[:1000]}, dead=True)

    def send_again(self, job_id: str, delay: float) -> None:
        """Send another message for the same job, due in `delay` seconds, under the same task id."""
        self.apply_async(kwargs=names.message(job_id), task_id=job_id, countdown=delay)

    def announce(self, event: str, **fields: Any) -> None:
        """Send a monitoring event about this task. Events only inform: without a broker they are dropped."""
        try:
            self.send_event(event, name=self.name, **fields)
        except OperationalError as error:
            log.info("event %s of job %s was not sent: %s", event, self.request.id, error)

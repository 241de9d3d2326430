"""Every error of `stoker.tasks`, in one tree.

    TaskError
    ├── InvalidArguments (ValueError)   a task's arguments are wrong; nothing was sent or run
    ├── PlanError (ValueError)          a warm plan cannot be used, or does not exist
    ├── RuleError (ValueError)          a rule for events cannot be used, or gave something else than actions
    ├── NotSent                         the broker or the state server did not take a job; it does not exist
    ├── StateUnavailable                the state server did not answer; what the job does is not known
    └── JobError                        a job did not end well
        ├── JobFailed                   it ended with an error
        ├── JobAborted                  it was told to stop
        └── JobLost                     the state server no longer knows it

Waiting too long is Python's own `TimeoutError`. Errors cross process borders in Celery, so the arguments of each
rebuild it.
"""


class TaskError(Exception):
    """Base of all errors of `stoker.tasks`."""


class InvalidArguments(TaskError, ValueError):
    """A task's arguments are wrong; nothing was sent or run."""

    def __init__(self, task: str, problems: str) -> None:
        super().__init__(task, problems)
        self.task = task
        self.problems = problems

    def __str__(self) -> str:
        return f"{self.task}: {self.problems}"


class PlanError(TaskError, ValueError):
    """A warm plan cannot be used, or does not exist."""

    def __init__(self, plan: str, problem: str) -> None:
        super().__init__(plan, problem)
        self.plan = plan
        self.problem = problem

    def __str__(self) -> str:
        return f"plan {self.plan!r}: {self.problem}"


class RuleError(TaskError, ValueError):
    """A rule for events cannot be used, or gave something else than actions."""

    def __init__(self, rule: str, problem: str) -> None:
        super().__init__(rule, problem)
        self.rule = rule
        self.problem = problem

    def __str__(self) -> str:
        return f"rule {self.rule}: {self.problem}"


class NotSent(TaskError):
    """The broker or the state server did not take a job. It does not exist: send it again."""

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(task, reason)
        self.task = task
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.task} was not sent ({self.reason}); send it again when the server is back"


class StateUnavailable(TaskError):
    """The state server did not answer in time; what the job does is not known."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the state server did not answer ({self.reason})"


class JobError(TaskError):
    """A job did not end well."""

    def __init__(self, job_id: str, reason: str) -> None:
        super().__init__(job_id, reason)
        self.job_id = job_id
        self.reason = reason

    def __str__(self) -> str:
        return f"job {self.job_id}: {self.reason}"


class JobFailed(JobError):
    """A job ended with an error."""


class JobAborted(JobError):
    """A job was told to stop, and did."""


class JobLost(JobError):
    """The state server no longer knows a job: it was flushed, or the job's record has expired."""

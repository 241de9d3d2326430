"""The `stoker` command. Each command is thin: it checks its input, calls one function, and prints.

`worker`, `beat` and `flower` become Celery's own processes, with the right arguments.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

try:
    import typer
    from rich.console import Console
    from rich.table import Table
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"stoker: this command needs {missing.name}: run  pip install 'stoker[worker]'"
    ) from None

from stoker.cache import CacheError
from stoker.config import InvalidSettings, Settings, effective
from stoker.tasks import JobHandle, TaskError, runtime
from stoker.worker import flower as flower_options
from stoker.worker import jobs_view, lifecycle
from stoker.worker.queues import queue_names

MOST_JOBS = 50

cli = typer.Typer(
    name="stoker",
    help="A shared cache for web apps and Celery workers. Settings come from STOKER_*; see `stoker config`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command line; what a user can put right is told in one line, without a traceback."""
    try:
        cli()
    except (InvalidSettings, CacheError, TaskError) as error:
        raise SystemExit(f"stoker: {error}") from None


@cli.command()
def worker(
    queue: Annotated[
        list[str] | None, typer.Option("--queue", "-q", help="A queue to serve; all if none.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Processes that run tasks.")] = None,
    name: Annotated[str, typer.Option(help="The worker's name; must differ on one machine.")] = "stoker",
) -> None:
    """Run tasks. Ctrl-C or SIGTERM lets running tasks end or be taken over by another worker."""
    settings = Settings()
    lifecycle.check_cache(settings)
    queues = queue_names(settings, queue or ())
    size = [] if concurrency is None else [f"--concurrency={concurrency}"]
    # SIGTERM as Celery's SIGQUIT: tasks get `shutdown_timeout` to end, then their messages go back at once.
    os.environ["REMAP_SIGTERM"] = "SIGQUIT"
    _become(settings, "worker", f"--queues={','.join(queues)}", f"--hostname={name}@%h", *size)


@cli.command()
def beat() -> None:
    """Send what runs by the clock. Two of them do no harm."""
    settings = Settings()
    _become(settings, "beat", "--pidfile=")


@cli.command()
def flower() -> None:
    """Show workers and jobs in the browser."""
    settings = Settings()
    flower_options.options(settings)
    conf = Path(__file__).with_name("flowerconfig.py")
    _become(settings, "flower", f"--conf={conf}")


@cli.command()
def jobs(
    job_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Show this job with its report.")
    ] = None,
    as_json: AsJson = False,
    abort: Annotated[str | None, typer.Option(metavar="ID", help="Tell this job to stop.")] = None,
) -> None:
    """List the newest jobs, show one, or stop one."""
    if abort is not None:
        stopped = JobHandle(abort).abort()
        typer.echo(f"job {abort} {'was told to stop' if stopped else 'is over, or is not known'}")
        raise typer.Exit(0 if stopped else 1)
    if job_id is not None:
        status = JobHandle(job_id).status()
        _show(jobs_view.as_json(status) if as_json else jobs_view.detail(status))
        return
    recent = runtime.current().jobs.recent(MOST_JOBS)
    _show([jobs_view.as_json(job) for job in recent] if as_json else jobs_view.table(recent))


@cli.command()
def config(as_json: AsJson = False) -> None:
    """Print every setting with its value and where that came from; secrets are masked."""
    found = effective(Settings())
    if as_json:
        _show([{"name": s.name, "value": s.value, "source": s.source} for s in found])
        return
    table = Table("setting", "value", "source", "meaning", box=None, pad_edge=False)
    for setting in found:
        shown = "none" if setting.value is None else str(setting.value)
        table.add_row(setting.name, shown, setting.source, setting.description)
    _show(table)


def _become(settings: Settings, *arguments: str) -> NoReturn:
    settings.broker()  # the error is better read here than in Celery's log
    level = f"--loglevel={settings.log_level}"
    command = [sys.executable, "-m", "celery", "-A", "stoker.worker.app", arguments[0]]
    if arguments[0] != "flower":  # which has its own logging
        command.append(level)
    os.execv(sys.executable, [*command, *arguments[1:]])


def _show(what: object) -> None:
    if isinstance(what, list | dict):
        typer.echo(json.dumps(what, default=str, indent=2))
    else:
        Console().print(what)

"""The `stoker` command. Each command is thin: it checks its input, calls one function, and prints.

`worker`, `beat` and `flower` become Celery's own processes, with the right arguments.
"""

import json
import os
import signal
from contextlib import suppress
from typing import Annotated, Literal, NoReturn

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
from stoker.config.logging import setup_logging
from stoker.tasks import JobHandle, TaskError, runtime
from stoker.worker import (
    commands,
    entries_cli,
    events_cli,
    jobs_view,
    lifecycle,
    metrics,
    plans_cli,
    pressure_view,
    quotas_cli,
    rebalance_cli,
    reshard_cli,
    top_view,
    up,
    verbs_cli,
)
from stoker.worker import flower as flower_options
from stoker.worker.embedded_cluster import LEAST_NODES, MOST_NODES

MOST_JOBS = 50

cli = typer.Typer(
    name="stoker",
    help="A shared cache for web apps and Celery workers. Settings come from STOKER_*; see `stoker config`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.add_typer(plans_cli.plans, name="plans")
cli.add_typer(events_cli.events, name="events")
cli.add_typer(quotas_cli.quotas, name="quotas")
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
        list[str] | None,
        typer.Option("--queue", "-q", help="A queue to serve; may be repeated. All queues if left out."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Processes that run tasks; one for each CPU if left out.")
    ] = None,
    name: Annotated[
        str, typer.Option(help="The worker's name; each worker on a machine needs its own.")
    ] = "stoker",
) -> None:
    """Run tasks. After Ctrl-C or SIGTERM running tasks get some time to end; another worker takes the others over."""
    settings = Settings()
    lifecycle.check_cache(settings)
    os.environ |= commands.WORKER_ENV
    _become(settings, commands.worker(settings, name=name, queues=queue or (), concurrency=concurrency))


@cli.command()
def beat() -> None:
    """Send the tasks that run by the clock. Run one; two do no harm."""
    settings = Settings()
    _become(settings, commands.beat(settings))


@cli.command()
def flower() -> None:
    """Show workers and jobs in the browser."""
    settings = Settings()
    flower_options.options(settings)
    _become(settings, commands.flower())


@cli.command(name="metrics")
def metrics_() -> None:
    """Tell Prometheus about the fleet, at /metrics of STOKER_METRICS__HOST and STOKER_METRICS__PORT."""
    settings = Settings()
    lifecycle.check_cache(settings)
    settings.broker()
    setup_logging(settings)
    up.stop_on_signals()
    with suppress(KeyboardInterrupt), metrics.served(runtime.current()) as port:
        typer.echo(f"metrics at http://{settings.metrics.host}:{port}/metrics")
        signal.pause()


@cli.command(name="up")
def up_(
    cluster: Annotated[
        int | None,
        typer.Option(
            min=LEAST_NODES,
            max=MOST_NODES,
            help="Start a cluster of so many nodes as the cache's server, not a single one.",
        ),
    ] = None,
) -> None:
    """Run everything on this machine: servers (unless their URLs are set), worker, beat and Flower. For developing."""
    raise typer.Exit(up.up(cluster or 0))


@cli.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long rows are changed and read.")] = 20,
    seed: Annotated[int, typer.Option(help="Decides what is changed and read.")] = 1,
    broken: Annotated[
        Literal["lease"] | None,
        typer.Option("--break", help="Take this guard away: the demo then finds stale reads."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="After the summary leave everything running, until Ctrl-C.")
    ] = False,
) -> None:
    """Warm, change and read 28,000 airports, and check every value read. Needs no server and no setting."""
    try:
        from stoker.worker.demo.run import Options, run  # with its data, which only the demo needs
    except ModuleNotFoundError as missing:
        raise SystemExit(f"stoker demo needs {missing.name}: run  pip install 'stoker[demo]'") from None
    raise typer.Exit(run(Options(seconds, seed, broken or "", keep)))


@cli.command()
def verify(
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to try.")] = 60,
    seed: Annotated[
        int | None, typer.Option(help="Decides what goes wrong and when; a new one if left out.")
    ] = None,
    faults: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="What goes wrong, such as kill,flush; or all, or none."),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, max=8, help="Spread keys over so many shards; default: 1, on a cluster 6."),
    ] = None,
    url: Annotated[str, typer.Option(help="Use your own server, without faults.")] = "",
    binary: Annotated[
        str, typer.Option(help="The server program to start; the Valkey that Stoker brings if left out.")
    ] = "",
    broken: Annotated[
        str,
        typer.Option(
            "--break",
            metavar="GUARDS",
            help="Take these guards away, such as lease: stale reads are then found.",
        ),
    ] = "",
    until_stale: Annotated[bool, typer.Option("--until-stale", help="End at the first stale read.")] = False,
    strangers: Annotated[
        bool,
        typer.Option("--strangers", help="Half of the processes place keys otherwise, and must be refused."),
    ] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Run on a cluster: one that is started, or that of --url.")
    ] = False,
    near: Annotated[
        bool, typer.Option("--near", help="Let processes keep copies of entries (the near cache).")
    ] = False,
    jobs: Annotated[
        bool | None,
        typer.Option("--jobs/--no-jobs", help="Also invalidate by Celery workers; default: from 20 s on."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Several mixes of faults, then none: 20 minutes in all.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look for stale reads, with many processes and under faults. Needs no server and no setting."""
    from stoker.worker.verify import command  # its crew is needed by nothing else

    if full:
        raise typer.Exit(command.run_full(seed, binary, as_json=as_json))
    try:
        plan = command.plan(
            seconds,
            seed,
            faults,
            broken,
            jobs,
            until_stale=until_stale,
            binary=binary,
            url=url,
            shards=shards or (6 if cluster else 1),
            strangers=strangers,
            near=near,
            cluster=cluster,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(command.run(plan, as_json=as_json))


@cli.command()
def jobs(
    job_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Show this job with its report.")
    ] = None,
    as_json: AsJson = False,
    abort: Annotated[str | None, typer.Option(metavar="ID", help="Tell this job to stop.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="List the jobs that were given up, and why.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show the job's progress until it has ended.")
    ] = False,
) -> None:
    """List the newest jobs, or those that were given up; show or follow one, or stop one."""
    if abort is not None:
        stopped = JobHandle(abort).abort()
        typer.echo(f"job {abort} {'was told to stop' if stopped else 'is over, or is not known'}")
        raise typer.Exit(0 if stopped else 1)
    if follow and job_id is None:
        raise typer.BadParameter("--follow: say which job, as  stoker jobs ID --follow")
    if job_id is not None:
        job = JobHandle(job_id)
        status = jobs_view.follow(job) if follow else job.status()
        _show(jobs_view.as_json(status) if as_json else jobs_view.detail(status))
        return
    store = runtime.current().jobs
    found = store.dead(MOST_JOBS) if dead else store.recent(MOST_JOBS)
    as_table = jobs_view.dead if dead else jobs_view.table
    _show([jobs_view.as_json(job) for job in found] if as_json else as_table(found))


@cli.command()
def top(
    tenant: Annotated[str | None, typer.Option(help="Keys of this tenant; of all if left out.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, max=1000, help="How many keys.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the keys that are read most, by all processes, and what is stored under them now."""
    found = top_view.look(runtime.current(), number, tenant)
    _show(top_view.as_json(found) if as_json else top_view.table(found))


@cli.command()
def pressure(as_json: AsJson = False) -> None:
    """Show how full the cache's server is and was, how fast that changes, and whose the entries are."""
    found = pressure_view.look(runtime.current())
    _show(pressure_view.as_json(found) if as_json else pressure_view.table(found))


@cli.command()
def config(as_json: AsJson = False) -> None:
    """Print every setting, its value and where the value comes from; secrets are masked."""
    found = effective(Settings())
    if as_json:
        _show([{"name": s.name, "value": s.value, "source": s.source} for s in found])
        return
    table = Table("setting", "value", "source", "meaning", box=None, pad_edge=False)
    for setting in found:
        table.add_row(setting.name, _as_set(setting.value), setting.source, setting.description)
    _show(table)


@cli.command()
def doctor(
    as_json: AsJson = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="Run only this check, such as memory; may be repeated."),
    ] = None,
) -> None:
    """Look at the whole running system; say what is wrong, why, and what to do. Exit code 1: warnings, 2: errors."""
    from stoker.worker.doctor import command  # its checks are needed by nothing else

    raise typer.Exit(command.run(only or (), as_json))


for command in (
    entries_cli.get,
    entries_cli.explain,
    entries_cli.invalidate,
    verbs_cli.warm,
    verbs_cli.sweep,
    verbs_cli.evict,
    rebalance_cli.rebalance,
    reshard_cli.reshard,
):
    cli.command()(command)


def _as_set(value: object) -> str:
    """A setting's value as one would write it in the environment."""
    if isinstance(value, tuple):
        return ",".join(value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _become(settings: Settings, command: list[str]) -> NoReturn:
    settings.broker()  # the error is better read here than in Celery's log
    os.execv(command[0], command)


def _show(what: object) -> None:
    if isinstance(what, list | dict):
        typer.echo(json.dumps(what, default=str, indent=2))
    else:
        Console().print(what)

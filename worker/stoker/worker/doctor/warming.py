"""Whether workers can load what is to be warmed, and how the last warm-up went."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from stoker.worker.doctor import loaders_probe
from stoker.worker.doctor.check import Finding, error, note, ok, warning
from stoker.worker.doctor.system import System
from stoker.worker.terminal import counted

IMPORTED_WITHIN_S = 5.0
_SHOWN = 12


def check(system: System) -> Iterator[Finding]:
    modules = system.settings.loaders
    if modules:
        yield from _loaders(modules)
    else:
        yield note(
            "STOKER_LOADERS is empty",
            "workers know no loader: they cannot warm or refresh anything",
            "name the modules that hold @loader or @cache.cached functions: STOKER_LOADERS=shop.loaders",
        )
    yield from _last_warm(system)


def _loaders(modules: tuple[str, ...]) -> Iterator[Finding]:
    answer = _import_apart(modules)
    if isinstance(answer, Finding):
        yield answer
        return
    for module, reason in answer["failed"].items():
        yield error(
            f"STOKER_LOADERS: {module!r} cannot be imported ({reason})",
            "workers with this setting do not start; its name is wrong, it is not installed there, or it fails",
            f"python -c 'import {module}' in the workers' directory shows all of it; PYTHONPATH, or STOKER_LOADERS",
        )
    templates = answer["templates"]
    if templates:
        more = f" and {len(templates) - _SHOWN} more" if len(templates) > _SHOWN else ""
        yield ok(f"{counted(len(templates), 'loader')}: {', '.join(templates[:_SHOWN])}{more}")
    elif not answer["failed"]:
        yield warning(
            "no loader is registered",
            f"{', '.join(modules)} can be imported, but nothing in there is decorated",
            "decorate loading functions with @loader(template) or @cache.cached(template) at module level",
        )


def _import_apart(modules: tuple[str, ...]) -> dict[str, Any] | Finding:
    """Import them in a process of their own, as a worker would: they may print, exit or hang."""
    command = [sys.executable, "-m", loaders_probe.__name__, *modules]
    try:
        run = subprocess.run(command, capture_output=True, timeout=IMPORTED_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        return error(
            f"importing {', '.join(modules)} did not end within {IMPORTED_WITHIN_S:g} s",
            "a module does work when it is imported: it connects, waits or computes",
            "move that work into functions; a loader module should only define",
        )
    try:
        return dict(json.loads(run.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        last = run.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return error(
            f"importing {', '.join(modules)} ended the process (exit code {run.returncode})",
            f"a module exits or crashes when it is imported: {' '.join(last) or 'it said nothing'}",
            "import them one by one: python -c 'import <module>'",
        )


def _last_warm(system: System) -> Iterator[Finding]:
    if system.settings.broker_url is None or (job := system.newest_job("warm")) is None:
        return
    if job.failed:
        errors = job.report.get("errors") or [["", "no reason was written down"]]
        yield warning(
            f"the last warm-up could not load {job.failed:,} of {counted(job.done, 'key')}",
            f"the first: {' '.join(map(str, errors[0]))}",
            f"stoker jobs {job.id}",
        )
    else:
        yield ok(f"the last warm-up: {job.state}, {counted(job.done, 'key')}")

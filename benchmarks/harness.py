"""What all benchmarks of speed share: contenders, interleaved rounds, ratios taken in pairs, tables, JSON and plots.

Another machine's figures, or another hour's, say nothing. So contenders take turns in shuffled rounds on pinned cores,
each is divided by the reference *of the same round*, and the median of those ratios is what counts.

To add a contender to a benchmark: write a function or class that opens it and returns what the benchmark asks for (see
`memory_peers`), import its library inside, and add a `Contender` to the benchmark's list; a library that is not
installed leaves a note and no row. To add a benchmark: a module with such a list and a function that yields `Table`s,
run by `run`, with a line in the Makefile's `bench`, and a quick run in tests/project/test_benchmarks.py.
"""

import argparse
import json
import os
import platform
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.plots import bars

Samples = dict[str, list[float]]
"""Of each contender, one figure a round."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        open: Makes it ready; arguments and result are the benchmark's matter. Raises ModuleNotFoundError without its
            library.
        packages: Whose versions are reported.
    """

    name: str
    open: Callable[..., Any]
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What the command line asks for.

    Attributes:
        quick: As little work as shows that nothing breaks; the figures mean nothing.
        contenders: Those that take part.
        rounds: Of each measurement.
        seed: Of keys, traces and turns.
    """

    quick: bool
    contenders: tuple[Contender, ...]
    rounds: int
    seed: int


@dataclass(frozen=True)
class Table:
    """Figures to be shown; the first cell of a row names it.

    Attributes:
        note: What a reader has to know.
        plot: The column that is drawn, if any.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[list[str | float]]
    note: str = ""
    plot: str = ""

    def markdown(self) -> str:
        """The table, without its title."""
        head = [self.columns, ["---", *["--:"] * (len(self.columns) - 1)]]
        return "\n".join(f"| {' | '.join(map(shown, row))} |" for row in [*head, *self.rows])


Measure = Callable[[Settings], Iterator[Table]]


def interleaved(runs: Mapping[str, Callable[[], float]], settings: Settings) -> Samples:
    """Let every contender run once a round, in another order each time, after one round that does not count."""
    samples: Samples = {name: [] for name in runs}
    order = random.Random(settings.seed)
    for turn in range(settings.rounds + 1):
        for name in order.sample(list(runs), len(runs)):
            figure = runs[name]()
            if turn:
                samples[name].append(figure)
    return samples


def ratios(samples: Samples, reference: str, *, speed: bool = False) -> dict[str, float]:
    """How many times better than the reference each contender is: the median of its rounds' ratios.

    Args:
        speed: The figures are speeds, where more is better; otherwise they are times.
    """
    if reference not in samples:
        return {}
    against = samples[reference]
    return {
        name: statistics.median(
            mine / its if speed else its / mine for mine, its in zip(figures, against, strict=True)
        )
        for name, figures in samples.items()
    }


@contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Stay on so many cores, the last ones this process may use, where the system lets it say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-cores:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def run(name: str, contenders: Sequence[Contender], measure: Measure, arguments: Sequence[str] | None) -> int:
    """The command of a benchmark: measure, print tables, and write what was asked for."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=sys.modules[measure.__module__].__doc__
    )
    parser.add_argument(
        "--quick", action="store_true", help="show that nothing breaks; the figures mean nothing"
    )
    parser.add_argument("--only", help="contenders, separated by commas", metavar="A,B")
    parser.add_argument("--rounds", type=int, default=0, help="of each measurement")
    parser.add_argument("--seed", type=int, default=1, help="of keys, traces and turns")
    parser.add_argument("--json", type=Path, help="write everything to this file", metavar="FILE")
    parser.add_argument("--plots", type=Path, help="draw plots into this directory", metavar="DIR")
    options = parser.parse_args(arguments)
    known = {contender.name: contender for contender in contenders}
    names = options.only.split(",") if options.only else list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no {', '.join(unknown)}: choose of {', '.join(known)}")
    given = shlex.join(sys.argv[1:] if arguments is None else arguments)
    chosen = tuple(known[name] for name in names if _is_there(known[name]))
    settings = Settings(options.quick, chosen, options.rounds or (2 if options.quick else 30), options.seed)
    began, used = _cpu_seconds(), time.process_time()
    tables = []
    for table in measure(settings):
        tables.append(table)
        _say(f"\n{table.title}\n\n{table.markdown()}\n" + (f"\n{table.note}\n" if table.note else ""))
    facts = _facts(settings, _cpu_seconds() - began - (time.process_time() - used))
    _say(f"\n    $ python -m benchmarks.{name} {given}".rstrip())
    _say("    " + ", ".join(f"{name} {fact}" for name, fact in facts.items()))
    if options.json is not None:
        found = {"benchmark": name, "facts": facts, "tables": [asdict(table) for table in tables]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
        for table in tables:
            if table.plot:
                slug = table.title.lower().replace(" ", "-").replace(",", "")
                (options.plots / f"{name}-{slug}.svg").write_text(_drawn(table))
    return 0


def shown(cell: str | float) -> str:
    """A figure as tables have it: three digits that matter, or whole."""
    if isinstance(cell, str):
        return cell
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"


def _drawn(table: Table) -> str:
    column = table.columns.index(table.plot)
    figures = [(str(row[0]), cell) for row in table.rows if isinstance(cell := row[column], float | int)]
    return bars(f"{table.title}: {table.plot}", figures)


def _is_there(contender: Contender) -> bool:
    missing = [package for package in contender.packages if _version(package) is None]
    if missing:
        sys.stderr.write(
            f"{contender.name} is left out: {', '.join(missing)} not installed (group `bench`)\n"
        )
    return not missing


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _facts(settings: Settings, foreign: float) -> dict[str, Any]:
    packages: Iterable[str] = {package for one in settings.contenders for package in one.packages}
    return {
        **{package: _version(package) for package in sorted(packages)},
        "Python": platform.python_version(),
        "cores": os.cpu_count(),
        "rounds": settings.rounds,
        "seed": settings.seed,
        "CPU seconds of other processes meanwhile": round(foreign),
    }


def _cpu_seconds() -> float:
    """What all processes of this machine have used; 0 where it does not tell."""
    try:
        ticks = [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return 0.0
    return (sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()

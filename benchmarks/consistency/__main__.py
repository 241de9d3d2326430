"""The command: plays every contender in every mix, one after the other, and prints one table."""

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version

from benchmarks.consistency.peers import CONTENDERS
from benchmarks.consistency.stage import MIXES, Result, play

COLUMNS = ("mix", "contender", "reads", "hits", "hit rate", "stale", "wrong", "loads", "changes", "errors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parser().parse_args(arguments)
    results = []
    try:
        for mix in options.mixes:
            for contender in options.contenders:
                sys.stderr.write(f"{mix}: {contender}\n")
                results.append(play(contender, mix, options.seed, options.seconds, options.ttl))
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"{error}. The contenders are installed by: pip install -e '.[worker]' --group bench\n"
        )
        return 2
    versions = _versions(options.contenders) | {"server": results[0].server}
    given = {name: getattr(options, name) for name in ("seconds", "seed", "ttl")}
    if options.json:
        found = {**given, "versions": versions, "results": [asdict(result) for result in results]}
        sys.stdout.write(f"{json.dumps(found, indent=1)}\n")
    else:
        command = shlex.join(sys.argv[1:] if arguments is None else arguments)
        lines = [
            f"$ python -m benchmarks.consistency {command}".rstrip(),
            _named(given),
            _named(versions),
            "",
        ]
        lines += [table(results), *_hung(results)]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def table(results: Iterable[Result]) -> str:
    """All counts, as Markdown."""
    return "\n".join(
        [
            _line(COLUMNS),
            _line(["---", "---", *["--:"] * (len(COLUMNS) - 2)]),
            *map(_line, map(_cells, results)),
        ]
    )


def _hung(results: Iterable[Result]) -> Iterator[str]:
    for result in results:
        if result.hung:
            yield f"{result.mix}: {result.hung} processes of {result.contender} did not stop by themselves"


def _named(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {fact}" for name, fact in facts.items())


def _cells(result: Result) -> list[str]:
    counts = result.counts
    rate = f"{counts['hits'] / max(counts['reads'], 1):.0%}"
    names = ("reads", "hits", None, "stale", "wrong", "loads", "acks", "errors")
    figures = [rate if name is None else f"{counts[name]:,}" for name in names]
    return [result.mix, result.contender, *figures]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _versions(contenders: Iterable[str]) -> dict[str, str]:
    packages = {package for name in contenders for package in CONTENDERS[name].packages} | {"redis"}
    return {package: version(package) for package in sorted(packages)} | {"Python": platform.python_version()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consistency", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each contender and mix")
    parser.add_argument("--seed", type=int, default=1, help="of choices, slowness and faults")
    parser.add_argument("--ttl", type=int, default=5, help="seconds that a value lives")
    parser.add_argument("--contenders", type=_some_of(CONTENDERS), default=[*CONTENDERS], metavar="A,B")
    parser.add_argument(
        "--mixes", type=_some_of(MIXES), default=[*MIXES], metavar="A,B", help=f"of {', '.join(MIXES)}"
    )
    parser.add_argument("--json", action="store_true", help="print everything, notes on errors too")
    return parser


def _some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name!r}: choose of {', '.join(known)}")
        return chosen

    return names


if __name__ == "__main__":
    sys.exit(main())

"""The Dockerfile as a list of instructions, and an image that is made without an engine.

`build` follows the instructions in a directory instead of a container: it copies what COPY copies and runs what
RUN runs, with absolute paths moved below the directory. It has no layers, no users and no other operating system,
so steps that make users are left out, and reported.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.compose import ROOT

FILE = ROOT / "Dockerfile"
STEP_SECONDS = 300
_MAKES_USERS = "groupadd "


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, such as `RUN`, and what follows it."""

    word: str
    rest: str

    @property
    def words(self) -> list[str]:
        """Its arguments, without options; of the JSON form too."""
        if self.rest.startswith("["):
            return [str(word) for word in json.loads(self.rest)]
        return [word for word in self.rest.split() if not word.startswith("--")]

    @property
    def settings(self) -> dict[str, str]:
        """The names and values of ENV and LABEL."""
        return {name: value.strip('"') for name, value in re.findall(r'(\S+?)=("[^"]*"|\S+)', self.rest)}


@dataclass(frozen=True, slots=True)
class Image:
    """What `build` made.

    Attributes:
        files: The directory that stands for `/`.
        environment: What ENV set, with its paths below `files`.
        left_out: Steps that were not run.
    """

    files: Path
    environment: dict[str, str]
    entrypoint: list[str]
    workdir: Path
    left_out: list[str] = field(default_factory=list)


def stages() -> list[list[Instruction]]:
    """The instructions of each stage; each begins with its FROM."""
    found: list[list[Instruction]] = []
    for instruction in _instructions():
        if instruction.word == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def ignored_but() -> Iterator[str]:
    """What .dockerignore lets through, after it has shut out everything."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    yield from (rule.removeprefix("!") for rule in rules if rule.startswith("!"))


def build(files: Path) -> Image:
    """Do in `files` what the Dockerfile does in a container; takes a minute, most of it downloads."""
    base = files / "base"
    _run([_python(), "-m", "venv", str(base)], files, {})
    *making, final = stages()
    left_out: list[str] = []
    for stage in making:
        _follow(stage, files, {"PATH": f"{base / 'bin'}:{os.environ['PATH']}"}, left_out)
    made = {path for stage in making for path in _workdirs(stage)} | {"/dist"}
    for path in made:  # the final image has none of it
        shutil.rmtree(_below(files, path))
    environment: dict[str, str] = {"PATH": f"{base / 'bin'}:/usr/bin:/bin"}
    _follow(final, files, environment, left_out)
    [entrypoint] = [step.words for step in final if step.word == "ENTRYPOINT"]
    return Image(files, environment, entrypoint, _below(files, _workdirs(final)[-1]), left_out)


def _instructions() -> Iterator[Instruction]:
    lines = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, rest = line.split(maxsplit=1)
        yield Instruction(word, rest)


def _follow(stage: list[Instruction], files: Path, environment: dict[str, str], left_out: list[str]) -> None:
    """Do the instructions of one stage; `environment` grows by what ENV sets."""
    directory = files
    for step in stage:
        if step.word == "WORKDIR":
            directory = _below(files, step.rest)
            directory.mkdir(parents=True)
        elif step.word == "ENV":
            for name, value in step.settings.items():
                environment[name] = _moved(value.replace(f"${name}", environment.get(name, "")), files)
        elif step.word == "COPY":
            _copy(step, directory, files)
        elif step.word == "RUN" and step.rest.startswith(_MAKES_USERS):
            left_out.append(step.rest)
        elif step.word == "RUN":
            _run(["/bin/sh", "-euc", _moved(step.rest, files)], directory, environment)


def _copy(step: Instruction, directory: Path, files: Path) -> None:
    *sources, target = step.words
    if (
        "--from=" in step.rest
    ):  # all stages share `files`, and a virtual environment must stay where it was made
        assert sources == [target]
        assert _below(files, target).is_dir()
        return
    for source in sources:
        path = directory / target / (Path(source).name if target == "./" else "")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, path, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        else:
            shutil.copy(ROOT / source, path)


def _run(command: list[str], directory: Path, environment: dict[str, str]) -> None:
    run = subprocess.run(
        command,
        cwd=directory,
        env={"HOME": str(directory), **_network(), **environment},
        capture_output=True,
        text=True,
        timeout=STEP_SECONDS,
        check=False,
    )
    assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"


def _network() -> dict[str, str]:
    """How this machine reaches a package index, which an engine would have been told too."""
    ours = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_", "REQUESTS_")
    return {name: value for name, value in os.environ.items() if name.upper().startswith(ours)}


def _python() -> str:
    """The image's Python if this machine has it, else the one of these tests."""
    found = re.match(r"python:(\d+\.\d+)", stages()[-1][0].rest)
    assert found is not None
    named = shutil.which(f"python{found[1]}")
    works = named and subprocess.run([named, "-c", "import ensurepip"], capture_output=True).returncode == 0
    return named if named and works else sys.executable


def _workdirs(stage: list[Instruction]) -> list[str]:
    return [step.rest for step in stage if step.word == "WORKDIR"]


def _below(files: Path, path: str) -> Path:
    return files / path.lstrip("/")


def _moved(text: str, files: Path) -> str:
    """The text with the image's own absolute paths moved below `files`."""
    return re.sub(r"(?<![\w./-])/(?=(?:src|dist|opt|app)\b)", f"{files}/", text)

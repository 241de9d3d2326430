"""The project as it is distributed: where its files are, and pip to build and install it.

The same tests run from a checkout and, with no source folder in sight, against an installed wheel.
"""

import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIP_SECONDS = 100  # a registry that hangs must not hang the tests


def portions() -> list[Path]:
    """The folders that make up the namespace `stoker`: four in a checkout, one when it is installed."""
    spec = PathFinder.find_spec("stoker")
    assert spec is not None, "stoker is not installed"
    return [Path(folder) for folder in spec.submodule_search_locations or ()]


def source_files() -> dict[str, Path]:
    """Every file of Stoker's own, by its name in a wheel, e.g. `stoker/cache/keys.py`."""
    return {
        path.relative_to(portion.parent).as_posix(): path
        for portion in portions()
        for path in portion.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def pip(*arguments: str, python: str = sys.executable) -> None:
    """Run this interpreter's pip on the environment of `python`; what pip says goes into the failure."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "-qq",
        "--python",
        python,
        *arguments,
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    assert run.returncode == 0, f"{' '.join(command)}\n{run.stdout}{run.stderr}"

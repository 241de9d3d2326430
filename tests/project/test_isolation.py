"""An app that installs Stoker gets a cache and nothing else: no Celery, no pydantic, no top-level name.

Real environments, real pip: `bare` is what `pip install stoker` makes, `producer` has the extra `tasks` too. What the
environment of these tests has in addition must not be what makes Stoker work.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.project.distribution import pip

HEAVY = ["celery", "flower", "kombu", "pydantic", "pydantic_settings", "rich", "typer"]
TAKEN = ["cache", "config", "tasks", "worker"]  # our folders' names, and likely names of an app's own modules


def answer(python: str, code: str, folder: Path) -> Any:
    """Run `code`, which prints JSON, as a script in `folder`, and read what it printed."""
    (folder / "main.py").write_text(f"import json\n{code}")
    run = subprocess.run(
        [python, "main.py"], cwd=folder, capture_output=True, text=True, timeout=110, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def owners(python: str, imports: str, folder: Path) -> Any:
    """Whose module each taken name is, for an app in `folder` that has imported Stoker first."""
    modules = ", ".join(TAKEN)
    code = f"{imports}\nimport {modules}\nprint(json.dumps({{m.__name__: m.OWNER for m in ({modules})}}))"
    return answer(python, code, folder)


def environment(folder: Path, requirement: str) -> str:
    """The interpreter of a new environment that holds what pip installs for `requirement`."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = str(folder / "bin" / "python")
    pip("install", requirement, python=python)
    return python


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return environment(tmp_path_factory.mktemp("bare"), str(wheel))


@pytest.fixture(scope="module")
def producer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return environment(tmp_path_factory.mktemp("producer"), f"{wheel}[tasks]")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app with modules of the names that our folders have."""
    for name in TAKEN:
        (tmp_path / f"{name}.py").write_text('OWNER = "the app"\n')
    return tmp_path


def test_installing_without_extras_brings_neither_celery_nor_pydantic(bare: str, tmp_path: Path) -> None:
    code = (
        "from importlib.metadata import distributions\nprint(json.dumps([d.name for d in distributions()]))"
    )
    installed = {name.lower().replace("-", "_") for name in answer(bare, code, tmp_path)}
    assert {"stoker", "redis", "hiredis", "msgspec"} <= installed
    assert installed.isdisjoint(HEAVY)


def test_the_cache_works_without_extras(bare: str, tmp_path: Path) -> None:
    code = """
from stoker.cache import Cache
cache = Cache()
cache.set("user:1", {"name": "Ada"}, tenant_id="acme")
print(json.dumps([cache.get("user:1", tenant_id="acme"), cache.get("user:1")]))
"""
    assert answer(bare, code, tmp_path) == [{"name": "Ada"}, None]


def test_the_command_says_which_extra_it_needs(bare: str, tmp_path: Path) -> None:
    command = [str(Path(bare).with_name("stoker")), "demo"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert run.returncode == 1
    assert "pip install 'stoker[" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("layer", ["config", "tasks"])
def test_a_layer_says_which_extra_it_needs(bare: str, tmp_path: Path, layer: str) -> None:
    code = f"""
try:
    import stoker.{layer}
except ImportError as error:
    print(json.dumps(str(error)))
"""
    assert "pip install 'stoker[" in answer(bare, code, tmp_path)


def test_an_app_sends_jobs_with_the_tasks_extra_alone(
    producer: str, cache_server: str, broker_server: str, namespace: str, tmp_path: Path
) -> None:
    code = f"""
from stoker.config import Settings
from stoker.tasks import configure, send
configure(Settings(cache_url="{cache_server}", broker_url="{broker_server}", namespace="{namespace}"))
print(json.dumps(send.sweep().status().state))
"""
    assert answer(producer, code, tmp_path) == "queued"


def test_no_top_level_name_but_stoker_is_installed(bare: str, tmp_path: Path) -> None:
    code = f"from importlib.util import find_spec\nprint(json.dumps([n for n in {TAKEN} if find_spec(n)]))"
    assert answer(bare, code, tmp_path) == []


def test_an_app_imports_its_own_modules_of_the_same_names(bare: str, app: Path) -> None:
    assert owners(bare, "import stoker.cache", app) == dict.fromkeys(TAKEN, "the app")


def test_so_does_an_app_that_uses_every_layer(app: Path) -> None:
    every_layer = "import stoker.cache, stoker.config, stoker.tasks, stoker.worker.app"
    assert owners(sys.executable, every_layer, app) == dict.fromkeys(TAKEN, "the app")


def test_importing_the_cache_imports_nothing_heavy_where_it_is_installed(tmp_path: Path) -> None:
    code = f"import stoker.cache, sys\nprint(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    assert answer(sys.executable, code, tmp_path) == []

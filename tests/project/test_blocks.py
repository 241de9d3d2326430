"""The Python blocks of the documents run, top to bottom, against a real server."""

import re
from pathlib import Path

import pytest

from tests.project.distribution import ROOT

LOCAL = "redis://localhost:6379/0"


def blocks(document: Path) -> list[str]:
    """The document's Python blocks."""
    return re.findall(
        r"^```python\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def run(code: str, url: str, namespace: str) -> None:
    """Run code that names the usual local server, against this one, in name spaces of its own."""
    code = code.replace(LOCAL, url).replace('namespace="guide', f'namespace="{namespace}')
    code = (
        code.replace('redis_url="', f'namespace="{namespace}", redis_url="')
        if "namespace=" not in code
        else code
    )
    exec(compile(code, "<document>", "exec"), {"__name__": "document"})


def test_the_migration_guide_runs(
    cache_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STOKER_BROKER_URL", cache_server)
    run("\n".join(blocks(ROOT / "docs" / "migration.md")), cache_server, namespace)
    assert "memory 300" in capsys.readouterr().out


def test_the_page_on_use_runs(cache_server: str, namespace: str) -> None:
    code = "\n".join(blocks(ROOT / "docs" / "usage.md"))
    run(code.replace('namespace="usage"', f'namespace="{namespace}"'), cache_server, namespace)


def test_what_the_readme_shows_of_the_cache_runs(cache_server: str, namespace: str) -> None:
    [tour] = [
        block for block in blocks(ROOT / "README.md") if block.startswith("from stoker.cache import Cache,")
    ]
    run(tour, cache_server, namespace)

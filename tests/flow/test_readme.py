"""The README's first example prints what the README says, with a real worker."""

import re
import subprocess
import sys
from pathlib import Path

from tests.flow.conftest import ROOT, Deployment


def test_producer_and_worker_print_what_is_shown(deployment: Deployment, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("prices.py", "app.py"):
        found = re.search(rf"```python\n(# {re.escape(name)}.*?)```", text, re.DOTALL)
        assert found is not None
        (tmp_path / name).write_text(found[1])
    console = re.search(r"\$ python app.py\n(.*?)```", text, re.DOTALL)
    assert console is not None
    ours = {"STOKER_LOADERS": "prices", "PYTHONPATH": str(tmp_path)}
    deployment.worker(**ours)
    shown = subprocess.run(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        env=deployment.environment | ours,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert shown.stdout == console[1], shown.stderr

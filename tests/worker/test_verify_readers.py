"""What readers of `stoker verify` have counted when they are killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from stoker.worker.verify.world import World
from tests.waiting import wait_until

READER = """
import sys
from pathlib import Path
from stoker.worker.verify import async_readers, readers, source
from stoker.worker.verify.post import Post
from stoker.worker.verify.world import World

world = World(Path(sys.argv[1]))
source.read_from(world, 1)
post = Post(0, world, sys.argv[2], sys.argv[3], 1, 1, {}, near=True, cluster=False)
getattr(sys.modules["stoker.worker.verify." + sys.argv[4]], sys.argv[5])(post)
"""


@pytest.mark.parametrize(
    "role", ["readers.read", pytest.param("async_readers.read_on_asyncio", marks=pytest.mark.slow)]
)
def test_what_a_reader_was_served_of_copies_is_counted_though_it_is_killed(
    role: str, tmp_path: Path, cache_server: str, namespace: str
) -> None:
    world = World(tmp_path, create=True)
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path), cache_server, namespace, *role.split(".")]
    ) as reader:
        try:
            wait_until(lambda: world.totals()["near_hits"] or reader.poll() is not None, 30)
            assert reader.poll() is None
        finally:
            reader.kill()
    assert world.totals()["near_hits"] > 0
    assert world.notes() == []

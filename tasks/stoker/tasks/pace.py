"""How fast a job goes and when it will be done, from what its present run did. Has no clock of its own."""

from stoker.cache import Step


class Pace:
    """Rate and time to go.

    Args:
        before: Keys done before this run began.
        now: Monotonic time at which it began, seconds.
    """

    def __init__(self, before: int, now: float) -> None:
        self._before = before
        self._began = now
        self.rate = 0.0  # keys a second
        self.eta: float | None = None  # seconds; None: unknown

    def add(self, step: Step[object], now: float) -> None:
        """Take one more batch into account."""
        elapsed = now - self._began
        self.rate = max(step.done - self._before, 0) / elapsed if elapsed > 0 else 0.0
        left = None if step.total is None else max(step.total - step.done, 0)
        self.eta = None if left is None or self.rate <= 0 else left / self.rate

    def text(self, step: Step[object]) -> str:
        """What Flower shows: `42.0% 420/1000 35/s ETA 16s`, with what is unknown left out."""
        words = [
            f"{step.done}/{step.total}" if step.total is not None else f"{step.done}",
            f"{self.rate:.0f}/s",
        ]
        if step.total:
            words.insert(0, f"{100 * step.done / step.total:.1f}%")
        if step.failed:
            words.append(f"{step.failed} failed")
        if self.eta is not None:
            words.append(f"ETA {self.eta:.0f}s")
        return " ".join(words)

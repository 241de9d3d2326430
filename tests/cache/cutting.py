"""A proxy that cuts answers off, or passes them on in bits."""

import socket
from contextlib import suppress

from tests.cache.proxy import SlowProxy


class CuttingProxy(SlowProxy):
    """A proxy that can end a connection within an answer, and let answers trickle.

    Attributes:
        left: Bytes of answers that are still passed on; then the connection ends. None: all.
        passed: Bytes of answers that were.
        gap_s: Between two bytes of an answer; None passes it on as it comes.
    """

    left: int | None = None
    passed = 0
    gap_s: float | None = None

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            while data := source.recv(65536):
                if not answers:
                    target.sendall(data)
                elif not self._answer(target, data):
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _answer(self, target: socket.socket, data: bytes) -> bool:
        self.passed += len(data)
        left = self.left  # once: the test changes it at any time
        if left is not None:
            target.sendall(data[:left])
            self.left = max(0, left - len(data))
            return left > len(data)
        if self.gap_s is None:
            target.sendall(data)
            return True
        for at in range(len(data)):
            self._over.wait(self.gap_s)
            target.sendall(data[at : at + 1])
        return True

"""The connection over which a stream of `near` asks and hears: moves its bytes, in a thread of its own.

One for each process and cache, or each node that it has copies of, whether called or awaited, since no reader waits for
it. redis-py opens it, and authenticates; from then on its socket is read and written here. The thread begins with the
first question and ends with `close`, or when no shard is listened to at a node any more; while nobody reads, nothing is
sent.
"""

import logging
import os
import selectors
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.exceptions import RedisError, ResponseError

from stoker.cache import transport
from stoker.cache.dialogue import reason
from stoker.cache.near import Near
from stoker.cache.near_stream import Stream
from stoker.cache.options import CacheConfig
from stoker.cache.sentinel_url import is_sentinel
from stoker.cache.sentinels import Following
from stoker.cache.transport import Connection, Wire

log = logging.getLogger(__name__)
_BEATS = 3
"""In `near_bound`."""
_LOOK_UP_EVERY_S = 30.0
"""While it rests: whether anything is to be heard at all."""
_FIRST_PAUSE_S = 0.02
_REFUSED_PAUSE_S = 30.0
"""After an error that lasts until somebody changes the server, its ACL say; all others are tried again sooner."""
_FOR_NOW = "LOADING", "BUSY ", "MASTERDOWN"
"""What an error begins with that ends by itself."""
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_CHUNK = 65_536


class Channel:
    """Keeps a stream connected to the configured server for as long as it is needed."""

    def __init__(self, near: Near, stream: Stream, config: CacheConfig) -> None:
        self.stream = stream
        self._near = near
        self._config = config
        self._raw: Wire | None = None
        self._bell: socket.socket | None = None
        self._pause = _FIRST_PAUSE_S
        self._begin()
        stream.wake = self.wake
        _CHANNELS.add(self)

    def _begin(self) -> None:
        self._place = Following(self._config) if is_sentinel(self._config.redis_url) else None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._woken = False

    def forked(self) -> None:
        """Begin without a thread and a connection: those are the parent's."""
        raw, bell, self._raw, self._bell = self._raw, self._bell, None, None
        if raw is not None:
            raw.disconnect()  # in a child redis-py closes its own copy of the socket, and says nothing to the server
        if bell is not None:
            bell.close()
        self.stream.forked()
        self._begin()

    def wake(self) -> None:
        """There is something to send. Costs nothing if that is known."""
        if self._woken:
            return
        self._woken = True
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._start()
            else:
                self._ring()

    def _start(self) -> None:
        if self._bell is not None:
            self._bell.close()
        self._bell, ear = socket.socketpair()
        self._bell.setblocking(False)
        ear.setblocking(False)
        self._thread = threading.Thread(
            target=self._keep_connected, args=(ear, self._over), name="stoker-near", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:  # there are too many, or Python is ending: reads go on without copies
            log.debug("the near cache has no thread: %s", error)
            ear.close()
            self._thread, self._woken = None, False
            self.stream.resting = True  # so that the next read tries again

    def _ring(self) -> None:
        try:
            if self._bell is not None:
                self._bell.send(b"!")
        except (BlockingIOError, BrokenPipeError):
            return  # it has been rung often enough; or the thread has ended, as it was told to

    def end(self) -> tuple[threading.Thread | None, threading.Event]:
        """Tell the thread, if there is one, to end, as `close` does, without waiting for it."""
        with self._lock:
            self._over.set()
            self._ring()
            return self._thread, self._over

    def close(self) -> None:
        """End the thread and the connection; who reads afterwards begins anew."""
        thread, over = self.end()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)
        with self._lock:
            if self._over is over:
                if self._bell is not None:
                    self._bell.close()
                self._bell, self._thread, self._over, self._woken = None, None, threading.Event(), False
                if self._place is not None:
                    self._place.close()

    def _keep_connected(self, ear: socket.socket, over: threading.Event) -> None:
        with ear:
            while not over.is_set() and not self._ended():
                began = time.monotonic()
                try:
                    self._converse(ear, over)
                    continue
                except (RedisError, OSError) as error:
                    lasted = time.monotonic() - began > self._config.breaker_reset
                    self._pause = self._pause_after(error, lasted=lasted)
                except Exception:
                    # Without this thread there would be no copies any more, and nobody would know why.
                    self._pause = _REFUSED_PAUSE_S
                    log.exception("the near cache has failed; it begins anew in %g s", self._pause)
                finally:
                    if self._over is over:  # else another thread has it, since this one was slow to end
                        self.stream.lost()
                self.stream.deaf = True
                over.wait(self._pause)
                self.stream.deaf = False

    def _pause_after(self, error: Exception, *, lasted: bool) -> float:
        """Seconds until it is tried again."""
        if isinstance(error, ResponseError) and not str(error).startswith(_FOR_NOW):
            log.log(
                logging.WARNING if self._near.first_refusal() else logging.DEBUG,
                "no near cache, every read goes to the server, which is asked again every %g s: %s",
                _REFUSED_PAUSE_S,
                reason(error, self._config),
            )
            return _REFUSED_PAUSE_S
        log.debug("the near cache has lost its channel: %s", error)
        return _FIRST_PAUSE_S if lasted else min(2 * self._pause, self._config.breaker_reset)

    def _ended(self) -> bool:
        """Whether nothing is to be heard here any more: then the thread ends, and the next wake begins another."""
        with self._lock:
            self._woken = False  # first: who wants something from now on calls again
            if self.stream.needed or self._thread is not threading.current_thread():
                return False
            if self._bell is not None:
                self._bell.close()
            self._bell, self._thread = None, None
            return True

    def _converse(self, ear: socket.socket, over: threading.Event) -> None:
        config = self._config if self._place is None else self._place.config()
        self._raw = raw = cast("Wire", transport._source(config).make_connection())
        try:
            raw.connect()
            connection = Connection(raw, config)
            if connection.line.process != connection.line.server and self._config.boot_fence != "off":
                raise ResponseError("it hides its run_id, so there may be more than one behind this address")
            [tracking] = connection.ask((("CLIENT", "TRACKING", "ON"),)).replies
            if isinstance(tracking, Exception):
                raise tracking
            if over.is_set():
                return
            self.stream.opened(connection.line.server)
            conversation = Conversation(
                self._near, self.stream, config, cast("Any", raw)._sock, ear, self._place
            )
            conversation.go_on(over, self._listened)
        finally:
            raw.disconnect()
            self._raw = None

    def _listened(self) -> None:
        self._woken = False


_CHANNELS: "weakref.WeakSet[Channel]" = weakref.WeakSet()


def _forked() -> None:
    for channel in list(_CHANNELS):
        channel.forked()


os.register_at_fork(after_in_child=_forked)


class Conversation:
    """What is said on one connection, until it breaks."""

    def __init__(
        self,
        near: Near,
        stream: Stream,
        config: CacheConfig,
        wire: socket.socket,
        ear: socket.socket,
        place: Following | None = None,
    ) -> None:
        self._place = place
        self._near = near
        self._stream = stream
        self._config = config
        self._wire = wire
        self._ear = ear
        self._reader = hiredis.Reader()
        self._out = bytearray()

    def go_on(self, over: threading.Event, listened: Callable[[], None]) -> None:
        """Send what is to be asked and take in what comes; returns when it is over, raises when it breaks."""
        stream, every = self._stream, self._config.near_bound / _BEATS
        next_beat = sent_at = 0.0
        self._wire.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._ear, selectors.EVENT_READ)
            key = selector.register(self._wire, selectors.EVENT_READ)
            listened()
            while not over.is_set() and stream.needed:
                now = time.monotonic()
                if stream.beating:
                    if now - sent_at > self._config.timeout:
                        raise TimeoutError("no answer in time")
                elif now >= next_beat and not stream.resting and not stream.rest():
                    if self._place is not None:
                        self._place.check(self._config)
                    self._out += stream.beat()
                    sent_at, next_beat = now, now + every
                self._near.tally_at(now)
                self._out += stream.questions()
                self._send()
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
                if events != key.events:
                    key = selector.modify(self._wire, events)
                wait = self._config.timeout if stream.beating else next_beat - now
                for ready, _ in selector.select(_LOOK_UP_EVERY_S if stream.resting else wait):
                    if ready.fileobj is self._ear:
                        self._ear.recv(_CHUNK)
                        listened()  # before what was asked for is looked at
                    else:
                        self.receive()

    def _send(self) -> None:
        try:
            while self._out:
                del self._out[: self._wire.send(self._out[:_CHUNK])]
        except _WOULD_BLOCK:
            return

    def receive(self) -> None:
        """Take in all that has come."""
        try:
            while True:
                data = self._wire.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError("the server closed the channel")
                self._reader.feed(data)
                while (message := self._reader.gets(False)) is not False:
                    self._stream.heard(message)
        except _WOULD_BLOCK:
            return

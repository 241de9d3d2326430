"""The connection over which `near` is told what to copy and what has changed: moves its bytes, in a thread of its own.

One for each process and cache, whether called or awaited, since no reader waits for it. redis-py opens it, and
authenticates; from then on its socket is read and written here. The thread begins with the first question and ends with
`close`; while nobody reads, nothing is sent.
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
from stoker.cache.errors import CacheUnavailable
from stoker.cache.near import Near
from stoker.cache.options import CacheConfig
from stoker.cache.sentinel_url import is_sentinel
from stoker.cache.sentinels import Following
from stoker.cache.transport import Connection, Wire

log = logging.getLogger(__name__)
_BEATS = 3
"""In `near_bound`."""
_REST_AFTER = 10
"""Beats in which nobody read: then they are given up until somebody does."""
_TALLY_EVERY_S = 1.0
_FIRST_PAUSE_S = 0.02
_REFUSED_PAUSE_S = 30.0
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_CHUNK = 65_536


def channel_of(cache: object, near: Near | None, config: CacheConfig) -> "Channel | None":
    """The channel of a cache's copies, if it is to have any; it ends with the cache at the latest."""
    if near is None:
        return None
    channel = Channel(near, config)
    weakref.finalize(cache, channel.close)
    return channel


class Channel:
    """Keeps `near` connected to the configured server for as long as it is used."""

    def __init__(self, near: Near, config: CacheConfig) -> None:
        self._near = near
        self._config = config
        self._raw: Wire | None = None
        self._bell: socket.socket | None = None
        self._refused = False
        self._begin()
        near.wake = self.wake
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
            self._near.resting = True  # so that the next read tries again

    def _ring(self) -> None:
        try:
            if self._bell is not None:
                self._bell.send(b"!")
        except (BlockingIOError, BrokenPipeError):
            return  # it has been rung often enough; or the thread has ended, as it was told to

    def close(self) -> None:
        """End the thread and the connection; who reads afterwards begins anew."""
        with self._lock:
            thread, over = self._thread, self._over
            over.set()
            self._ring()
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
        pause = _FIRST_PAUSE_S
        with ear:
            while not over.is_set():
                began = time.monotonic()
                try:
                    self._converse(ear, over)
                except (ResponseError, CacheUnavailable) as error:
                    pause = _REFUSED_PAUSE_S
                    log.log(
                        logging.DEBUG if self._refused else logging.WARNING,
                        "no near cache, every read goes to the server: %s",
                        error,
                    )
                    self._refused = True
                except (RedisError, OSError) as error:
                    log.debug("the near cache has lost its channel: %s", error)
                    lasted = time.monotonic() - began > self._config.breaker_reset
                    pause = _FIRST_PAUSE_S if lasted else min(2 * pause, self._config.breaker_reset)
                except Exception:
                    # Without this thread there would be no copies any more, and nobody would know why.
                    pause = _REFUSED_PAUSE_S
                    log.exception("the near cache has failed; it begins anew in %g s", pause)
                finally:
                    if (
                        self._over is over
                    ):  # else another thread has the channel, since this one was slow to end
                        self._near.lost()
                over.wait(pause)

    def _converse(self, ear: socket.socket, over: threading.Event) -> None:
        config = self._config if self._place is None else self._place.config()
        self._raw = raw = cast("Wire", transport._source(config).make_connection())
        try:
            raw.connect()
            connection = Connection(raw, config)
            if connection.line.process != connection.line.server and self._config.boot_fence != "off":
                raise ResponseError("it hides its run_id, so there may be more than one behind this address")
            connection.ask((("CLIENT", "TRACKING", "ON"),)).reply()
            if over.is_set():
                return
            self._near.opened(connection.line.server)
            conversation = Conversation(self._near, config, cast("Any", raw)._sock, ear, self._place)
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
        config: CacheConfig,
        wire: socket.socket,
        ear: socket.socket,
        place: Following | None = None,
    ) -> None:
        self._place = place
        self._near = near
        self._config = config
        self._wire = wire
        self._ear = ear
        self._reader = hiredis.Reader()
        self._out = bytearray()

    def go_on(self, over: threading.Event, listened: Callable[[], None]) -> None:
        """Send what is to be asked and take in what comes; returns when it is over, raises when it breaks."""
        near, every = self._near, self._config.near_bound / _BEATS
        next_beat = next_tally = sent_at = idle = 0.0
        reads = -1
        self._wire.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._ear, selectors.EVENT_READ)
            key = selector.register(self._wire, selectors.EVENT_READ)
            listened()
            while not over.is_set():
                now = time.monotonic()
                if near.beating:
                    if now - sent_at > self._config.timeout:
                        raise TimeoutError("no answer in time")
                elif now >= next_beat and not near.resting:
                    count = near.lookups
                    idle = 0 if count != reads else idle + 1
                    reads = count
                    near.resting = idle >= _REST_AFTER
                    if not near.resting:
                        if self._place is not None:
                            self._place.check(self._config)
                        self._out += near.beat()
                        sent_at, next_beat = now, now + every
                if now >= next_tally:
                    next_tally = now + _TALLY_EVERY_S
                    near.tally()
                self._out += near.questions()
                self._send()
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
                if events != key.events:
                    key = selector.modify(self._wire, events)
                wait = None if near.resting else self._config.timeout if near.beating else next_beat - now
                for ready, _ in selector.select(wait):
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
                    self._near.heard(message)
        except _WOULD_BLOCK:
            return

"""One serving process: uvicorn's server with an orderly end, and what makes a process of it.

A signal to stop is said to the health checks, then listening ends, then what is in hand is
answered: the process ends with 0. It knows its supervisor as a line on which it sends a beat, and
whose end means that it is to stop.
"""

import asyncio
import ctypes
import logging
import os
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn import Server as UvicornServer
from uvicorn.config import STARTUP_FAILURE
from uvicorn.importer import import_from_string
from uvicorn.server import HANDLED_SIGNALS

from service.accepting import Acceptor
from service.lifecycle import Lifecycle
from service.logs import configure_logs
from service.metrics import Metrics
from service.protocol import FAREWELL_SECONDS, LAST_WORD_SECONDS, TICK_SECONDS, Connection, Traffic
from service.settings import Settings
from service.tls import tls_context

EXIT_FAULT = os.EX_SOFTWARE
BEAT = b"."

_FAULT_SECONDS = 1.0  # for the answers in hand, when the process cannot go on
_REPEAT_SECONDS = 0.1  # one order to stop may arrive as several signals, from a group's leader and from its sender
_CANCEL_SECONDS = 0.5
_HANDSHAKE_SECONDS = 0.1  # for connections that have begun when listening ends
_TICKS_PER_BEAT = 10
_OTHER_FILES = 512  # beside connections: models, libraries, the registry, those that are refused
_SO_ATTACH_FILTER = 26
_log = logging.getLogger(__name__)


class Server(UvicornServer):
    """Serves an application until it is told to stop, or until the application says that it cannot go on."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        lifecycle: Lifecycle,
        metrics: Metrics,
        line: socket.socket | None = None,
    ) -> None:
        """Make a server; `line` leads to the supervisor, which alone hears Ctrl-C then."""
        self.tls = tls_context(settings.tls_cert, settings.tls_key) if settings.tls_cert and settings.tls_key else None
        super().__init__(
            Config(
                _Cancellable(app),
                http=Connection,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
            )
        )
        self.server_state = self.traffic = Traffic(settings, metrics.refused_connections)
        self.settings = settings
        self.lifecycle = lifecycle
        self._line = line
        self._nobody_else_listens = line is None  # or all workers of this service stop
        self._signals = HANDLED_SIGNALS if line is None else (signal.SIGTERM,)
        self._told = asyncio.Event()
        self._told_at = 0.0
        self._pulse: asyncio.Task[None] | None = None
        self._acceptors: list[Acceptor] = []

    def stop(self) -> None:
        """Begin to stop: the process is not ready any more, and every answer is its connection's last."""
        if not self.should_exit:
            self.should_exit = True
            self._told_at = asyncio.get_running_loop().time()
            self.lifecycle.stop()
            self.traffic.stop()
            self._told.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal, and end at once at the next one."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self._on_signal, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)  # held until somebody listened
        try:
            yield
        finally:
            for number in self._signals:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        if not self.should_exit:
            _log.info("stopping: %s", signal.Signals(number).name)
            self.stop()
        elif asyncio.get_running_loop().time() - self._told_at > _REPEAT_SECONDS:
            _log.warning("ending at once: a second %s", signal.Signals(number).name)
            os._exit(128 + number)

    def _hear(self) -> None:
        assert self._line is not None
        with suppress(ConnectionError):
            if self._line.recv(64):
                return
        asyncio.get_running_loop().remove_reader(self._line)
        self._nobody_else_listens = True
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen."""
        loop = asyncio.get_running_loop()
        if self._line is not None:
            loop.add_reader(self._line, self._hear)
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        self._acceptors = [Acceptor(s, self._take_in, lambda: self.traffic.has_its_share) for s in sockets or []]
        self._pulse = loop.create_task(self._keep_time())
        self.started = True

    async def main_loop(self) -> None:
        """Serve until told to stop."""
        await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is in hand, and end the application."""
        assert self._pulse is not None
        await asyncio.sleep(self.settings.shutdown_delay_ms / 1000)
        self.traffic.drain()
        await self._stop_listening(sockets or [])
        if self.tls is not None:  # a connection is known here once its handshake is done
            await asyncio.sleep(FAREWELL_SECONDS)
        if not await self._within(self.settings.longest_timeout_seconds, self._is_done):
            _log.warning("%d requests are left without an answer: their time is over", len(self.traffic.tasks))
            await self._leave_off()
        await self.lifespan.shutdown()
        self._pulse.cancel()

    async def _take_in(self, taken: socket.socket) -> None:
        """Begin to serve a connection."""
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._connect, taken, **self._tls_options())

    def _connect(self) -> Connection:
        return Connection(self.config, self.traffic, self.lifespan.state)

    def _tls_options(self) -> dict[str, Any]:
        if self.tls is None:
            return {}
        seconds = self.settings.header_timeout_ms / 1000
        return {"ssl": self.tls, "ssl_handshake_timeout": seconds, "ssl_shutdown_timeout": LAST_WORD_SECONDS}

    async def _keep_time(self) -> None:
        """Ten times a second: what is overdue, the application's word that it cannot go on; every second: the beat."""
        loop, ticks = asyncio.get_running_loop(), 0
        looked = loop.time()
        while True:
            await self.on_tick(ticks)
            now = loop.time()
            self.traffic.pass_time(now - looked)
            if self._line is not None and ticks % _TICKS_PER_BEAT == 0:
                with suppress(OSError):  # a supervisor that is gone is heard of elsewhere
                    self._line.send(BEAT, socket.MSG_DONTWAIT)
            if self.lifecycle.fault:
                await self._give_up()
            ticks, looked = ticks + 1, now
            await asyncio.sleep(TICK_SECONDS)

    async def _give_up(self) -> None:
        """End the process without waiting for its threads, one of which may never end."""
        _log.critical("this process ends, for another to take its place: %s", self.lifecycle.fault)
        for acceptor in self._acceptors:
            acceptor.close()
        await self._within(_FAULT_SECONDS, lambda: not self.traffic.tasks)
        os._exit(EXIT_FAULT)

    async def _stop_listening(self, sockets: Sequence[socket.socket]) -> None:
        """Take in who has connected so far, and nobody after."""
        if self._nobody_else_listens:
            for listener in sockets:
                turn_away(listener)
            await asyncio.sleep(_HANDSHAKE_SECONDS)
        for acceptor in self._acceptors:
            acceptor.close()
            await acceptor.finish()
        last = []
        for listener in sockets:
            listener.setblocking(False)
            with suppress(OSError):  # there is nobody left
                while True:
                    last.append(listener.accept()[0])
            listener.close()
        await asyncio.gather(*map(self._take_in, last), return_exceptions=True)

    def _is_done(self) -> bool:
        return not (self.traffic.open or self.traffic.tasks)

    async def _leave_off(self) -> None:
        for connection in list(self.traffic.open):
            connection.abandon()
        if not await self._within(_CANCEL_SECONDS, lambda: not self.traffic.tasks):
            for task in self.traffic.tasks:
                task.cancel()
            await self._within(_CANCEL_SECONDS, lambda: not self.traffic.tasks)

    async def _within(self, seconds: float, condition: Callable[[], bool]) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():  # noqa: ASYNC110  uvicorn's sets tell nobody that they are empty
                    await asyncio.sleep(TICK_SECONDS / 5)
        return condition()


class _Cancellable:
    """Lets a request be cancelled without a traceback; only the end of the process cancels one from outside."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await self.app(scope, receive, send)


def turn_away(listener: socket.socket) -> None:
    """Let nobody begin to connect any more, while those that have begun can still be accepted.

    Else a connection between the last accept and the end would be reset, with the request that was sent on it. A
    packet that is dropped here is sent again in a second, and refused then. It holds for every process that has the
    socket. Source: socket(7), SO_ATTACH_FILTER; a program that drops TCP segments whose flag SYN is set.
    """
    if sys.platform != "linux":
        return
    load_flags, drop_if_syn, drop, keep = (0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFF)
    steps = [struct.pack("HBBI", *step) for step in (load_flags, drop_if_syn, drop, keep)]
    program = ctypes.create_string_buffer(b"".join(steps))
    with suppress(OSError):  # not everything that calls itself Linux can do it
        pointer = struct.pack("HP", len(steps), ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)


def allow_files(connections: int) -> None:
    """Let this process open a file for every connection, and its own, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning(
            "this process may open %d files, which is too few for HUBEL_MAX_CONNECTIONS=%d", allowed, connections
        )


def run_worker(app: str, listeners: Sequence[int], line: int) -> int:
    """Serve the application that `app` ("module:function") makes; return the exit code.

    The descriptors `listeners` are listening sockets, and `line` leads to the supervisor. The
    application's state has the settings, the lifecycle and the metrics.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's reaches the supervisor, too, which says what to do
    configure_logs("info")
    try:
        application = import_from_string(app)()
        state = application.state
        allow_files(state.settings.max_connections)
        server = Server(application, state.settings, state.lifecycle, state.metrics, socket.socket(fileno=line))
    except Exception:  # whatever it is, it is told in the log's own form
        _log.exception("the application cannot be made")
        return STARTUP_FAILURE
    server.run([socket.socket(fileno=descriptor) for descriptor in listeners])
    return 0

"""HTTP between a socket and the application: uvicorn's protocol, with bounds on what a connection may take.

Knows bytes, deadlines and counts, and no route. Time passes here only as the server sees it pass,
ten times a second: a process that was busy or stopped does not blame its callers. uvicorn is held
to one minor version, since this builds on its insides.
"""

import asyncio
import enum
import logging
import select
import urllib.parse
from collections.abc import Iterator
from typing import Any, cast

import httptools
from prometheus_client import Counter
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.callers import CALLER, Caller, caller_of
from service.cycle import Answer, Cycle
from service.settings import Settings
from service.worker_counts import WorkerCounts

TICK_SECONDS = 0.1
MAX_PIPELINED = 16
LAST_WORD_SECONDS = 2.0  # for the other side to read why a connection ends
MAX_LAST_WORDS = 100  # connections that are given this time at once
SPARED_SECONDS = 0.2  # who has waited for less makes no room for others: its request may be on its way
FAREWELL_SECONDS = 0.5  # that idle connections are still listened to when the process stops

_CHUNKS_COST = 8  # bytes of framing for a byte of body, at the most: a chunk of one byte has five
_log = logging.getLogger(__name__)


class Stage(enum.Enum):
    """What a connection has sent of its next request."""

    SILENT = enum.auto()  # nothing, ever
    BETWEEN = enum.auto()  # nothing since the last one
    HEAD = enum.auto()
    BODY = enum.auto()


class Refused(Exception):
    """A connection is not served any further: what is counted, and what the other side is told."""

    def __init__(self, reason: str, status: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.status = status


class Traffic(ServerState):
    """What all connections of a process share: limits, time, and who is to send something."""

    def __init__(self, settings: Settings, refused: Counter) -> None:
        super().__init__()
        self.max_connections = settings.max_connections
        self.max_header_bytes = settings.max_header_bytes
        self.header_seconds = settings.header_timeout_ms / 1000
        self.body_seconds = settings.body_timeout_ms / 1000
        self.keep_alive_seconds = settings.keep_alive_ms / 1000
        self.bytes_per_second = settings.min_body_bytes_per_second
        self.now = 0.0
        self.waiting: dict[Connection, None] = {}  # for a request, the longest first
        self.ending: set[Connection] = set()
        self.stopping = False
        self.draining = False
        self._refused = refused
        self._counts = WorkerCounts(settings.worker_folder / "connections") if settings.worker_folder else None
        self._workers = settings.processes

    @property
    def has_its_share(self) -> bool:
        """Whether this worker has more connections than there are for each."""
        return self._counts is not None and len(self.open) * self._workers > len(self.open) + self._counts.others()

    def note_open(self) -> None:
        """Tell the other workers how many connections this one has."""
        if self._counts is not None:
            self._counts.set(len(self.open))

    @property
    def open(self) -> "set[Connection]":
        """The connections that are served."""
        return cast("set[Connection]", self.connections)

    def count(self, reason: str) -> None:
        """Count a connection that is closed for what its other side does."""
        self._refused.labels(reason).inc()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and end what has waited for too long."""
        step = min(seconds, 2 * TICK_SECONDS)
        self.now += step
        for connection in (*self.open, *self.ending):
            try:
                connection.check(step)
            except Exception:  # one connection must not end the watch over all
                _log.exception("looking after a connection failed")

    def make_room(self) -> bool:
        """Close the connection that has waited longest for a request, if one has."""
        longest = next(iter(self.waiting), None)
        if longest is None or self.now - longest.since < SPARED_SECONDS:
            return False
        self.count("made_room")
        longest.end()
        return True

    def stop(self) -> None:
        """Let every answer from now on be the last one of its connection."""
        self.stopping = True
        for connection in self.open:
            connection.make_last()

    def drain(self) -> None:
        """Close connections as soon as nothing is to be answered on them."""
        self.draining = True
        for connection in self.open:
            connection.since = self.now if connection.idle else connection.since


class Connection(HttpToolsProtocol):
    """One connection: its requests are parsed, bounded and handed to the application one after the other."""

    def __init__(
        self,
        config: Config,
        server_state: Traffic,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.traffic = server_state
        self.stage = Stage.SILENT
        self.since = server_state.now  # when the stage began; later by the time that was not the other side's
        self._answering: RequestResponseCycle | None = None
        self._deaf = False
        self._messages = 0
        self._header_bytes = 0  # of the current message, as are the next two
        self._framing_bytes = 0
        self._body_bytes = 0
        self._unread_bytes = 0
        self._unread_seconds = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing has come that is not answered."""
        return self.stage in (Stage.SILENT, Stage.BETWEEN) and self._answering is None

    # ---- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection in, or refuse it."""
        super().connection_made(transport)
        self.traffic.note_open()
        if len(self.connections) > self.traffic.max_connections and not self.traffic.make_room():
            limit = f"{self.traffic.max_connections} connections (HUBEL_MAX_CONNECTIONS)"
            self._refuse(Refused("too_many_connections", 503, f"The server has all of its {limit} in use."))
        else:
            self.traffic.waiting[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everything that works for this connection that it is lost."""
        self._forsake(list(self._unanswered()))
        self.pipeline.clear()
        self.traffic.ending.discard(self)
        self.traffic.waiting.pop(self, None)
        super().connection_lost(exc)
        self.traffic.note_open()

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._deaf:
            return
        messages, body_bytes = self._messages, self._body_bytes
        try:
            self._parse(data)
            if messages == self._messages:  # else the headers were counted one by one
                self._framing_bytes += len(data) - (self._body_bytes - body_bytes)
                self._bound(self._framing_bytes - _CHUNKS_COST * self._body_bytes)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, Refused) else Refused("invalid", 400, "This is not HTTP/1.1."))
        except Refused as error:
            self._refuse(error)

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
        return None

    def _without_upgrade(self) -> bytes:
        """Parse the current request anew, without its wish for another protocol, for which the parser drops a body."""
        version = self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join([self.scope["method"].encode(), b" ", self.url, b" HTTP/", version, b"\r\n", *kept, b"\r\n"])

    def resume_writing(self) -> None:
        """Go on writing: what was written is being read."""
        self._unread_seconds = 0.0
        super().resume_writing()

    # ---- what the parser finds

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope[CALLER] = Caller()  # type: ignore[literal-required]
        self._messages += 1
        self._header_bytes = self._framing_bytes = self._body_bytes = 0
        if self.stage is not Stage.SILENT:  # the first request has its time from the connection's beginning
            self.since = self.traffic.now
        self.stage = Stage.HEAD

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's target in."""
        self._count_headers(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header in; trailers are counted and passed over."""
        self._count_headers(len(name) + len(value) + len(": \r\n"))
        if self.stage is Stage.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer, or queue the request behind those that came before it."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise Refused("too_many_pipelined", 400, "Too many requests that wait for the answers before them.")
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode()
            if self.scope["method"] == "CONNECT":
                raise Refused("invalid", 400, "This is not a proxy.")
            return  # `_without_upgrade` begins it again
        self._take_in_head()
        self.stage, self.since = Stage.BODY, self.traffic.now
        self.traffic.waiting.pop(self, None)
        before, self.cycle = self.cycle, self._make_cycle()
        if self.traffic.stopping or not self.cycle.keep_alive:
            self._make_last(self.cycle)
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _take_in_head(self) -> None:
        """Note what a request asks for."""
        target = httptools.parse_url(self.url)
        path = target.path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = self.parser.get_http_version()
        self.scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        self.scope["raw_path"] = target.path
        self.scope["query_string"] = target.query or b""

    def _make_cycle(self) -> Cycle:
        return Cycle(
            scope=self.scope,
            transport=cast("asyncio.Transport", Answer(self.transport, self.transport.close)),
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self.scope["http_version"] != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )

    def on_body(self, body: bytes) -> None:
        """Take a part of the body in."""
        self._body_bytes += len(body)
        if not self.cycle.response_complete:
            cast("Cycle", self.cycle).take_in(body)

    def on_message_complete(self) -> None:
        """End a request; it may have been answered already."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self.stage = Stage.BETWEEN
        if self._answering is None:
            self._wait()

    def _count_headers(self, count: int) -> None:
        self._header_bytes += count
        self._bound(self._header_bytes)

    def _bound(self, found: int) -> None:
        if found > self.traffic.max_header_bytes:
            limit = f"{self.traffic.max_header_bytes} bytes (HUBEL_MAX_HEADER_BYTES)"
            raise Refused("headers_too_large", 431, f"The request's headers have more than {limit}.")

    # ---- answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        self.server_state.total_requests += 1
        if self._answering is not None:
            cast("Answer", self._answering.transport).flush()
        self._answering = None
        if self.transport.is_closing() or self in self.traffic.ending:
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._wait()

    def _wait(self) -> None:
        """Wait for a request, or for the rest of one that was answered before it had come as a whole."""
        if self.stage is not Stage.HEAD:
            self.since = self.traffic.now
        self.traffic.waiting[self] = None

    def make_last(self) -> None:
        """Let the connection end with the answer to what has come so far."""
        if self.cycle is not None and not self.cycle.response_started:
            self._make_last(self.cycle)

    def _make_last(self, cycle: RequestResponseCycle) -> None:
        cycle.keep_alive = False
        cycle.transport = cast("asyncio.Transport", Answer(self.transport, self.close_after_answer))

    def close_after_answer(self) -> None:
        """End with the answer that is written; a body that is still on its way is let come, and passed over."""
        if self.stage is Stage.BODY:
            self.end(lingers=True)
        else:
            self.transport.close()

    def abandon(self) -> None:
        """End at once, whatever is not answered."""
        self._forsake(list(self._unanswered()))
        self.transport.abort()

    def _unanswered(self) -> Iterator[RequestResponseCycle]:
        if self._answering is not None:
            yield self._answering
        yield from (cycle for cycle, _ in self.pipeline)

    def _forsake(self, cycles: list[RequestResponseCycle]) -> None:
        for cycle in cycles:
            cycle.disconnected = True
            cycle.message_event.set()
            caller_of(cycle.scope).leave()  # type: ignore[arg-type]

    # ---- time and ends

    def check(self, step: float) -> None:
        """See whether the other side has had its time, of which `step` seconds have passed since the last look."""
        traffic, waited = self.traffic, self.traffic.now - self.since
        if self._is_unread(step):
            traffic.count("answer_not_read")
            self.abandon()
        elif self in traffic.ending:
            if self.transport.get_write_buffer_size():
                self.since = traffic.now
            elif waited > LAST_WORD_SECONDS:
                self.transport.abort()
        elif self.transport.is_closing():  # once what is written is read
            return
        elif self.flow.read_paused and self._has(select.POLLRDHUP):
            self.abandon()
        elif self._deaf:  # until the answers before the refusal are out
            return
        elif self.flow.read_paused or (self.cycle is not None and self.cycle.waiting_for_100_continue):
            self.since += step
        elif self.idle and (traffic.draining or self.stage is Stage.BETWEEN):
            allowed_seconds = FAREWELL_SECONDS if traffic.draining else traffic.keep_alive_seconds
            if waited > allowed_seconds and not self._has(select.POLLIN):  # a request that the loop has not read yet
                self.end()
        elif self.stage is Stage.BODY and waited > self._body_seconds():
            allowed = "the time that HUBEL_BODY_TIMEOUT_MS and HUBEL_MIN_BODY_BYTES_PER_SECOND allow"
            self._refuse(Refused("body_too_slow", 408, f"The request's body did not arrive in {allowed}."))
        elif self.stage in (Stage.SILENT, Stage.HEAD) and waited > traffic.header_seconds:
            allowed = f"{round(traffic.header_seconds * 1000)} ms (HUBEL_HEADER_TIMEOUT_MS)"
            self._refuse(Refused("headers_too_slow", 408, f"The request's headers did not arrive in {allowed}."))

    def _has(self, events: int) -> bool:
        """Ask the system what the loop does not tell (yet): whether there is something to read, or nobody any more."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket"), events)
        return bool(poll.poll(0))

    def _body_seconds(self) -> float:
        earned = 0 if self.cycle.response_complete else self._body_bytes / self.traffic.bytes_per_second
        return self.traffic.body_seconds + earned

    def _is_unread(self, step: float) -> bool:
        """Whether nothing can be written because the other side has not read for too long."""
        done = self._answering is None or self.transport.is_closing()
        unread = self.transport.get_write_buffer_size() if done or self.flow.write_paused else 0
        if not unread or not self._unread_seconds:
            self._unread_bytes = unread
        self._unread_seconds = self._unread_seconds + step if unread else 0.0
        return self._unread_seconds > self.traffic.body_seconds + self._unread_bytes / self.traffic.bytes_per_second

    def _refuse(self, refused: Refused) -> None:
        """Read no more, and end with the reason; not before the answers to earlier requests."""
        self.traffic.count(refused.reason)
        _log.debug("a connection is refused: %s", refused.reason)
        self._deaf = True
        own = self.cycle if self.stage is Stage.BODY else None
        if self._answering is None or self._answering is own:
            if self._answering is None or not self._answering.response_started:
                silent = own is not None and own.response_complete
                self.end(b"" if silent else self._plain(refused), lingers=not silent)
            else:
                self.abandon()
            return
        if own is not None:
            self._forsake([self.pipeline.popleft()[0]])
        self.cycle = self.pipeline[0][0] if self.pipeline else self._answering
        self._make_last(self.cycle)

    def end(self, answer: bytes = b"", *, lingers: bool = False) -> None:
        """Say a last word and close; where it `lingers`, when the other side has read it or has had the time to."""
        self._deaf = True
        self._forsake(list(self._unanswered()))
        self.connections.discard(self)
        self.traffic.note_open()
        self.traffic.waiting.pop(self, None)
        self.since = self.traffic.now
        lingers = lingers and self.transport.can_write_eof() and len(self.traffic.ending) < MAX_LAST_WORDS
        self.traffic.ending.add(self)
        if self.transport.is_closing():
            return
        self.transport.write(answer)
        if lingers:  # what is still on its way would reset a closed connection, and the answer with it
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    def _plain(self, refused: Refused) -> bytes:
        text = f"{refused}\n".encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(text)).encode()),
            (b"connection", b"close"),
        ]
        if refused.status == 503:  # noqa: PLR2004
            headers.append((b"retry-after", b"1"))
        return b"".join([STATUS_LINE[refused.status], *(b"%b: %b\r\n" % pair for pair in headers), b"\r\n", text])

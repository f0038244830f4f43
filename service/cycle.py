"""A request and its answer as the application sees them: uvicorn's cycle, which copies and writes less.

A piece of a body goes on as it came. The head of an answer is checked and written at one go, and sent in one piece with
what follows it.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Cycle(RequestResponseCycle):
    """uvicorn's, but for the pieces of a body, each of which it copies twice, and an answer's headers.

    What it does with either takes as long as all else that HTTP takes.
    """

    def __init__(self, **parts: Any) -> None:
        """Begin, with what uvicorn's has."""
        super().__init__(**parts)
        self._unread: list[bytes] = []
        self._unread_bytes = 0

    def take_in(self, piece: bytes) -> None:
        """Keep a piece of the body for the application; while much is unread, no more is read."""
        self._unread.append(piece)
        self._unread_bytes += len(piece)
        if self._unread_bytes > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        """Return what has come of the body since the last time, or that the caller has left."""
        message = await super().receive()
        if message["type"] == "http.request":
            unread, self._unread, self._unread_bytes = self._unread, [], 0
            message["body"] = unread[0] if len(unread) == 1 else b"".join(unread)
        return message

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the answer."""
        usual = not (self.response_started or self.disconnected or self.flow.write_paused)
        if usual and message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
        else:
            await super().send(message)

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Write the head of the answer.

        Raises:
            RuntimeError: a header is none.
        """
        lines = [*self.default_headers, *headers]
        names, values = zip(*lines, strict=True)
        if HEADER_RE.search(b"".join(names)) or HEADER_VALUE_RE.search(b"".join(values)):
            raise RuntimeError("a header of the answer has characters that headers do not have")
        told = dict(zip(map(bytes.lower, names), values, strict=True))
        if b"close" in map(bytes.strip, told.get(b"connection", b"").lower().split(b",")):
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append((b"connection", b"close"))
        if told.get(b"transfer-encoding", b"").lower() == b"chunked":
            self.chunked_encoding = True
        elif (length := told.get(b"content-length")) is not None:
            self.chunked_encoding, self.expected_content_length = False, int(length)
        elif self.scope["method"] != "HEAD" and status not in (204, 304):
            self.chunked_encoding = True
            lines.append((b"transfer-encoding", b"chunked"))
        self.response_started, self.waiting_for_100_continue = True, False
        self.transport.write(b"".join([STATUS_LINE[status], *[b"%b: %b\r\n" % line for line in lines], b"\r\n"]))


class Answer:
    """What a request has for a transport: the head of an answer waits for what follows, and goes with it.

    The transport sends whatever it is given at once: in two pieces, an answer costs sender and reader twice as much.
    """

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        """Begin; `end` is called to close the connection behind the answer."""
        self.is_closing = transport.is_closing
        self._transport = transport
        self._end = end
        self._head: bytes | None = None
        self._has_head_out = False

    def write(self, data: bytes) -> None:
        """Send a piece of the answer, or keep it if it is the head."""
        if self._has_head_out or data == _CONTINUE:
            self._transport.write(data)
        elif self._head is None:
            self._head = data
        else:
            self._transport.writelines((self._head, data))
            self._has_head_out = True

    def flush(self) -> None:
        """Send the head, if nothing follows it."""
        if self._head is not None and not self._has_head_out:
            self._transport.write(self._head)
            self._has_head_out = True

    def close(self) -> None:
        """End the connection behind the answer."""
        self.flush()
        self._end()

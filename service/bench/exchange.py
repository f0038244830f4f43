"""HTTP/1.1 from the asking side: kept connections with one request at a time, as cheap as Python allows.

For load tests: a request costs a tenth of what it costs over httpx. Everybody else asks with `service/client.py`.
Knows no route and no model.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar, cast
from urllib.parse import urlsplit

import httptools

C = TypeVar("C", bound="Connection")

_CLOSED = b"closed without an answer"


@dataclass
class Answer:
    """What became of a request.

    Attributes:
        status: of the answer; 0 where there is none.
        body: of the answer; where there is none, why.
        server_timing: the value of that header.
    """

    status: int = 0
    body: bytes = b""
    server_timing: str = ""


@dataclass(frozen=True)
class Address:
    """Where requests go: the parts of an address that a connection and a request's first lines need."""

    host: str
    port: int
    tls: bool
    authority: str
    path: str

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Take an address apart, as http://127.0.0.1:8000/v1/predict?top_k=1.

        Raises:
            ValueError: it is not an address of HTTP.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
            raise ValueError(f"{url} is not an address as http://127.0.0.1:8000")
        tls = parts.scheme == "https"
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        authority = parts.netloc.rpartition("@")[2]
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, authority, path)

    def head(self, length: int, headers: Mapping[str, str] | None = None) -> bytes:
        """Return a POST without its body of `length` bytes.

        Raises:
            ValueError: a header's value has characters that it cannot have.
        """
        lines = {"Host": self.authority, **(headers or {}), "Content-Length": str(length)}
        for name, value in lines.items():
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"the header {name} would have characters that it cannot have")
        fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {self.path} HTTP/1.1\r\n{fields}\r\n".encode()

    async def connect(self, make: Callable[[], C]) -> C:
        """Open a connection.

        Raises:
            OSError: there is nobody, or its certificate is not to be trusted.
        """
        trust = _trust() if self.tls else None
        _, connection = await asyncio.get_running_loop().create_connection(make, self.host, self.port, ssl=trust)
        return connection


@cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def head_of(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a POST to an address without its body."""
    return Address.parse(url).head(len(body), headers)


class Connection(asyncio.Protocol):
    """A kept connection: one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer = Answer()
        self._body: list[bytes] = []
        self._on_end: Callable[[Answer], None] | None = None
        self._last_word: Answer | None = None  # what came without a request, or why nothing will
        self._watch: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether the next request may be sent over it."""
        open_ = self._transport is not None and not self._transport.is_closing()
        return open_ and self._last_word is None and self._on_end is None

    def send(self, request: bytes, patience: float, on_end: Callable[[Answer], None]) -> None:
        """Send a request; none is under way.

        Args:
            request: all of it.
            patience: how long an answer is waited for, in seconds.
            on_end: is told what became of it, once.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None or self._last_word is not None:
            loop.call_soon(on_end, self._last_word or Answer(body=_CLOSED))
            return
        self._on_end = on_end
        self._watch = loop.call_later(patience, self._give_up, patience)
        self._transport.write(request)

    async def ask(self, request: bytes, patience: float) -> Answer:
        """Send a request as `send` does, and wait for what becomes of it."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def end(ended: Answer) -> None:
            if not answer.done():  # nobody waits any more
                answer.set_result(ended)

        self.send(request, patience, end)
        return await answer

    def close(self) -> None:
        """Close it, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it in."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no such class

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._transport = None
        self._end(Answer(body=str(exc).encode() if exc else _CLOSED))

    def _give_up(self, patience: float) -> None:
        self._break(f"no answer within {patience:g} s")

    def _break(self, why: str) -> None:
        self._end(Answer(body=why.encode()))
        self.close()

    def _end(self, answer: Answer) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is None:
            self._last_word = self._last_word or answer
        else:
            assert self._watch is not None
            self._watch.cancel()
            on_end(answer)

    # ---- the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the one header that is of interest."""
        if name.lower() == b"server-timing":
            self._answer.server_timing = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the answer over, and close what the other side will close."""
        if self._transport is not None and (self._on_end is None or not self._parser.should_keep_alive()):
            self._transport.close()
        answer, self._answer = self._answer, Answer()
        answer.status, answer.body = self._parser.get_status_code(), b"".join(self._body)
        self._body.clear()
        self._end(answer)

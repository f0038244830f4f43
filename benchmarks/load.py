"""Clients that keep asking: raw HTTP over kept connections, cheap enough to share two cores with the service.

Every answer is kept, so that whoever asks for the load can check all of them afterwards.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

_LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Sample:
    """One answer: when it was asked for (monotonic seconds), how long it took, its status (0: none) and body.

    `kind` tells which of several requests it was.
    """

    asked: float
    seconds: float
    status: int
    body: bytes
    kind: int = 0


def ask_for(url: str, image: bytes, *, clients: int, seconds: float) -> list[Sample]:
    """Let `clients` ask for predictions without a pause, for `seconds`; return every answer."""
    until = time.monotonic() + seconds
    return asyncio.run(_ask_together([Requests(url, image, until=until) for _ in range(clients)]))


def ask_at(url: str, image: bytes, *, clients: int, per_second: float, seconds: float) -> list[Sample]:
    """Ask at a fixed rate, divided over `clients`; seconds are counted from when a request was due."""
    until, pause = time.monotonic() + seconds, clients / per_second
    return asyncio.run(
        _ask_together([Requests(url, image, until=until, pause=pause, phase=n / per_second) for n in range(clients)])
    )


@dataclass(frozen=True)
class Requests:
    """What one client asks: as fast as it is answered, or one request every `pause` seconds."""

    url: str
    image: bytes
    until: float
    pause: float = 0.0
    phase: float = 0.0
    headers: Mapping[str, str] | None = None

    @property
    def head(self) -> bytes:
        """The request without its body."""
        return head_of(self.url, self.image, self.headers)


def head_of(url: str, image: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request to predict without its body."""
    parts = urlsplit(url)
    extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return (f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{extra}Content-Length: {len(image)}\r\n\r\n").encode()


def percentile(seconds: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of the values do not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def _ask_together(all_requests: Sequence[Requests]) -> list[Sample]:
    return [sample for samples in await asyncio.gather(*map(_ask, all_requests)) for sample in samples]


async def _ask(requests: Requests) -> list[Sample]:
    parts = urlsplit(requests.url)
    head, samples = requests.head, []
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    due = time.monotonic() + requests.phase
    while due < requests.until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        started = due if requests.pause else time.monotonic()
        try:
            writer.write(head + requests.image)
            status, body, last = await asyncio.wait_for(_read(reader), _LONGEST_WAIT_SECONDS)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            status, body, last = 0, b"", True
        samples.append(Sample(started, time.monotonic() - started, status, body))
        if last:
            writer.close()
            try:
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            except ConnectionError:  # the service has ended: there is nobody to ask
                break
        due = due + requests.pause if requests.pause else time.monotonic()
    writer.close()
    return samples


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    body = await reader.readexactly(length)
    return int(head.split(b" ", 2)[1]), body, b"\r\nconnection: close\r\n" in head

"""Clients that keep asking: raw HTTP over kept connections, cheap enough to share two cores with the service.

Every answer is kept, so that whoever asks for the load can check all of them afterwards.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.bench.exchange import Address, Connection, head_of

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


async def _ask_together(all_requests: Sequence[Requests]) -> list[Sample]:
    return [sample for samples in await asyncio.gather(*map(_ask, all_requests)) for sample in samples]


async def _ask(requests: Requests) -> list[Sample]:
    address = Address.parse(requests.url)
    request, samples = requests.head + requests.image, []
    connection = await address.connect(Connection)
    due = time.monotonic() + requests.phase
    while due < requests.until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        started = due if requests.pause else time.monotonic()
        if not connection.usable:
            try:
                connection = await address.connect(Connection)
            except ConnectionError:  # the service has ended: there is nobody to ask
                break
        answer = await connection.ask(request, _LONGEST_WAIT_SECONDS)
        samples.append(Sample(started, time.monotonic() - started, answer.status, answer.body))
        due = due + requests.pause if requests.pause else time.monotonic()
    connection.close()
    return samples

"""A load test: clients that ask, wait for the answer, and ask again, and what they have seen.

Each holds one kept connection. They slow down with the service, as clients who wait do: what arrives at a rate of
its own is another test. Knows no model; a request is bytes.
"""

import asyncio
import itertools
import re
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import uvloop

from service.bench.exchange import Address, Answer, Connection

OK = range(200, 300)
ELSEWHERE = range(300, 400)
REST = "rest"  # of a request's time, beside the stages that the service tells
_PAUSE_SECONDS = 0.1  # before a connection that was not taken is tried again
_TIMING = re.compile(r"([\w-]+);dur=([\d.]+)")


@dataclass(frozen=True)
class Trial:
    """What is to be tried.

    Attributes:
        address: of the service.
        requests: whole requests, sent in turns.
        connections: clients at once.
        seconds: for how long new requests are sent.
        most_requests: after how many no other is sent; None for no such end.
        patience: how long an answer is waited for, in seconds.
    """

    address: Address
    requests: Sequence[bytes]
    connections: int
    seconds: float
    most_requests: int | None = None
    patience: float = 60.0


@dataclass
class Outcome:
    """What became of it.

    Attributes:
        seconds: in which requests were sent.
        latencies: seconds of the requests that were answered with 2xx.
        ends: when they were, in seconds since the beginning, in the same order.
        stages: seconds that the service says each stage took, in the same order, and the rest of the latency.
        statuses: all requests by status; 0 is no answer.
        failures: the first body with each status that is not 2xx; for 0, why there was no answer.
        cpu_seconds: of this process, meanwhile.
    """

    seconds: float = 0.0
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    ends: "array[float]" = field(default_factory=lambda: array("d"))
    stages: dict[str, "array[float]"] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[int, bytes] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Requests that were answered with 2xx in a second; answers after the end do not count."""
        return sum(end <= self.seconds for end in self.ends) / self.seconds

    @property
    def failed(self) -> int:
        """Requests that were not answered with 2xx."""
        return sum(count for status, count in self.statuses.items() if status not in OK)


def run(trial: Trial) -> Outcome:
    """Try, and wait for the last answer."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Clients(trial).run())


def ask_once(address: Address, request: bytes, patience: float) -> Answer:
    """Ask once, and wait `patience` seconds for a connection and for the answer."""

    async def ask() -> Answer:
        connection = await _connect(address, patience)
        if isinstance(connection, Answer):
            return connection
        try:
            return await connection.ask(request, patience)
        finally:
            connection.close()

    return asyncio.run(ask())


def read_timing(value: str) -> dict[str, float]:
    """Return the stages of a Server-Timing header in seconds. Source: W3C, Server Timing."""
    return {stage: float(milliseconds) / 1000 for stage, milliseconds in _TIMING.findall(value)}


class _Clients:
    """One trial under way."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._outcome = Outcome()
        self._numbers = itertools.count()
        self._started = 0.0

    async def run(self) -> Outcome:
        connections = await asyncio.gather(*(self._connect() for _ in range(self._trial.connections)))
        self._started, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*map(self._keep_asking, connections))
        elapsed = time.perf_counter() - self._started
        self._outcome.cpu_seconds = time.process_time() - used
        self._outcome.seconds = min(elapsed, self._trial.seconds)
        return self._outcome

    def _next(self) -> bytes | None:
        number = next(self._numbers)
        if time.perf_counter() > self._started + self._trial.seconds:
            return None
        if self._trial.most_requests is not None and number >= self._trial.most_requests:
            return None
        return self._trial.requests[number % len(self._trial.requests)]

    async def _keep_asking(self, connection: Connection | Answer) -> None:
        while (request := self._next()) is not None:
            began = time.perf_counter()
            if not isinstance(connection, Connection) or not connection.usable:
                connection = await self._connect()
            if isinstance(connection, Connection):
                self._note(began, await connection.ask(request, self._trial.patience))
            else:
                self._note(began, connection)
                await asyncio.sleep(_PAUSE_SECONDS)
        if isinstance(connection, Connection):
            connection.close()

    async def _connect(self) -> Connection | Answer:
        return await _connect(self._trial.address, self._trial.patience)

    def _note(self, began: float, answer: Answer) -> None:
        ended, outcome = time.perf_counter(), self._outcome
        outcome.statuses[answer.status] += 1
        if answer.status not in OK:
            outcome.failures.setdefault(answer.status, answer.body)
            return
        outcome.latencies.append(ended - began)
        outcome.ends.append(ended - self._started)
        if stages := read_timing(answer.server_timing):
            for stage, seconds in {**stages, REST: ended - began - sum(stages.values())}.items():
                outcome.stages.setdefault(stage, array("d")).append(seconds)


async def _connect(address: Address, patience: float) -> Connection | Answer:
    """Open a connection, or return why there is none."""
    try:
        return await asyncio.wait_for(address.connect(Connection), patience)
    except OSError as error:
        return Answer(body=(str(error) or f"no connection within {patience:g} s").encode())

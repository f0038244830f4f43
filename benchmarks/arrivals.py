"""Requests that arrive at a rate of their own, whether or not earlier ones are answered.

Clients who wait for their answers slow down with the service, and so hide how it fares under more than it can do.
Here nobody waits: a request is sent when it is due, over a kept connection that is free or over a new one, and its
time is counted from when it was due. All bytes are made before; a process of its own sends them.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from benchmarks.load import Sample, ask_for
from service.bench.exchange import Address, Answer, Connection

P = ParamSpec("P")
R = TypeVar("R")

_MOST_CONNECTIONS = 4000
_KEPT_SECONDS = 2.0  # a connection that was idle for longer may be about to be closed by the service
_TICK_SECONDS = 0.001


@dataclass(frozen=True)
class Plan:
    """What is to arrive.

    Attributes:
        port: of the service, on loopback.
        requests: whole requests; one is drawn for each arrival.
        per_second: arrivals.
        seconds: for how long.
        weights: how often each of the requests is drawn; alike by default.
        poisson: whether arrivals come by chance, or evenly.
        patience: how long an answer is waited for, in seconds.
        keep_bodies: whether bodies are to be looked at afterwards.
        seed: of the chance.
    """

    port: int
    requests: Sequence[bytes]
    per_second: float
    seconds: float
    weights: Sequence[float] | None = None
    poisson: bool = True
    patience: float = 30.0
    keep_bodies: bool = False
    seed: int = 0


@dataclass
class Course:
    """What became of it: every request's end, and what sending them took.

    Attributes:
        samples: every request; where the connection broke or nothing came in time, with status 0 and why as body.
        cpu_share: of one core, that the sender used.
        lag_p99: seconds by which the sender was late, at the 99th percentile.
        connections: that were open at once, at the most.
    """

    samples: list[Sample] = field(default_factory=list)
    cpu_share: float = 0.0
    lag_p99: float = 0.0
    connections: int = 0


class Sender:
    """A process that does one thing at a time, so that what it costs is not the measuring program's."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def __enter__(self) -> "Sender":
        self._pool.submit(os.getpid).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def send(self, plan: Plan) -> "Future[Course]":
        """Begin, and return what it comes to."""
        return self.run(_send, plan)

    def ask(self, url: str, image: bytes, *, clients: int, seconds: float) -> list[Sample]:
        """Let clients ask who wait for their answers, as `ask_for` does."""
        return self.run(ask_for, url, image, clients=clients, seconds=seconds).result()

    def run(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> "Future[R]":
        """Begin something else there."""
        return self._pool.submit(function, *arguments, **named)


def _send(plan: Plan) -> Course:
    return asyncio.run(_Sending(plan).run())


class _Sending:
    """One plan under way."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.course = Course()
        self.free: list[_Connection] = []
        self.open: set[_Connection] = set()
        self._lags: list[float] = []
        self._unanswered = 0
        self._answered = asyncio.Event()

    async def run(self) -> Course:
        loop, plan = asyncio.get_running_loop(), self.plan
        chance = random.Random(plan.seed)
        kinds = range(len(plan.requests))
        started, used = time.monotonic(), time.process_time()
        due, pending = started, set[asyncio.Task[None]]()
        while due < started + plan.seconds:
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(max(ahead, _TICK_SECONDS))
                continue
            (kind,) = chance.choices(kinds, plan.weights)
            if not self._send_over_free(kind, due):
                task = loop.create_task(self._send_over_new(kind, due))
                pending.add(task)
                task.add_done_callback(pending.discard)
            self._lags.append(time.monotonic() - due)
            due += chance.expovariate(plan.per_second) if plan.poisson else 1 / plan.per_second
            if len(self._lags) % 64 == 0:
                await asyncio.sleep(0)  # answers come in meanwhile
        self.course.cpu_share = (time.process_time() - used) / (time.monotonic() - started)
        await asyncio.gather(*pending)
        while self._unanswered:
            self._answered.clear()
            await self._answered.wait()
        for connection in list(self.open):
            connection.close()
        self.course.lag_p99 = sorted(self._lags)[int(len(self._lags) * 0.99)]
        return self.course

    def _note(self, kind: int, due: float, answer: Answer) -> None:
        """Take in how a request has ended."""
        kept = answer.body if self.plan.keep_bodies or not answer.status else b""
        self.course.samples.append(Sample(due, time.monotonic() - due, answer.status, kept, kind))

    def _send_over_free(self, kind: int, due: float) -> bool:
        fresh = time.monotonic() - _KEPT_SECONDS
        while self.free:
            connection = self.free.pop()  # the one that was used last: others close when there is less to do
            if connection.free_since > fresh and connection.usable:
                self._send(connection, kind, due)
                return True
            connection.close()
        return False

    async def _send_over_new(self, kind: int, due: float) -> None:
        if len(self.open) >= _MOST_CONNECTIONS:
            self._note(kind, due, Answer(body=b"too many connections"))
            return
        try:
            connection = await Address.parse(f"http://127.0.0.1:{self.plan.port}").connect(lambda: _Connection(self))
        except OSError as error:
            self._note(kind, due, Answer(body=str(error).encode()))
            return
        self._send(connection, kind, due)

    def _send(self, connection: "_Connection", kind: int, due: float) -> None:
        def end(answer: Answer) -> None:
            self._note(kind, due, answer)
            self._unanswered -= 1
            self._answered.set()
            if connection.usable:
                connection.free_since = time.monotonic()
                self.free.append(connection)

        self._unanswered += 1
        connection.send(self.plan.requests[kind], self.plan.patience, end)


class _Connection(Connection):
    """A kept connection that is counted while it is open."""

    def __init__(self, sending: _Sending) -> None:
        super().__init__()
        self.free_since = 0.0
        self._sending = sending

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._sending.open.add(self)
        self._sending.course.connections = max(self._sending.course.connections, len(self._sending.open))

    def connection_lost(self, exc: Exception | None) -> None:
        self._sending.open.discard(self)
        super().connection_lost(exc)

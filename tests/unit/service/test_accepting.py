"""How workers share the connections that come."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest

from service.accepting import Acceptor

pytestmark = pytest.mark.anyio


class Worker:
    """Somebody who listens, and keeps what it took."""

    def __init__(self, listener: socket.socket, has_its_share: Callable[["Worker"], bool]) -> None:
        self.taken: list[socket.socket] = []
        self.acceptor = Acceptor(listener, self.take_in, lambda: has_its_share(self))

    async def take_in(self, connection: socket.socket) -> None:
        self.taken.append(connection)

    def close(self) -> None:
        self.acceptor.close()
        for connection in self.taken:
            connection.close()


@pytest.fixture
def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname(), timeout=5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("count", [2, 8, 40])
async def test_each_worker_takes_its_share(count: int, listener: socket.socket) -> None:
    workers: list[Worker] = []

    def has_its_share(worker: Worker) -> bool:
        return len(worker.taken) * len(workers) > sum(len(each.taken) for each in workers)

    with ExitStack() as opened:
        opened.enter_context(listener)
        workers += [opened.enter_context(closing(Worker(listener, has_its_share))) for _ in range(2)]
        for _ in range(count):
            opened.enter_context(connect(listener))
        await until(lambda: sum(len(each.taken) for each in workers) == count)
        assert max(len(each.taken) for each in workers) <= count / 2 + 1


async def test_what_nobody_else_takes_is_taken_by_who_has_its_share(listener: socket.socket) -> None:
    with listener, closing(Worker(listener, lambda _: True)) as worker, connect(listener), connect(listener):
        await until(lambda: len(worker.taken) == 2)


async def test_who_has_closed_takes_nothing(listener: socket.socket) -> None:
    with (
        listener,
        closing(Worker(listener, lambda _: True)) as first,
        closing(Worker(listener, lambda _: False)) as last,
    ):
        first.acceptor.close()
        with connect(listener):
            await until(lambda: len(last.taken) == 1)
        assert first.taken == []
        await asyncio.sleep(0.05)  # longer than a connection is left to others


async def test_want_of_descriptors_is_told_and_passes(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        """A socket on which the first attempts fail."""

        attempts = 0

        def __init__(self, own: socket.socket) -> None:
            self.own = own

        def accept(self) -> object:
            Full.attempts += 1
            if Full.attempts == 1:
                raise OSError(24, "Too many open files")
            return self.own.accept()

        def fileno(self) -> int:
            return self.own.fileno()

        def close(self) -> None:
            self.own.close()

    monkeypatch.setattr("service.accepting._RETRY_SECONDS", 0.05)
    with listener, closing(Worker(listener, lambda _: False)) as worker:
        monkeypatch.setattr(worker.acceptor, "_listener", Full(worker.acceptor._listener))
        with connect(listener):
            await until(lambda: len(worker.taken) == 1)
    assert "Too many open files" in caplog.text

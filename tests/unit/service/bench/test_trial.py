"""Clients of a load test against servers that answer, refuse, hang, or speak another language."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress

import pytest

from service.bench.exchange import Address, head_of
from service.bench.trial import REST, Outcome, Trial, ask_once, read_timing, run

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LIMIT_SECONDS = 20.0


@contextmanager
def served(handle: Handler) -> Iterator[str]:
    """Run a server of a few lines on a free port, in a thread of its own."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def handle_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handle(reader, writer)
        writer.close()

    async def serve() -> None:
        over = asyncio.Event()
        async with await asyncio.start_server(handle_and_close, "127.0.0.1", 0) as server:
            started.set_result((asyncio.get_running_loop(), over, server.sockets[0].getsockname()[1]))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, over, port = started.result(LIMIT_SECONDS)
    yield f"http://127.0.0.1:{port}/v1/predict?top_k=1"
    loop.call_soon_threadsafe(over.set)
    thread.join()


def answering(*answers: bytes) -> Handler:
    """Answer each request of a connection with the next of these; then close it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split()[0]))
            writer.write(answer)
            await writer.drain()

    return handle


def answer(status: int, body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Some", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def try_it(url: str, **settings: float) -> Outcome:
    address = Address.parse(url)
    requests = [address.head(4) + b"body"]
    told = {"connections": 2, "seconds": LIMIT_SECONDS, "most_requests": 6, "patience": LIMIT_SECONDS, **settings}
    return run(Trial(address, requests, **told))  # type: ignore[arg-type]


def test_every_request_is_counted_once_also_over_new_connections() -> None:
    with served(answering(answer(200), answer(503, b"full", "Connection: close"))) as url:
        outcome = try_it(url)
    assert outcome.statuses.total() == 6
    assert set(outcome.statuses) == {200, 503}
    assert (len(outcome.latencies), outcome.failed) == (outcome.statuses[200], outcome.statuses[503])
    assert outcome.failures == {503: b"full"}


def test_stages_and_the_rest_make_up_the_latency() -> None:
    timing = "server-timing: decode;dur=1.500, inference;dur=0.25"
    with served(answering(*[answer(200, b"{}", timing)] * 6)) as url:
        outcome = try_it(url, connections=1)
    assert set(outcome.stages) == {"decode", "inference", REST}
    assert outcome.stages["decode"][0] == 0.0015
    sums = [sum(parts) for parts in zip(*outcome.stages.values(), strict=True)]
    assert sums == pytest.approx(list(outcome.latencies))


def test_no_request_begins_after_the_time() -> None:
    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            await asyncio.sleep(0.02)
            writer.write(answer(200))

    with served(slowly) as url:
        outcome = try_it(url, seconds=0.1, most_requests=10_000)
    assert outcome.seconds == 0.1
    assert all(end - latency <= 0.1 for end, latency in zip(outcome.ends, outcome.latencies, strict=True))
    assert outcome.per_second == pytest.approx(sum(end <= 0.1 for end in outcome.ends) / 0.1)


def test_what_does_not_answer_is_told_from_what_breaks() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)

    async def strange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail at your service\r\n")
        await reader.read()

    with served(silent) as url:
        assert try_it(url, patience=0.05, most_requests=2).failures == {0: b"no answer within 0.05 s"}
    with served(deaf) as url:
        assert try_it(url, most_requests=2).failures == {0: b"closed without an answer"}
    with served(strange) as url:
        (why,) = try_it(url, most_requests=2).failures.values()
        assert why.startswith(b"not HTTP")
    ended = try_it(url, most_requests=3)
    assert (ended.statuses, b"refused" in ended.failures[0] or b"failed" in ended.failures[0]) == ({0: 3}, True)


def test_an_answer_that_comes_before_the_request_is_its_answer() -> None:
    async def full(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(503, b"no place", "Connection: close"))

    with served(full) as url:
        found = ask_once(Address.parse(url), head_of(url, b""), LIMIT_SECONDS)
    assert (found.status, found.body) == (503, b"no place")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:99999", "http://host/\r\nX: y"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Address.parse(url)


def test_an_address_is_taken_apart() -> None:
    assert Address.parse("https://me:secret@[::1]/a?b=c") == Address("::1", 443, True, "[::1]", "/a?b=c")
    with pytest.raises(ValueError, match="X would"):
        Address.parse("http://host").head(3, {"X": "a\r\nY: b"})
    assert Address.parse("http://host:81").head(3) == b"POST / HTTP/1.1\r\nHost: host:81\r\nContent-Length: 3\r\n\r\n"


def test_a_timing_that_is_none_has_no_stages() -> None:
    assert read_timing("") == read_timing("cache, db;desc=x") == {}
    assert read_timing("a;dur=2, b;dur=1.5;desc=x") == {"a": 0.002, "b": 0.0015}

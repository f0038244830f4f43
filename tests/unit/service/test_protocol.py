"""What a connection may take: bytes, time, places; a real server on a loopback port, with times below a second."""

import asyncio
import itertools
import logging
import re
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from service import protocol, server
from service.launch import BACKLOG, listen
from service.protocol import MAX_PIPELINED, Connection, Traffic
from service.server import Server
from service.settings import Settings
from tests.tiny_service import create_app

pytestmark = pytest.mark.anyio
GET = b"GET / HTTP/1.1\r\nHost: hubel\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: hubel\r\n"
MOST_IN_BACKLOG = int(Path("/proc/sys/net/core/somaxconn").read_text())
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # as the workers do


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time be looked at more often than a service needs."""
    for module in (protocol, server):
        monkeypatch.setattr(module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(protocol, "SPARED_SECONDS", 0.1)
    monkeypatch.setattr(protocol, "FAREWELL_SECONDS", 0.2)


class Site:
    """A running tiny service."""

    def __init__(self, app: Starlette, server: Server, port: int) -> None:
        self.app = app
        self.server = server
        self.port = port
        self.clients: list[Client] = []

    async def connect(self, sent: bytes = b"") -> "Client":
        """Connect and send something."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        client.writer.write(sent)
        self.clients.append(client)
        return client

    async def ask(self, sent: bytes) -> bytes:
        """Send something, and read until the server closes."""
        return await (await self.connect(sent)).rest()

    def refused(self, reason: str) -> float:
        """How many connections were refused for a reason."""
        text = self.app.state.metrics.exposition().decode()
        found = re.search(rf'hubel_refused_connections_total{{reason="{reason}"}} (\S+)', text)
        return float(found[1]) if found else 0.0


class Client:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def drip(self, drop: bytes, times: int) -> None:
        """Send a little fifty times a second, while the server listens."""
        for _ in range(times):
            if not self.writer.is_closing():
                self.writer.write(drop)
            await asyncio.sleep(0.02)

    async def answer(self) -> bytes:
        """Read one answer."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head)
            return head + await self.reader.readexactly(int(found[1]) if found else 0)

    async def rest(self) -> bytes:
        """Read until the server closes, or resets what it was sent for nothing."""
        got = b""
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                while more := await self.reader.read(2**16):
                    got += more
        self.writer.close()
        return got


@asynccontextmanager
async def site(**settings: Any) -> AsyncIterator[Site]:
    """Run the tiny service."""
    app = create_app(Settings.model_validate(settings))
    serving = Server(app, app.state.settings, app.state.lifecycle, app.state.metrics)
    (listener,) = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    task = asyncio.create_task(serving.serve([listener]))
    try:
        async with asyncio.timeout(10):
            while not serving.started:
                await asyncio.sleep(0.005)
        service = Site(app, serving, port)
        yield service
    finally:
        for client in service.clients:
            client.writer.close()
        serving.stop()
        await task


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nCookie: " + b"x" * 3_000_000,
        b"GET / HTTP/1.1\r\nCookie: " + b"x" * 3000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: x\r\n" % n for n in range(300)) + b"\r\n",
        b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\n\r\n",
        b"\r\n" * 200_000,
    ],
    ids=["endless", "one", "many", "target", "empty lines"],
)
async def test_headers_beyond_the_limit_are_refused_by_its_name(head: bytes) -> None:
    async with site(max_header_bytes=2048) as service:
        answer = await service.ask(head)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"connection: close" in answer
        assert b"2048 bytes (HUBEL_MAX_HEADER_BYTES)" in answer
        assert service.refused("headers_too_large") == 1
        assert b" 200 OK" in await (await service.connect(GET)).answer()


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HT", b"GET / HTTP/1.1\r\nHost: hub", POST])
async def test_half_a_head_is_given_up_in_time(sent: bytes) -> None:
    async with site(header_timeout_ms=100) as service:
        answer = await service.ask(sent)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"100 ms (HUBEL_HEADER_TIMEOUT_MS)" in answer
        assert service.refused("headers_too_slow") == 1


async def test_a_head_in_drops_has_no_more_time_than_one_at_once() -> None:
    async with site(header_timeout_ms=300) as service:
        client = await service.connect(GET[:5])
        await client.drip(b"x", 40)
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")


async def test_empty_lines_do_not_keep_an_idle_connection_open() -> None:
    async with site(keep_alive_ms=1000) as service:
        client = await service.connect(GET)
        await client.answer()
        await client.drip(b"\r\n", 65)
        assert await client.rest() == b""


@pytest.mark.parametrize(
    "body", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nTrailer: "]
)
async def test_half_a_body_ends_the_request_and_its_handler(body: bytes) -> None:
    async with site(body_timeout_ms=100) as service:
        answer = await service.ask(POST + body)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"HUBEL_BODY_TIMEOUT_MS" in answer
        assert service.app.state.left == ["echo"]
        assert service.refused("body_too_slow") == 1


async def test_a_body_that_moves_may_take_longer_than_one_that_does_not() -> None:
    async with site(body_timeout_ms=100, min_body_bytes_per_second=4000) as service:
        client = await service.connect(POST + b"Content-Length: 3000\r\n\r\n")
        await client.drip(b"x" * 100, 30)
        assert (await client.answer()).endswith(b"3000")


async def test_a_body_that_was_not_asked_for_yet_is_not_late() -> None:
    async with site(body_timeout_ms=100) as service:
        head = b"POST /late HTTP/1.1\r\nHost: hubel\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        client = await service.connect(head)
        assert b"100 Continue" in await client.reader.readuntil(b"\r\n\r\n")
        client.writer.write(b"body")
        assert (await client.answer()).endswith(b"4")


async def test_a_body_that_is_not_read_yet_is_not_late() -> None:
    async with site(body_timeout_ms=100, min_body_bytes_per_second=2**30) as service:
        client = await service.connect(b"POST /late HTTP/1.1\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 9_000_000)
        assert (await client.answer()).endswith(b"9000000")


async def test_trailers_and_what_frames_a_body_count_as_headers() -> None:
    async with site(max_header_bytes=2048, body_timeout_ms=300) as service:
        for body in (
            b"1\r\nx\r\n0\r\n" + b"".join(b"X-%d: x\r\n" % n for n in range(300)) + b"\r\n",
            b"1\r\nx\r\n0\r\nTrailer: " + b"x" * 300_000,
            b"1;" + b"x" * 300_000,
            b"1;" + b"x" * 2000 + b"\r\nx\r\n",
        ):
            answer = await service.ask(CHUNKED + body)
            assert answer.startswith(b"HTTP/1.1 431 ") or body.endswith(b"x\r\n")
        answer = await (await service.connect(CHUNKED + b"1\r\nx\r\n" * 9000 + b"0\r\nA: b\r\n\r\n")).answer()
        assert answer.endswith(b"9000")


async def test_trailers_are_no_headers() -> None:
    seen: list[Any] = []
    async with site() as service:
        app = service.server.config.loaded_app

        async def spy(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)
            seen.append(scope["headers"])

        service.server.config.loaded_app = spy
        await (await service.connect(CHUNKED + b"1\r\nx\r\n0\r\nX-Late: y\r\n\r\n")).answer()
    assert seen == [[(b"host", b"hubel"), (b"transfer-encoding", b"chunked")]]


async def test_beyond_the_most_connections_one_is_refused_unless_another_is_idle() -> None:
    async with site(max_connections=3) as service:
        busy = [await service.connect(b"GET /sleep?seconds=0.3 HTTP/1.1\r\n\r\n") for _ in range(3)]
        await asyncio.sleep(0.1)
        refused = await service.ask(GET)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in refused
        assert b"3 connections (HUBEL_MAX_CONNECTIONS)" in refused
        assert service.refused("too_many_connections") == 1
        for client in busy:
            assert (await client.answer()).endswith(b"awake")
        await asyncio.sleep(0.2)
        assert b" 200 OK" in await (await service.connect(GET)).answer()
        assert service.refused("made_room") == 1
        assert await busy[0].rest() == b""
        busy[1].writer.write(GET)
        assert b" 200 OK" in await busy[1].answer()


async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    async with site(body_timeout_ms=300, min_body_bytes_per_second=2**30) as service:
        client = await service.connect(b"GET /big HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(10):
            while not service.refused("answer_not_read"):
                await asyncio.sleep(0.05)
        assert len(await client.rest()) < 30_000_000
        assert not service.server.traffic.open


async def test_an_answer_that_is_read_slowly_arrives() -> None:
    async with site(body_timeout_ms=300, min_body_bytes_per_second=20_000_000) as service:
        client = await service.connect(b"GET /big HTTP/1.1\r\nConnection: close\r\n\r\n")
        got = 0
        while more := await client.reader.read(2**20):
            got += len(more)
            await asyncio.sleep(0.01)
        client.writer.close()
        assert got > 30_000_000


async def test_who_leaves_ends_what_is_done_for_it_and_what_waits_behind(caplog: pytest.LogCaptureFixture) -> None:
    async with site() as service:
        client = await service.connect(b"GET /sleep?seconds=30 HTTP/1.1\r\n\r\n" * 5)
        await asyncio.sleep(0.1)
        (connection,) = service.server.traffic.open
        behind = [cycle for cycle, _ in connection.pipeline]
        client.writer.close()
        async with asyncio.timeout(5):
            while not service.app.state.left:
                await asyncio.sleep(0.01)
        assert len(behind) == 4
        assert all(cycle.disconnected and cycle.scope["hubel.caller"].left for cycle in behind)  # type: ignore[typeddict-item]
    assert not complaints(caplog)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged that somebody would have to read."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_answer_before_the_body_is_read_reaches_callers_that_close() -> None:
    async with site() as service:
        url = f"http://127.0.0.1:{service.port}/early"
        for size in (1000, 500_000, 5_000_000):
            answers = await asyncio.gather(*(asyncio.to_thread(ask_and_close, url, size) for _ in range(4)))
            assert answers == [413] * 4
        async with asyncio.timeout(10):
            while service.server.traffic.ending:
                await asyncio.sleep(0.02)


def ask_and_close(url: str, size: int) -> int:
    """Ask with a body as urllib does, which announces that the connection is to end; return the status."""
    try:
        status: int = urllib.request.urlopen(url, data=b"x" * size, timeout=10).status
    except urllib.error.HTTPError as error:
        status = error.code
    return status


async def test_a_large_last_answer_is_given_in_full_to_who_reads_slowly() -> None:
    async with site() as service:
        head = b"POST /big HTTP/1.0\r\nContent-Length: 300000\r\n\r\n"
        client = await service.connect(head + b"x" * 300_000)
        got = 0
        async with asyncio.timeout(20):
            while more := await client.reader.read(2**20):
                got += len(more)
                await asyncio.sleep(0.02)
        assert got > 30_000_000


async def test_the_backlog_is_as_long_while_a_process_serves() -> None:
    async with site() as service:
        (acceptor,) = service.server._acceptors
        told = struct.unpack("8B6I", acceptor._listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32))
        assert told[-1] == min(BACKLOG, MOST_IN_BACKLOG)


async def test_requests_in_one_go_are_answered_in_order_up_to_a_number(caplog: pytest.LogCaptureFixture) -> None:
    async with site() as service:
        posts = b"".join(POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size for size in range(1, 6))
        client = await service.connect(posts)
        assert [(await client.answer())[-1:] for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]
        answers = await service.ask(GET * 1000)
        assert answers.count(b" 200 OK") == MAX_PIPELINED + 1
        assert answers.count(b"connection: close") == 1
        assert service.refused("too_many_pipelined") == 1
        half = await service.ask(GET * 3 + b"\x00")
        assert half.count(b" 200 OK") == 3
        assert b" 400 " not in half
    assert not complaints(caplog)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 500,  # TLS
        b"\x00" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_refused_without_a_word_in_the_log(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with site() as service:
        answer = await service.ask(sent)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert service.refused("invalid") == 1
    assert not complaints(caplog)


async def test_a_wish_for_another_protocol_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    async with site() as service:
        upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
        client = await service.connect(GET[:-2] + upgrade + b"\r\n" + GET)
        assert b" 200 OK" in await client.answer()
        assert b" 200 OK" in await client.answer()
        client.writer.write(POST + upgrade + b"Content-Length: 3\r\n\r\nabc")
        assert (await client.answer()).endswith(b"3")
        client.writer.write(GET)
        assert b" 200 OK" in await client.answer()
    assert not complaints(caplog)


async def test_a_body_that_was_answered_early_is_read_for_a_while_and_no_longer() -> None:
    head = b"POST /early HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"
    async with site(body_timeout_ms=400, min_body_bytes_per_second=1) as service:
        client = await service.connect(head)
        assert b" 413 " in await client.answer()
        client.writer.write(b"x" * 1000 + GET)
        assert b" 200 OK" in await client.answer()
        client.writer.write(head)
        await client.answer()
        await client.drip(b"x", 40)
        assert await client.rest() == b""


async def test_a_stop_answers_what_is_on_its_way_and_says_that_it_is_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with site() as service:
        idle, late, busy = await service.connect(GET), await service.connect(GET), await service.connect(GET)
        for client in (idle, late, busy):
            assert b"connection: close" not in await client.answer()
        busy.writer.write(b"GET /sleep?seconds=0.4 HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.05)
        waiting = socket.create_connection(("127.0.0.1", service.port), 5)  # in the backlog: the loop has not seen it
        service.server.stop()
        assert service.app.state.lifecycle.stopping
        waiting.sendall(GET)
        await asyncio.sleep(0.05)
        late.writer.write(GET)
        assert b"connection: close" in await late.answer()
        assert b"connection: close" in await busy.answer()
        assert await idle.rest() == b""
        with waiting:
            assert b" 200 OK" in await asyncio.to_thread(waiting.recv, 4096)
        with pytest.raises(ConnectionRefusedError):
            await service.connect()
    assert not complaints(caplog)


async def test_before_it_stops_a_service_may_go_on_for_a_while() -> None:
    async with site(shutdown_delay_ms=200) as service:
        service.server.stop()
        await asyncio.sleep(0.1)
        answer = await (await service.connect(GET)).answer()
        assert b" 200 OK" in answer
        assert b"connection: close" in answer


async def test_what_cannot_be_answered_in_time_is_left_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async with site(request_timeout_ms=300) as service:
        clients = [await service.connect(b"GET /stubborn HTTP/1.1\r\n\r\n") for _ in range(3)]
        await asyncio.sleep(0.1)
        service.server.stop()
        assert [await client.rest() for client in clients] == [b""] * 3
    assert complaints(caplog) == ["3 requests are left without an answer: their time is over"]


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += b"" if self.closing else data

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def conversation(pieces: list[bytes]) -> bytes:
    """Feed pieces to a connection, and return what it answers."""
    app = create_app(Settings(max_header_bytes=1024))
    serving = Server(app, app.state.settings, app.state.lifecycle, app.state.metrics)
    serving.config.load()
    traffic = Traffic(app.state.settings, app.state.metrics.refused_connections)
    connection, wire = Connection(serving.config, traffic, {}), Wire()
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    connection.connection_made(wire)
    for piece in pieces:
        connection.data_received(piece)
        for _ in range(10):
            await asyncio.sleep(0)
    for _ in range(200):
        await asyncio.sleep(0)
    for _ in range(3):  # past every limit
        traffic.pass_time(0.1)
        traffic.now += 1000
        await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    assert not faults
    return wire.written


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def answered(data: bytes) -> list[bytes]:
    """The statuses of the answers; without a refusal, which is not told while earlier requests wait."""
    return re.findall(rb"HTTP/1.1 (?!400)(\d+)", data)


CONVERSATIONS = [
    GET * 3,
    POST + b"Content-Length: 5\r\n\r\nhello" + GET,
    CHUNKED + b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n" + GET,
    GET + b"nonsense",
    b"POST /early HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody" + GET,
]


@given(st.sampled_from(CONVERSATIONS), st.lists(st.integers(0, 1000), max_size=8))
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_where_bytes_are_cut_does_not_matter(data: bytes, places: list[int]) -> None:
    whole, pieces = (asyncio.run(conversation(parts)) for parts in ([data], cut(data, places)))
    assert answered(pieces) == answered(whole)


@given(st.sampled_from(CONVERSATIONS), st.lists(st.integers(0, 1000), max_size=3), st.binary(max_size=60), st.data())
@hypothesis_settings(max_examples=60, deadline=None)
def test_no_bytes_make_a_connection_fail(data: bytes, places: list[int], junk: bytes, draw: st.DataObject) -> None:
    place = draw.draw(st.integers(0, len(data)))
    asyncio.run(conversation(cut(data[:place] + junk + data[place:], places)))

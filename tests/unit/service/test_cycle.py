"""What is sent and received through our cycle is what goes through uvicorn's."""

import asyncio
import logging
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.cycle import Answer, Cycle


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = self.paused = False

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.sent.append(b"".join(pieces))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def make(kind: type[RequestResponseCycle], wire: Any, method: str = "GET", *, keep_alive: bool = True) -> Any:
    """A cycle that answers on a wire."""
    log = logging.getLogger(__name__)
    answer = Answer(wire, wire.close)
    parts: dict[str, Any] = {
        "scope": {"type": "http", "method": method},
        "transport": answer if kind is Cycle else wire,
        "flow": FlowControl(wire),
        "logger": log,
        "access_logger": log,
        "access_log": False,
        "default_headers": [(b"date", b"today")],
        "message_event": asyncio.Event(),
        "expect_100_continue": False,
        "keep_alive": keep_alive,
        "on_response": answer.flush if kind is Cycle else lambda: None,
    }
    return kind(**parts)


@dataclass(frozen=True)
class Case:
    """An answer, and the request that it is for."""

    method: str
    status: int
    headers: list[tuple[bytes, bytes]]
    body: list[bytes]
    keep_alive: bool


FRAMING = st.sampled_from(
    [[], [(b"Content-Length", b"4")], [(b"content-length", b"0")], [(b"transfer-encoding", b"Chunked")]]
)
CONNECTION = st.sampled_from([[], [(b"connection", b"close")], [(b"connection", b"Keep-Alive, Close")]])
OTHERS = st.lists(
    st.tuples(st.sampled_from([b"vary", b"X-Mixed", b"set-cookie"]), st.sampled_from([b"", b"a b"])), max_size=3
)
CASES = st.builds(
    Case,
    method=st.sampled_from(["GET", "HEAD"]),
    status=st.sampled_from([200, 204, 304, 404, 503]),
    headers=st.tuples(OTHERS, FRAMING, CONNECTION, OTHERS).map(lambda parts: list(chain(*parts))),
    body=st.sampled_from([[b"four"], [b"fo", b"ur"], [b""], [b"too long"]]),
    keep_alive=st.booleans(),
)


async def answer(kind: type[RequestResponseCycle], case: Case) -> Any:
    """Answer, and return the head's lines, the body, and whether the connection ends; or the error's kind."""
    wire = Wire()
    cycle = make(kind, wire, case.method, keep_alive=case.keep_alive)
    try:
        await cycle.send({"type": "http.response.start", "status": case.status, "headers": case.headers})
        for number, piece in enumerate(case.body, 1):
            more = number < len(case.body)
            await cycle.send({"type": "http.response.body", "body": piece, "more_body": more})
    except RuntimeError as error:
        return type(error)
    head, _, body = b"".join(wire.sent).partition(b"\r\n\r\n")
    return [line.lower() for line in head.split(b"\r\n")], body, wire.closed


@given(CASES)
def test_an_answer_is_the_one_that_uvicorn_writes(case: Case) -> None:
    assert asyncio.run(answer(Cycle, case)) == asyncio.run(answer(RequestResponseCycle, case))


@pytest.mark.parametrize("header", [(b"x-a", b"1\r\nx-b: 2"), (b"x a", b"1"), (b"x-a\n", b"1"), (b"x-a", b"\0")])
def test_a_header_that_would_be_two_is_not_sent(header: tuple[bytes, bytes]) -> None:
    wire = Wire()
    start = {"type": "http.response.start", "status": 200, "headers": [header]}
    with pytest.raises(RuntimeError, match="a header of the answer"):
        asyncio.run(make(Cycle, wire).send(start))
    assert not wire.sent


async def receive_all(pieces: list[bytes], together: int) -> tuple[bytes, list[bool]]:
    """Take pieces in, some at a time, and read them as an application does; and tell when reading was paused."""
    wire, read, paused = Wire(), b"", []
    cycle = make(Cycle, wire)
    for start in range(0, len(pieces), together):
        for piece in pieces[start : start + together]:
            cycle.take_in(piece)
        paused.append(wire.paused)
        message = await cycle.receive()
        assert message["more_body"]
        read += message["body"]
    cycle.more_body = False
    cycle.message_event.set()
    last = await cycle.receive()
    assert (last["body"], last["more_body"]) == (b"", False)
    return read, paused


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=12), st.integers(1, 4))
def test_a_body_is_read_as_it_came(pieces: list[bytes], together: int) -> None:
    assert asyncio.run(receive_all(pieces, together))[0] == b"".join(pieces)


def test_no_more_is_read_while_much_is_unread() -> None:
    large = bytes(HIGH_WATER_LIMIT // 2 + 1)
    assert asyncio.run(receive_all([large, large, b"x"], 2))[1] == [True, False]


def test_a_single_piece_is_not_copied() -> None:
    async def read() -> bool:
        cycle = make(Cycle, Wire())
        piece = b"the bytes of an image"
        cycle.take_in(piece)
        return (await cycle.receive())["body"] is piece

    assert asyncio.run(read())

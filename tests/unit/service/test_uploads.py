"""Forms and JSON that are odd or hostile: refused soon, with what is wrong, and without building much."""

import asyncio
import base64
import contextlib
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from model.errors import InvalidImage
from service.errors import InvalidRequest, TooManyImages, UnsupportedEncoding
from service.served import Upload
from service.uploads import read_uploads

pytestmark = pytest.mark.anyio
FORM = "multipart/form-data; boundary=b"
HEAD = b'Content-Disposition: form-data; name="f"; filename="n"\r\n'


async def read(body: bytes, content_type: str = FORM, max_images: int = 3, **headers: str) -> list[Upload]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    named = {"content-type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in named.items()]}
    return await read_uploads(Request(scope, receive), max_images)


def form(*parts: bytes, boundary: bytes = b"b") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def file(content: bytes = b"x", head: bytes = HEAD) -> bytes:
    return head + b"\r\n" + content


@pytest.mark.parametrize(
    ("body", "files"),
    [
        (form(file(b"1"), file(b"2"), file(b"3")), [b"1", b"2", b"3"]),
        (form(file(b"")), [b""]),
        (form(file(b"\r\n--\r\n--a\r\n")), [b"\r\n--\r\n--a\r\n"]),
        (b"preamble\r\n" + form(file()) + b"epilogue", [b"x"]),
        (b"\r\n" + form(file()), [b"x"]),
        (b"--b \t\r\n" + file() + b"\r\n--b--", [b"x"]),
        (form(file(head=b"content-DISPOSITION:form-data;filename=n;name=f\r\nContent-Type: a/b\r\n")), [b"x"]),
        (form(file(head=HEAD + b"Content-Transfer-Encoding: binary\r\n")), [b"x"]),
        (form(file(head=b'Content-Disposition: form-data; name="\xff\x00"; filename="\xc3/../\x00\\""\r\n')), [b"x"]),
        (form(file(b"--c\r\n\r\ninner\r\n--c--", HEAD + b"Content-Type: multipart/mixed; boundary=c\r\n")), None),
    ],
)
async def test_a_form_s_files_are_its_parts_byte_for_byte(body: bytes, files: list[bytes] | None) -> None:
    assert await read(body) == (files or [b"--c\r\n\r\ninner\r\n--c--"])


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (form(file())[:-8], "cut off"),
        (form(file())[:20], "cut off"),
        (form(), "no image"),
        (b"", "boundary"),
        (b"x" * 100, "boundary"),
        (form(b"no blank line"), "no empty line"),
        (form(HEAD), "no empty line"),
        (form(file(head=HEAD + b"a: b\r\n" * 10_000)), "8192 bytes of headers"),
        (form(file(head=HEAD + b"a: b\r\n" * 20)), "headers"),
        (form(file(head=HEAD + b"no colon\r\n")), "colon"),
        (form(file(b"\r\n--bx\r\n\r\n")), "boundary occurs within a part"),
        (form(file(head=b"")), "Content-Disposition"),
        (form(file(head=b"Content-Disposition: attachment; filename=n\r\n")), "Content-Disposition"),
        (form(file(head=b"Content-Disposition: form-data; filename=n\r\n")), "name"),
        (form(file(head=b'Content-Disposition: form-data; name="\xfftop_k"\r\n')), "top_k' is not a file"),
        (form(file(head=HEAD + b"Content-Transfer-Encoding: BASE64\r\n")), "Content-Transfer-Encoding 'base64'"),
    ],
)
async def test_a_form_that_cannot_be_understood_says_why(body: bytes, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        await read(body)


@pytest.mark.parametrize("boundary", ["", "x" * 257, '""'])
async def test_a_boundary_that_is_none_is_refused(boundary: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 256 bytes"):
        await read(form(file()), f"multipart/form-data; boundary={boundary}")
    assert await read(form(file(), boundary=b"y" * 256), "multipart/form-data; boundary=" + "y" * 256) == [b"x"]


@pytest.mark.parametrize(
    "body",
    [
        form(*[file()] * 10_000),
        form(file(b"\r\n--bx" * 3_000_000)),
        form(file(b"\r\n--" * 4_000_000)),
        form(file(b"\r\n" * 8_000_000)),
        b"--b" + b" " * 16_000_000 + b"\r\n" + file() + b"\r\n--b--",
        b"--b\r\n" + b"a: b\r\n" * 2_500_000 + b"\r\n\r\n--b--",
    ],
    ids=["parts", "false boundaries", "dashes", "lines", "padding", "headers"],
)
async def test_a_hostile_form_takes_little_time(body: bytes) -> None:
    started = time.process_time()  # a machine that has other work does not count
    with contextlib.suppress(InvalidRequest, TooManyImages):
        assert len(await read(body)) == 1
    assert time.process_time() - started < 1


async def test_ten_thousand_parts_are_counted_and_not_built() -> None:
    body = form(*[file()] * 10_000)
    tracemalloc.start()
    try:
        with pytest.raises(TooManyImages, match="more than 3 images"):
            await read(body)
        assert tracemalloc.get_traced_memory()[1] < len(body) + 100_000  # starlette's copy of the body
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "zstd", "identity, gzip", "x" * 500])
async def test_a_compressed_body_is_never_inflated(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="Content-Encoding") as caught:
        await read(b"x", "image/png", content_encoding=encoding)
    assert len(str(caught.value)) < 200
    assert await read(b"x", "image/png", content_encoding="Identity") == [b"x"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"images":[{"b64":"' + b"a" * 8_000_000 + b'"}]}',
        b'{"images":[{"b64":"' + b"aa " * 2_700_000 + b'"}]}',
        b'{"' + b"k" * 8_000_000 + b'":1}',
        b'{"images":' + b"1" * 8_000_000 + b"}",
        b"[" * 8_000_000,
        b'{"a":' * 1_600_000,
        b"\xff" * 8_000_000,
        b'{"images":[{"b64":""}],"' + b"k" * 8_000_000 + b'":1}',
    ],
    ids=["one", "blanks", "key", "digits", "arrays", "objects", "no text", "extra"],
)
async def test_nonsense_as_json_takes_a_few_times_its_own_size(body: bytes) -> None:
    tracemalloc.start()
    told = ""
    try:
        await read(body, "application/json")
    except InvalidRequest as error:
        told = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(told) < 400
    assert peak < 5 * len(body)


async def test_the_last_of_two_equal_keys_counts() -> None:
    assert await read(b'{"images":[{"b64":"YQ=="}],"images":[{"b64":"Yg=="}]}', "application/json") == [b"b"]


async def test_base64_may_have_white_space_of_any_kind_and_nothing_else() -> None:
    text = base64.b64encode(b"hello").decode()
    good, bad = await read(
        f'{{"images":[{{"b64":" \\n{text[:3]}\\t\\r\\n{text[3:]} "}},{{"b64":"\\u00e9"}}]}}'.encode(),
        "application/json",
    )
    assert good == b"hello"
    assert isinstance(bad, InvalidImage)


@given(
    contents=st.lists(st.binary(max_size=60), min_size=1, max_size=3),
    boundary=st.from_regex(r"[a-z-]{6,20}", fullmatch=True),
)
def test_what_httpx_would_send_is_read_back(contents: list[bytes], boundary: str) -> None:
    body = form(*(file(content) for content in contents), boundary=boundary.encode())
    if any(b"--" + boundary.encode() in content for content in contents):
        return
    assert asyncio.run(read(body, f"multipart/form-data; boundary={boundary}")) == contents

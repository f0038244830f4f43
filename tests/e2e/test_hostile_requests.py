"""Requests that want something else than a prediction: addresses, floods of parts, forged lines of the log."""

import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks.server import Server, serving
from tests.fakes import encode, noise

IMAGE = encode(noise())
PREDICT = "/v1/models/tiny/predict"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def server(published_tiny: Path, tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(published_tiny, log, HUBEL_DEFAULT_MODEL="tiny", TMPDIR=str(folder)) as server:
        yield server


def test_an_address_in_place_of_an_image_is_never_asked(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/cat.jpg"
        requests: list[dict[str, object]] = [
            {"content": url.encode()},
            {"content": b"", "headers": {"Content-Location": url, "Referer": url}},
            {"json": {"images": [{"url": url}]}},
            {"json": {"images": [{"b64": url}]}},
            {"json": {"images": [url]}},
            {"data": {"url": url}, "files": [("image", IMAGE)]},
            {"files": [("image", (url, url.encode(), "text/uri-list"))]},
            {"content": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'.encode()},
            {"content": b"", "params": {"url": url}},
        ]
        for request in requests:
            answer = httpx.post(server.url + PREDICT, timeout=30, **request)  # type: ignore[arg-type]
            assert 400 <= answer.status_code < 500, request
        listener.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_form_of_ten_thousand_parts_is_refused_soon(server: Server) -> None:
    parts = {
        "fields": b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n',
        "files": b'--b\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nx\r\n',
        "headers": b"--b\r\n" + b"X-Nothing: x\r\n" * 100 + b"\r\nx\r\n",
    }
    for what, part in parts.items():
        started = time.monotonic()
        answer = httpx.post(
            server.url + PREDICT,
            content=part * 10_000 + b"--b--\r\n",
            headers={"content-type": "multipart/form-data; boundary=b"},
            timeout=30,
        )
        assert answer.status_code in (413, 422), what
        assert time.monotonic() - started < 5, what
    assert server.post(PREDICT, IMAGE).status_code == 200


def test_large_files_of_a_form_leave_nothing_on_disk(server: Server, folder: Path) -> None:
    file = io.BytesIO()
    Image.frombytes("RGB", (1000, 1000), noise(1000, 1000).tobytes()).save(file, "BMP")
    before = set(folder.rglob("*"))
    answer = httpx.post(server.url + PREDICT, files=[("a", file.getvalue()), ("b", file.getvalue())], timeout=30)
    assert len(answer.json()["results"]) == 2
    assert httpx.post(server.url + PREDICT, files=[("a", bytes(3_000_000))], timeout=30).status_code == 422
    assert set(folder.rglob("*")) == before


def test_nothing_that_a_caller_sends_forges_a_line_of_the_log(server: Server) -> None:
    forged = '{"event":"request","level":"critical"}'
    paths = (f"/v1/%0A{forged}%0A", "/v1/%1B%5B31m%E2%80%A8x", f"/v1/models/%0D%0A{'x' * 500}")
    before = len(server.log.read_text().splitlines())
    for path in paths:
        assert b" 404 " in status_line(server, path, f"a\t{forged}")
        assert b" 400 " in status_line(server, path, f"a\x1b[31m{forged}")
    deadline = time.monotonic() + 10
    while len(lines := server.log.read_text().splitlines()[before:]) < len(paths):  # written after the answer
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(lines) == len(paths)
    for line in lines:
        told = json.loads(line)
        assert told["level"] == "info"
        assert len(told["request_id"]) == 32
        assert line.isprintable()


def status_line(server: Server, path: str, request_id: str) -> bytes:
    """Ask as no decent client would."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: hubel\r\nX-Request-ID: {request_id}\r\nConnection: close\r\n\r\n".encode()
        )
        return connection.makefile("rb").readline()

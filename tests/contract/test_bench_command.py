"""`hubel bench`: what it measures against a real service, what it says where there is nothing to measure."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.server import Server, serving
from service.keys import Role, make_key
from tests.fakes import encode, noise
from tests.inside import hubel

SECRET, KEY = make_key("bench", Role.PREDICT, None, None)


@pytest.fixture(scope="module")
def server(published_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that asks for a key."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with serving(published_tiny, log, HUBEL_DEFAULT_MODEL="tiny", HUBEL_API_KEYS=str(KEY)) as running:
        yield running


@contextmanager
def stub(answer: bytes) -> Iterator[str]:
    """Something else that listens: it takes connections, and sends `answer` over each, whatever is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            with ExitStack() as kept:
                while True:
                    try:
                        connection = kept.enter_context(listener.accept()[0])
                    except OSError:
                        return
                    connection.sendall(answer)

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def bench(url: str, *arguments: str | Path, key: str = SECRET) -> subprocess.CompletedProcess[str]:
    return hubel("bench", url, "--key", key, *arguments)


def test_it_tells_how_soon_and_how_often_the_service_answers(server: Server, tmp_path: Path) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.png"
    images = [tmp_path / "0.png", tmp_path / "1.png"]
    for number, image in enumerate(images):
        image.write_bytes(encode(noise(seed=number)))
    options = ("--image", images[0], "--image", images[1], "--connections", "3", "--requests", "50")
    result = bench(server.url, *options, "--json", figures, "--png", picture)
    assert (result.returncode, result.stderr) == (0, "")
    for word in ("tiny:1", "0.png, 1.png", "p50", "p90", "p99", "decode", "queue", "inference", "rest", "requests/s"):
        assert word in result.stdout
    assert "of one core" in result.stdout
    found = json.loads(figures.read_text())
    assert (found["model"], found["requests"], found["failed"], found["statuses"]) == ("tiny:1", 50, 0, {"200": 50})
    assert sum(each["count"] for each in found["histogram_seconds"]) == 50
    latency = found["latency_seconds"]
    assert latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["longest"]
    means = [stage["mean"] for stage in found["stages_seconds"].values()]
    assert sum(means) == pytest.approx(latency["mean"])
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"


def test_without_an_image_it_sends_a_made_photo_to_the_model_that_it_is_told(server: Server) -> None:
    result = bench(server.url + "/", "--model", "tiny@production", "--seconds", "0.2")
    assert (result.returncode, result.stderr) == (0, "")
    assert "a made photo" in result.stdout


def test_requests_that_fail_are_told_with_their_reason_and_end_with_1(server: Server, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    result = bench(server.url, "--image", bad, "--requests", "10", "--json", tmp_path / "figures.json")
    assert result.returncode == 1
    assert "10 x 422: Not an image that can be read" in result.stdout
    found = json.loads((tmp_path / "figures.json").read_text())
    assert (found["statuses"], found["latency_seconds"], found["requests_per_second"]) == ({"422": 10}, None, 0)


def test_what_asking_again_does_not_change_is_said_at_once(server: Server) -> None:
    for arguments, key, words in (
        ((), "", ["401", "key"]),
        ((), "hubel_unknown", ["401", "key"]),
        (("--model", "dogs"), SECRET, ["404", "'dogs'", "tiny"]),
        (("--model", "x:y:z"), SECRET, ["not a model reference"]),
    ):
        result = bench(server.url, *arguments, key=key)
        assert (result.returncode, result.stdout) == (2, "")
        for word in words:
            assert word in result.stderr


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9", ["http://127.0.0.1:9 cannot be reached", "9"]),
        ("http://nowhere.invalid", ["http://nowhere.invalid cannot be reached"]),
        ("127.0.0.1:8000", ["not an address"]),
    ],
)
def test_an_address_where_nobody_is_is_said(url: str, words: list[str]) -> None:
    result = bench(url)
    assert (result.returncode, result.stdout) == (2, "")
    for word in words:
        assert word in " ".join(result.stderr.split())


def test_whatever_else_listens_is_not_measured() -> None:
    for answer, words in (
        (b"", "no answer within 0.2 s"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "is not what hubel would"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nnothing", "answers 404, nothing"),
        (b"HTTP/1.1 301 Moved\r\nLocation: https://x/\r\nContent-Length: 0\r\n\r\n", "answers 301"),
        (b"220 mail\r\n", "not HTTP"),
    ):
        with stub(answer) as url:
            result = bench(url, "--timeout", "0.2")
        assert (result.returncode, result.stdout) == (2, "")
        assert words in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "601"], ["--seconds", "600"]),
        (["--connections", "1001"], ["--connections", "1000"]),
        (["--connections", "0"], ["--connections"]),
        (["--image", "missing.jpg"], ["missing.jpg", "does not exist"]),
        (["--json", "/nowhere/figures.json"], ["/nowhere is not a folder"]),
        (["--key", "ключ"], ["Authorization"]),
    ],
)
def test_what_it_cannot_do_is_said_before_it_begins(arguments: list[str], words: list[str]) -> None:
    result = bench("http://127.0.0.1:9", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    for word in words:
        assert word in " ".join(result.stderr.split())


def test_a_picture_without_matplotlib_names_the_line_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    result = bench("http://127.0.0.1:9", "--png", tmp_path / "picture.png")
    assert result.returncode == 2
    assert "pip install 'hubel[torch]'" in result.stderr

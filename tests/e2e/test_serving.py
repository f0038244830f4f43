"""A real server on a tiny model: starting, several workers, faults, stopping."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from PIL import Image

from benchmarks.server import Server, serving
from model.checkpoint import WEIGHTS
from model.registry import Registry
from model.types import ModelRef
from tests.fakes import encode, noise, tiny_release
from training.publish import publish

IMAGE = encode(noise())
PREDICT = "/v1/models/tiny/predict"


def test_bad_input_of_every_kind_leaves_the_service_answering(published_tiny: Path, tmp_path: Path) -> None:
    with (
        serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny") as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        big = client.post(PREDICT, content=b"\xff" * (30 * 2**20))
        assert (big.status_code, big.json()["setting"]) == (413, "HUBEL_MAX_BODY_BYTES")
        assert client.post(PREDICT, content=iter([b"\xff" * 2**20] * 30)).status_code == 413
        for content, status in ((b"text", 422), (b"", 422), (IMAGE[:700], 422), (b"%PDF-1.7", 415)):
            assert client.post(PREDICT, content=content).status_code == status
        assert client.post("/v1/models/nobody/predict", content=IMAGE).status_code == 404
        assert client.put(PREDICT, content=IMAGE).status_code == 405
        assert client.post(PREDICT, params={"top_k": -1}, content=IMAGE).status_code == 422
        answer = client.post(PREDICT, content=IMAGE, headers={"x-request-id": "the-good-one"})
        assert answer.status_code == 200
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "the-good-one"]
    assert (line["status"], line["model"], line["version"], line["path"]) == (200, "tiny", "1", PREDICT)
    assert not [line for line in lines if line["level"] in ("error", "critical")]


def test_callers_that_leave_do_no_harm(published_tiny: Path, tmp_path: Path) -> None:
    with serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny") as server:
        big = encode(noise(1500, 1000))
        for content, sent in ((big, len(big)), (big, len(big) // 2), (IMAGE, 10)):
            for _ in range(10):
                leave_early(server.url, content, sent)
        assert server.post(PREDICT, IMAGE).status_code == 200
        # Those whose callers left after the whole body are still answered, one after the other.
        wait_until(lambda: 'hubel_queue_length{model="tiny",version="1"} 0.0' in server.get("/metrics").text)
    assert '"level": "error"' not in server.log.read_text()


def leave_early(url: str, content: bytes, sent: int) -> None:
    """Announce a whole body, send `sent` bytes of it, and hang up."""
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: hubel\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[:sent])


def test_a_tampered_weights_file_keeps_its_model_out_and_the_service_up(tiny_root: Path, tmp_path: Path) -> None:
    with (tiny_root / "tiny" / "1" / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with serving(tiny_root, tmp_path / "log", wait="/livez", HUBEL_DEFAULT_MODEL="tiny") as server:
        while "loading" in (health := server.get("/health")).text:
            pass
        assert health.status_code == 503
        assert "model.safetensors is not the file that was published" in health.text
        assert server.post(PREDICT, IMAGE).status_code == 503
        assert server.process.poll() is None


def test_several_workers_answer_and_their_metrics_are_summed(published_tiny: Path, tmp_path: Path) -> None:
    with serving(published_tiny, tmp_path / "log", workers=2, HUBEL_DEFAULT_MODEL="tiny") as server:
        while not all(server.get("/readyz").is_success for _ in range(20)):  # both workers, by turns of chance
            pass
        assert count(server.url, 40) == {200}
        totals = {
            line.rsplit(" ", 1)[1]
            for _ in range(10)
            for line in server.get("/metrics").text.splitlines()
            if line.startswith('hubel_images_total{model="tiny"')
        }
    assert totals == {"40.0"}


def test_forked_workers_share_weights_and_nothing_that_tells_them_apart(published_tiny: Path, tmp_path: Path) -> None:
    with serving(published_tiny, tmp_path / "log", workers=2, HUBEL_DEFAULT_MODEL="tiny") as server:
        answers = [server.post("/v1/predict", encode(noise())) for _ in range(40)]
        assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
        maps = [Path(f"/proc/{worker}/maps").read_text() for worker in server.workers]
        files = [{line.split()[4] for line in text.splitlines() if "/networks/" in line} for text in maps]
        assert files[0]
        assert files[0] == files[1]  # by their inodes
        sockets = [{str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()} for pid in server.workers]
        shared = {name for name in sockets[0] & sockets[1] if name.startswith("socket:")}
        assert len(shared) == 1  # what both listen on


def test_a_swap_reaches_every_worker_and_any_of_them_tells_of_all(tiny_root: Path, tmp_path: Path) -> None:
    registry = Registry(tiny_root)
    publish(registry, tiny_release(seed=1))
    with serving(tiny_root, tmp_path / "log", workers=2, HUBEL_DEFAULT_MODEL="tiny") as server:
        wait_until(lambda: standing(server) == [{1: "ready", 2: "stored"}] * 2)
        registry.promote(ModelRef("tiny", version=2))
        wait_until(lambda: standing(server) == [{1: "stored", 2: "ready"}] * 2)
        answers = [server.post(PREDICT, IMAGE).json()["version"] for _ in range(20)]
        assert answers == [2] * 20
        pids = [worker["pid"] for worker in server.get("/v1/models").json()["workers"]]
        assert len(set(pids)) == 2


def standing(server: Server) -> list[dict[int, str]]:
    """How the versions stand in each worker."""
    workers = server.get("/v1/models").json()["workers"]
    return [
        {version["version"]: version["state"] for model in worker["models"] for version in model["versions"]}
        for worker in workers
    ]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def count(url: str, requests: int) -> set[int]:
    """Send requests, each on a connection of its own, and return the statuses."""
    return {httpx.post(url + PREDICT, content=IMAGE, timeout=30).status_code for _ in range(requests)}


def test_a_stop_lets_the_request_in_hand_finish(published_tiny: Path, tmp_path: Path) -> None:
    with serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny") as server:
        statuses: list[int] = []

        slow = encode(Image.new("RGBA", (5000, 5000)))  # few bytes, and room for one of them at a time

        def ask() -> None:
            body = [("images", (str(number), slow)) for number in range(4)]
            statuses.append(httpx.post(server.url + PREDICT, files=body, timeout=30).status_code)

        caller = threading.Thread(target=ask)
        caller.start()
        while 'hubel_decode_seconds_count{model="tiny",version="1"} 1.0' not in server.get("/metrics").text:
            assert not statuses, "the request was answered before its first image was seen in the metrics"
        server.process.send_signal(signal.SIGTERM)
        caller.join(30)
        server.process.wait(30)
    assert statuses == [200]


def test_a_caller_that_sends_half_a_body_does_not_keep_the_service_from_stopping(
    published_tiny: Path, tmp_path: Path
) -> None:
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: hubel\r\nContent-Length: 1000\r\n\r\n"
    with (
        serving(
            published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny", HUBEL_REQUEST_TIMEOUT_MS="1000"
        ) as server,
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection,
    ):
        connection.sendall(head.encode() + b"abc")
        while 'route="/livez"' not in server.get("/metrics").text:
            server.get("/livez")  # the half request has been read by the time that this one is counted
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.registry import Registry
from service.canary import CanaryWatch
from service.following import Follower
from service.hosting import ModelHost
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.schemas import WorkerOut
from service.settings import Settings
from service.workers import WorkerBoard
from tests.asgi import until


def worker(pid: int, *, ready: bool = True) -> WorkerOut:
    return WorkerOut(pid=pid, ready=ready, waiting_for=[] if ready else ["tiny:1: loading"], models=[])


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_single_process_is_its_own_only_worker() -> None:
    board = WorkerBoard(None)
    board.post(worker(os.getpid(), ready=False))
    assert board.read(worker(os.getpid())) == [worker(os.getpid())]
    board.withdraw()


def test_workers_that_live_are_read_in_order_of_their_numbers(tmp_path: Path) -> None:
    parent, own = os.getppid(), os.getpid()
    WorkerBoard(tmp_path).post(worker(parent, ready=False))
    board = WorkerBoard(tmp_path)
    board.post(worker(own))
    expected = sorted([worker(parent, ready=False), worker(own)], key=lambda each: each.pid)
    assert board.read(worker(own)) == expected


def test_of_itself_a_worker_says_what_is_so_now(tmp_path: Path) -> None:
    board = WorkerBoard(tmp_path)
    board.post(worker(os.getpid(), ready=False))
    assert board.read(worker(os.getpid(), ready=True)) == [worker(os.getpid(), ready=True)]


def test_a_worker_that_ended_is_left_out(tmp_path: Path, dead: int) -> None:
    WorkerBoard(tmp_path).post(worker(dead))
    assert len(list(tmp_path.iterdir())) == 1
    assert WorkerBoard(tmp_path).read(worker(os.getpid())) == [worker(os.getpid())]
    assert list(tmp_path.iterdir()) == []


def test_a_worker_of_another_user_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int, signal: int) -> None:
        raise PermissionError

    WorkerBoard(tmp_path).post(worker(os.getppid()))
    monkeypatch.setattr(os, "kill", forbidden)
    assert len(WorkerBoard(tmp_path).read(worker(os.getpid()))) == 2


@pytest.mark.parametrize("content", [b"", b'{"pid": 1, "rea', b"\xff", b"[]", b'{"pid": 1}'])
def test_what_is_half_written_is_passed_over(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "worker-1.json").write_bytes(content)
    assert WorkerBoard(tmp_path).read(worker(os.getpid())) == [worker(os.getpid())]


def test_files_of_others_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / f".{os.getppid()}").write_text(worker(os.getppid()).model_dump_json())
    (tmp_path / "worker-9.json").mkdir()
    assert WorkerBoard(tmp_path).read(worker(os.getpid())) == [worker(os.getpid())]


def test_posting_replaces_the_word_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    board = WorkerBoard(tmp_path)
    for ready in (False, True):
        board.post(worker(os.getppid(), ready=ready))
    assert [path.name for path in tmp_path.iterdir()] == [f"worker-{os.getppid()}.json"]
    assert worker(os.getppid()) in WorkerBoard(tmp_path).read(worker(os.getpid()))


def test_the_same_word_is_written_once(tmp_path: Path) -> None:
    board = WorkerBoard(tmp_path)
    board.post(worker(os.getpid()))
    (path,) = tmp_path.iterdir()
    path.unlink()
    board.post(worker(os.getpid()))
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_written_is_written_next_time(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    board = WorkerBoard(folder)
    with pytest.raises(OSError, match="later"):
        board.post(worker(os.getpid()))
    folder.mkdir()
    board.post(worker(os.getpid()))
    assert [path.name for path in folder.iterdir()] == [f"worker-{os.getpid()}.json"]


def test_a_worker_that_withdraws_is_gone_and_may_do_so_twice(tmp_path: Path) -> None:
    board = WorkerBoard(tmp_path)
    board.post(worker(os.getpid()))
    board.withdraw()
    board.withdraw()
    assert list(tmp_path.iterdir()) == []


# ---- how a worker keeps its word up to date


def follow(root: Path, board: WorkerBoard, seconds: float) -> tuple[ModelHost, Follower]:
    """A host that does not run yet, and what keeps it in step."""
    registry, metrics = Registry(root), Metrics()
    host = ModelHost(registry, Settings(registry=str(root), default_model="tiny", device="cpu"), metrics, Lifecycle())
    return host, Follower(host, CanaryWatch(registry, metrics), board, seconds)


@pytest.mark.anyio
async def test_a_worker_that_could_not_tell_tells_later_and_withdraws_in_the_end(
    published_tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "later"
    host, follower = follow(published_tiny, WorkerBoard(folder), 0.05)

    async def told() -> bool:
        return any(folder.iterdir())

    async def logged() -> bool:
        return "telling the other workers failed" in caplog.text

    caplog.set_level(logging.ERROR)
    follower.start()
    await until(logged)
    folder.mkdir()
    await until(told)
    await follower.close()
    await host.close()
    assert list(folder.iterdir()) == []


@pytest.mark.anyio
async def test_a_registry_that_goes_away_is_told_to_the_other_workers(tiny_root: Path, tmp_path: Path) -> None:
    board = WorkerBoard(tmp_path)
    host, follower = follow(tiny_root, board, 0.05)
    other = worker(os.getppid())

    async def ready() -> bool:
        return any(each.ready for each in board.read(other) if each.pid == os.getpid())

    async def away() -> bool:
        return any(each.registry_away for each in board.read(other) if each.pid == os.getpid())

    await host.start()
    follower.start()
    await until(ready)
    shutil.move(tiny_root, tmp_path / "elsewhere")
    await until(away)
    await follower.close()
    await host.close()

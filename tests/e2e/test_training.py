"""Whole training runs in processes of their own: stopped, killed, on a full disk, in two processes."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from benchmarks.server import environment, serving
from model.checkpoint import CARD, REPORT, WEIGHTS
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from tests.children import DEADLINE_SECONDS, Child, start
from tests.command import hubel
from tests.fakes import write_photos

BATCH = 8  # five steps an epoch
PLACES = ("--batch-size", str(BATCH), "--registry", "registry", "--runs", "runs")
SHORT = (*PLACES, "--epochs", "3")
ENDLESS = (*PLACES, "--epochs", "100000")
CHECKPOINT = Path("runs/photos/checkpoint.pt")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 images; not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    write_photos(folder)
    return folder


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run has gone from its beginning to its end, started as a user would."""
    folder = tmp_path_factory.mktemp("finished")
    result = hubel("train", photos, *SHORT, cwd=folder, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    return folder


def version_in(folder: Path, number: int = 1, name: str = "photos") -> StoredVersion:
    return Registry(folder / "registry").version(ModelRef(name, version=number))


def weights_in(folder: Path) -> bytes:
    return (version_in(folder).folder / WEIGHTS).read_bytes()


def events(folder: Path, event: str) -> list[dict[str, object]]:
    """The log's lines of one kind; a last line that is still being written is left out."""
    path = folder / "runs" / "photos" / "log.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line["event"] == event]


def assert_nothing_published(folder: Path) -> None:
    assert list((folder / "registry").rglob("*")) == []
    assert not (folder / "runs" / "photos" / "scratch").exists()


def assert_stopped(child: Child, folder: Path, *words: str) -> None:
    """Ended by Ctrl-C or SIGTERM with one line; nothing is published."""
    assert child.wait() == 130, child.stderr
    (line,) = child.stderr.splitlines()
    for word in ("hubel: stopped", *words):
        assert word in line
    assert_nothing_published(folder)


def test_a_folder_of_photos_becomes_a_served_answer_within_a_minute(
    photos: Path, finished: Path, tmp_path: Path
) -> None:
    """The test's own time is that of serving; the log of the run says when it began and ended."""
    version = version_in(finished)
    assert (version.folder / REPORT / "index.html").stat().st_size > 5_000
    (data,) = events(finished, "data")
    assert f"{data['fingerprint']}" in (version.folder / CARD).read_text(encoding="utf-8")
    epochs = events(finished, "epoch")
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert sorted(path.name for path in (finished / "runs" / "photos").iterdir()) == ["log.jsonl"]
    began = time.monotonic()
    with serving(finished / "registry", tmp_path / "log", HUBEL_DEFAULT_MODEL="photos") as server:
        body = server.post("/v1/models/photos/predict", (photos / "green" / "0-07.png").read_bytes()).json()
    assert time.monotonic() - began < 30
    (answer,) = body["results"]
    assert answer["predictions"][0]["label"] == "green"
    assert body["calibrated"] is True


@pytest.mark.extra
def test_the_same_seed_gives_the_same_file_and_another_does_not(photos: Path, finished: Path, tmp_path: Path) -> None:
    children = []
    for seed in "01":
        (tmp_path / seed).mkdir()
        children.append(start("train", photos, *SHORT, "--seed", seed, cwd=tmp_path / seed))
    assert [child.wait() for child in children] == [0, 0]
    assert weights_in(tmp_path / "0") == weights_in(finished)
    assert weights_in(tmp_path / "1") != weights_in(finished)


def test_a_run_killed_at_any_moment_goes_on_to_the_same_file(photos: Path, finished: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / CHECKPOINT
    child = start("train", photos, *SHORT, cwd=tmp_path)  # a checkpoint at the end of each epoch
    child.wait_until(lambda: bool(events(tmp_path, "epoch")) and checkpoint.exists())
    child.signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    for steps in (2, 3):  # within an epoch, maybe while a checkpoint is written
        before = checkpoint.stat().st_mtime_ns
        seen = {before}
        child = start("train", photos, *SHORT, "--resume", cwd=tmp_path, checkpoint_seconds=0.0)
        child.wait_until(lambda seen=seen, steps=steps: _count(checkpoint, seen) > steps)  # type: ignore[misc]
        child.signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert list((tmp_path / "registry").rglob("*")) == []
    child = start("train", photos, *SHORT, "--resume", cwd=tmp_path)
    assert child.wait() == 0, child.stderr
    assert weights_in(tmp_path) == weights_in(finished)
    assert len(events(tmp_path, "begin")) == 4


def _count(checkpoint: Path, seen: set[int]) -> int:
    """Count the checkpoints that came to lie there."""
    seen.add(checkpoint.stat().st_mtime_ns)
    return len(seen)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.extra)])
def test_a_stopped_run_keeps_its_checkpoint_also_on_a_full_disk(
    number: signal.Signals, photos: Path, tmp_path: Path
) -> None:
    child = start("train", photos, *ENDLESS, cwd=tmp_path)
    child.wait_until(lambda: bool(events(tmp_path, "epoch")))
    child.signal(number)
    assert_stopped(child, tmp_path, "in epoch", "--resume", str(CHECKPOINT))
    before = torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]
    assert before["epoch"] >= 1
    full = start("train", photos, *ENDLESS, "--resume", cwd=tmp_path, file_bytes=500_000)
    assert full.wait() == 2
    (line,) = full.stderr.splitlines()
    for word in (str(CHECKPOINT), "File too large", "the one before is kept", "--resume"):
        assert word in line
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]["epoch"] == before["epoch"]
    assert [path.name for path in (tmp_path / CHECKPOINT).parent.glob("checkpoint*")] == ["checkpoint.pt"]
    assert_nothing_published(tmp_path)


def test_a_second_ctrl_c_does_not_wait_for_the_step(photos: Path, tmp_path: Path) -> None:
    size = ("--size", "512", "--registry", "registry", "--runs", "runs")  # seconds a step
    child = start("train", photos, *size, cwd=tmp_path)
    child.wait_until(lambda: bool(events(tmp_path, "begin")))
    child.process.join(0.3)  # the first step begins
    deadline = time.monotonic() + DEADLINE_SECONDS
    while child.process.is_alive() and time.monotonic() < deadline:
        with suppress(ProcessLookupError):  # it may have ended since
            child.signal(signal.SIGINT)
        child.process.join(0.05)
    assert_stopped(child, tmp_path, "it had come to no checkpoint")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.extra)])
def test_a_stop_while_images_are_read_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    first, *others = write_photos(tmp_path / "photos", ("a", "b"), count=40, side=3000, same=True)
    assert len(others) == 79
    child = start("train", "photos", *SHORT, cwd=tmp_path)
    child.wait_until((tmp_path / "runs" / "photos" / "scratch").exists)
    child.signal(number)
    assert_stopped(child, tmp_path, "it had come to no checkpoint")
    assert first.exists()


def test_a_version_is_published_whole_or_not_at_all(photos: Path, finished: Path, tmp_path: Path) -> None:
    """Stopped while publishing, then on a full disk; the third attempt has only that left to do."""
    child = start("train", photos, *SHORT, cwd=tmp_path)
    child.wait_until(lambda: any((tmp_path / "registry").glob(f"photos/.staging-*/{WEIGHTS}")))
    child.signal(signal.SIGTERM)
    assert_stopped(child, tmp_path, "--resume")
    full = start("train", photos, *SHORT, "--resume", cwd=tmp_path, file_bytes=500_000)
    assert full.wait() == 2
    (line,) = full.stderr.splitlines()
    for word in ("cannot be written", str(tmp_path / "registry"), "nothing was published", "go on with --resume"):
        assert word in line
    assert_nothing_published(tmp_path)
    last = start("train", photos, *SHORT, "--resume", cwd=tmp_path)
    assert last.wait() == 0, last.stderr
    assert len(events(tmp_path, "epoch")) == 3
    assert weights_in(tmp_path) == weights_in(finished)
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.extra
def test_an_archive_is_trained_on_within_a_time_and_leaves_no_files(photos: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "archive"), "zip", photos.parent, "photos")
    began = time.monotonic()
    options = ("--time-budget", "1", "--quiet", "--name", "photos", "--alias", "canary")
    child = start("train", "archive.zip", *ENDLESS, *options, cwd=tmp_path)
    assert child.wait() == 0, child.stderr
    assert time.monotonic() - began < 30
    (line,) = child.stdout.splitlines()
    assert line.startswith("published photos:1 (canary, production), right on ")
    assert child.stderr == ""
    assert [path.name for path in (tmp_path / "runs" / "photos").iterdir()] == ["log.jsonl"]
    assert 0 < len(events(tmp_path, "epoch")) < 1000


@pytest.mark.extra
def test_torchrun_trains_in_two_processes_and_publishes_once(photos: Path, tmp_path: Path) -> None:
    result = torchrun(photos, *SHORT, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch   1/3") == 1
    assert result.stdout.count("published photos:1") == 1
    assert Registry(tmp_path / "registry").numbers("photos") == [1]
    assert not list((tmp_path / "registry").glob("*/.staging-*"))


def torchrun(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    return subprocess.run(
        [*launcher, "-m", "training", *map(str, arguments)],
        cwd=cwd,
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start_two(*arguments: str | Path, cwd: Path) -> list[Child]:
    """Start the two processes of a run as torchrun would, without its launcher."""
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        start("train", *arguments, cwd=cwd, variables={**common, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]


def test_what_the_first_process_refuses_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    first, second = start_two("empty", *SHORT, cwd=tmp_path)
    assert first.wait() == 2
    assert "empty is empty" in first.stderr
    assert second.wait() == 130
    assert second.stderr == "hubel: process 1: the leading process has ended, or cannot be reached\n"
    assert len(first.stderr.splitlines()) == 1


def test_a_run_in_two_processes_is_stopped_and_goes_on(photos: Path, tmp_path: Path) -> None:
    children = start_two(photos, *ENDLESS, cwd=tmp_path)
    children[0].wait_until(lambda: bool(events(tmp_path, "epoch")))
    for child in reversed(children):
        child.signal(signal.SIGINT)
    assert_stopped(children[0], tmp_path, "--resume")
    assert children[1].wait() == 130
    assert children[1].stderr.startswith("hubel: process 1: ")
    done = torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]["epoch"]
    options = (*PLACES, "--epochs", "100000", "--resume")
    children = start_two(photos, *options, cwd=tmp_path)
    children[0].wait_until(lambda: any(epoch["epoch"] == done + 2 for epoch in events(tmp_path, "epoch")))
    for child in children:
        child.signal(signal.SIGKILL)
        child.wait()

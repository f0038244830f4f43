"""Who gets which cores: alone, in a crowd, and beside other workers."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from service.cores import Cores, count_cores
from service.worker_counts import WorkerCounts
from tests.virtual_time import Clock


class Batches:
    """Batches of one queue: those that are under way take cores, also when they are called for it."""

    def __init__(self, cores: Cores) -> None:
        self.cores = cores
        self.taken: list[int] = []

    def ready(self) -> None:
        self.take(alone=False)

    def take(self, *, alone: bool = True) -> int:
        taken = self.cores.take(self.ready, alone=alone)
        if taken:
            self.taken.append(taken)
        return taken

    def end(self) -> None:
        self.cores.give_back(self.taken.pop(0))


class Counts:
    """What workers tell each other, in one process."""

    def __init__(self, told: list[int], own: int) -> None:
        self.told, self.own = told, own

    def set(self, count: int) -> None:
        self.told[self.own] = count

    def others(self) -> int:
        return sum(self.told) - self.told[self.own]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_batch_alone_has_all_cores(clock: Clock) -> None:
    cores = Cores(4, clock=clock)
    batches = Batches(cores)
    for _ in range(3):
        assert batches.take() == 4
        assert cores.free == 0
        batches.end()
    assert cores.free == 4


def test_in_a_crowd_each_batch_has_one(clock: Clock) -> None:
    cores = Cores(2, clock=clock)
    batches = Batches(cores)
    assert [batches.take(alone=False) for _ in range(3)] == [1, 1, 0]
    batches.end()
    assert batches.taken == [1, 1]  # the one that waited was called
    batches.end()
    batches.end()
    assert batches.take() == 1  # others were there a moment ago
    batches.end()
    assert batches.take() == 2  # and have not come again
    batches.end()


def test_after_a_while_a_crowd_is_forgotten(clock: Clock) -> None:
    cores = Cores(2, clock=clock)
    batches = Batches(cores)
    assert [batches.take(alone=False) for _ in range(2)] == [1, 1]
    batches.end()
    batches.end()
    clock.now += 1.0
    assert batches.take() == 2


def test_two_who_meet_again_and_again_are_a_crowd(clock: Clock) -> None:
    cores = Cores(2, clock=clock)
    one, other = Batches(cores), Batches(cores)
    assert one.take() == 2
    assert other.take() == 0
    one.end()
    assert other.taken == [1]
    for coming, leaving in [(one, other), (other, one)] * 5:
        clock.now += 0.2
        assert coming.take() == 1
        leaving.end()


def test_queues_have_their_turns_in_the_order_in_which_they_wait(clock: Clock) -> None:
    cores = Cores(1, clock=clock)
    queues = [Batches(cores) for _ in range(3)]
    assert [queue.take(alone=False) for queue in queues] == [1, 0, 0]
    turns = []
    for _ in range(6):
        (at,) = [number for number, queue in enumerate(queues) if queue.taken]
        turns.append(at)
        queues[at].take(alone=False)  # it has more, and waits again
        queues[at].end()
    assert turns == [0, 1, 2, 0, 1, 2]


def test_workers_leave_each_other_their_share_and_use_what_is_idle(clock: Clock) -> None:
    told = [0, 0]
    first, second = (Cores(2, 1, cast("WorkerCounts", Counts(told, own)), clock) for own in range(2))
    one, other = Batches(first), Batches(second)
    assert [one.take(alone=False) for _ in range(3)] == [1, 1, 0]
    assert (second.free, other.take()) == (1, 1)  # its own share, though the first uses both
    one.end()
    assert (one.taken, told) == ([1], [1, 1])  # what waited here has to wait for the other
    one.end()
    assert (one.taken, told) == ([1], [1, 1])
    other.end()
    one.end()
    clock.now += 1.0
    assert other.take() == 2
    assert one.take() == 1


def test_a_place_is_taken_anew_when_its_worker_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "cores"
    own = WorkerCounts(path)
    _in_a_process(_use_three, path)
    assert own.others() == 3
    _in_a_process(_use_none, path)
    assert own.others() == 0


def _in_a_process(run: Callable[[Path], None], path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=run, args=(path,))
    process.start()
    process.join(30)
    assert process.exitcode == 0


def _use_three(path: Path) -> None:
    WorkerCounts(path).set(3)


def _use_none(path: Path) -> None:
    WorkerCounts(path)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu.max": "nonsense\n"}, 8),
        ({"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "300000 100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "25000\n"}, 2),
        ({"cpu/pod/cpu.cfs_quota_us": "50000\n", "cpu/pod/cpu.cfs_period_us": "10000\n"}, 5),
    ],
)
def test_a_containers_limit_counts_as_cores(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    own = tmp_path / "own"
    own.write_text("9:name=systemd:/pod\n2:cpu,cpuacct:/pod/box\n0::/pod/box\n")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert count_cores(tmp_path / "cgroup", own) == cores
    assert count_cores(tmp_path / "cgroup", tmp_path / "missing") == 8

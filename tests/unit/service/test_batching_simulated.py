"""The batcher and its admission in virtual time: callers come, go and are late, and the engine has any temper.

Whatever the mix, every caller has one end, and it is the right one; nobody waits while a core is free, and no more
cores are used than there are; and nothing is left afterwards.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import EngineTimeout, InferenceFailed, Limit
from service.admission import Admission
from service.batching import Answer, Batcher, Dropped
from service.cores import Cores
from service.costs import CostCurve
from service.deadline import Deadline
from service.errors import DeadlineExceeded, ModelNotReady, QueueFull
from tests.fakes import held_places
from tests.virtual_time import Clock, run

TIMEOUT = Limit("timeout_ms", 1000)
ENGINE_TIMEOUT = Limit("engine_timeout_ms", 1000)
ROUNDING = 1e-6


@dataclass(frozen=True)
class Caller:
    """When somebody comes, with how many images, how long it takes to decode them, how long they may take in all.

    `leaves` is when the caller goes away, if ever; no engine can bear the `poisoned` images.
    """

    arrives: float
    images: int
    decoding: float
    patience: float
    leaves: float | None
    poisoned: frozenset[int]


@dataclass(frozen=True)
class Temper:
    """What an engine does in one run: how long it takes, and whether it fails by chance or is stopped."""

    seconds: float
    fails: bool
    is_stopped: bool


SECONDS = st.integers(0, 200).map(lambda hundredths: hundredths / 100)
CALLERS = st.builds(
    Caller,
    arrives=SECONDS,
    images=st.integers(1, 9),
    decoding=st.sampled_from([0.0, 0.01, 0.3]),
    patience=st.sampled_from([0.05, 0.5, 2.0, 60.0]),
    leaves=st.none() | SECONDS,
    poisoned=st.sampled_from([frozenset[int]()] * 4 + [frozenset({0}), frozenset({1, 3})]),
)
TEMPERS = st.builds(
    Temper,
    seconds=st.sampled_from([0.0, 0.01, 0.1, 0.4]),
    fails=st.sampled_from([False] * 5 + [True]),
    is_stopped=st.sampled_from([False] * 9 + [True]),
)

Item = tuple[int, int]  # the caller's number and the image's


@dataclass
class Simulation:
    """One run: an engine that obeys a list of tempers again and again, callers, and what was seen of them."""

    callers: Sequence[Caller]
    tempers: Sequence[Temper]
    max_batch_size: int
    places: int
    cores: int
    clock: Clock = field(default_factory=Clock)
    busy: list[tuple[float, float, int]] = field(default_factory=list)  # from, until, cores
    runs: list[tuple[Item, ...]] = field(default_factory=list)
    computed: Counter[Item] = field(default_factory=Counter)
    gone: dict[int, float] = field(default_factory=dict)
    queued: dict[int, float] = field(default_factory=dict)
    dropped: Counter[Dropped] = field(default_factory=Counter)
    finished: int = 0
    failures: int = 0
    length: int = 0
    excused: set[Item] = field(default_factory=set)

    # ---- what the batcher tells

    def batch_finished(self, waits: Sequence[float]) -> None:
        self.finished += len(waits)

    def batch_failed(self, error: Exception) -> None:
        self.failures += 1

    def entries_dropped(self, reason: Dropped, count: int) -> None:
        assert count > 0
        self.dropped[reason] += count

    def queue_changed(self, length: int) -> None:
        assert 0 <= length <= self.places
        self.length = length

    # ---- the engine

    async def engine(self, items: Sequence[Item], spread: bool) -> list[Item]:
        temper = self.tempers[len(self.runs) % len(self.tempers)]
        started, number, used = self.clock.now, len(self.busy), self.cores if spread else 1
        assert 1 <= len(items) <= self.max_batch_size
        assert not spread or len(items) == 1
        for caller, _ in items:
            assert self.gone.get(caller, started) >= started, "this was computed for nobody"
        self.runs.append(tuple(items))
        self.busy.append((started, float("inf"), used))
        assert self.used_at(started) <= self.cores, "more cores than there are"
        await asyncio.sleep(temper.seconds)
        self.busy[number] = (started, self.clock.now, used)
        if temper.is_stopped:
            self.excused.update(items)
            raise EngineTimeout("stopped", ENGINE_TIMEOUT)
        if temper.fails or any(image in self.callers[caller].poisoned for caller, image in items):
            if len(items) == 1:
                self.excused.update(items)
            raise ZeroDivisionError
        self.computed.update(items)
        return list(items)

    def used_at(self, moment: float) -> int:
        return sum(cores for start, end, cores in self.busy if start <= moment < end)

    # ---- the callers

    async def ask(self, number: int, batcher: Batcher[Item, Item], admission: Admission) -> object:
        """Do what a request does, and return how it ends."""
        caller = self.callers[number]
        await asyncio.sleep(caller.arrives)
        deadline = Deadline(self.clock.now + caller.patience, TIMEOUT)
        try:
            with held_places(admission, caller.images, deadline) as admitted:
                async with asyncio.timeout(deadline.seconds_left):
                    await asyncio.sleep(caller.decoding)
                    self.queued[number] = self.clock.now
                    return await batcher.submit([(number, image) for image in range(caller.images)], deadline, admitted)
        except TimeoutError:
            return deadline.exceeded()
        except (QueueFull, DeadlineExceeded) as refusal:
            return refusal
        finally:
            self.gone[number] = self.clock.now
            assert self.clock.now <= deadline.at + ROUNDING, "an end after the deadline"

    async def leave(self, task: "asyncio.Task[object]", when: float) -> None:
        await asyncio.sleep(when)
        task.cancel()

    async def course(self) -> list[object]:
        admission = Admission(
            Limit("max_queue_size", self.places), Limit("max_queue_bytes", 10**6), item_bytes=1, clock=self.clock
        )
        batcher: Batcher[Item, Item] = Batcher(
            self.engine,
            max_batch_size=self.max_batch_size,
            admission=admission,
            observer=self,
            cores=Cores(self.cores, clock=self.clock),
            costs=CostCurve(),
        )
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self.ask(number, batcher, admission)) for number in range(len(self.callers))]
        goers = [
            loop.create_task(self.leave(task, caller.leaves))
            for task, caller in zip(tasks, self.callers, strict=True)
            if caller.leaves is not None
        ]
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*goers)
        await asyncio.sleep(3600)
        assert admission.admitted == 0
        assert self.length == 0
        (alone,) = await batcher.submit([(-1, 0)], Deadline(self.clock.now + 3600, TIMEOUT), self.clock.now)
        assert isinstance(alone, Answer | InferenceFailed)
        await batcher.close(ModelNotReady("closed"))
        return ends

    # ---- what must hold

    def check(self, number: int, end: object) -> None:
        """Make sure that a caller has ended as it had to."""
        caller = self.callers[number]
        if isinstance(end, asyncio.CancelledError):
            assert caller.leaves is not None
            return
        if isinstance(end, QueueFull):
            assert number not in self.queued
            return
        if isinstance(end, DeadlineExceeded):
            return
        assert isinstance(end, list)
        for image, answer in enumerate(end):
            item = (number, image)
            if isinstance(answer, InferenceFailed):
                assert item in self.excused
            else:
                assert answer.value == item
                assert answer.batch.size <= self.max_batch_size
                if sum(item in run for run in self.runs) == 1:  # else it has waited for its batch, too
                    self.check_wait(number, answer.queue_seconds)
        assert len(end) == caller.images

    def check_wait(self, number: int, seconds: float) -> None:
        """Make sure that an image waited only while all cores were at work."""
        since = self.queued[number]
        until = since + seconds
        times = sorted({since, until, *(time for run in self.busy for time in run[:2] if since < time < until)})
        worked = sum(
            after - before for before, after in itertools.pairwise(times) if self.used_at(before) == self.cores
        )
        assert worked == pytest.approx(seconds, abs=ROUNDING)


@settings(max_examples=400, deadline=None)
@given(
    callers=st.lists(CALLERS, min_size=1, max_size=12),
    tempers=st.lists(TEMPERS, min_size=1, max_size=6),
    max_batch_size=st.integers(1, 8),
    places=st.integers(9, 40),
    cores=st.integers(1, 4),
)
def test_every_caller_has_one_end_and_it_is_the_right_one(
    callers: list[Caller], tempers: list[Temper], max_batch_size: int, places: int, cores: int
) -> None:
    calm = Temper(0.01, fails=False, is_stopped=False)
    simulation = Simulation(callers, [*tempers, calm], max_batch_size, places, cores)
    ends = run(simulation.course(), simulation.clock)
    assert len(ends) == len(callers)
    for number, end in enumerate(ends):
        simulation.check(number, end)
    assert all(count == 1 for count in simulation.computed.values()), "an image was computed twice"
    assert simulation.finished == simulation.computed.total()
    queued = sum(callers[number].images for number in simulation.queued) + 1
    ran = len({item for run in simulation.runs for item in run})
    assert ran + simulation.dropped.total() == queued

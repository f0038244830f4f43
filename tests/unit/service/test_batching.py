import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
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
from service.errors import DeadlineExceeded, ModelNotReady
from tests.fakes import AsLargeAsCanBe, held_places

pytestmark = pytest.mark.anyio

LIMIT = Limit("request_timeout_ms", 30_000)
LATER = Deadline(math.inf, LIMIT)
CLOSED = ModelNotReady("closed")


@dataclass
class Observer:
    """Notes what it is told."""

    sizes: list[int] = field(default_factory=list)
    dropped: Counter[Dropped] = field(default_factory=Counter)
    failures: list[Exception] = field(default_factory=list)
    length: int = 0

    def batch_finished(self, waits: Sequence[float]) -> None:
        assert all(wait >= 0 for wait in waits)
        self.sizes.append(len(waits))

    def batch_failed(self, error: Exception) -> None:
        self.failures.append(error)

    def entries_dropped(self, reason: Dropped, count: int) -> None:
        self.dropped[reason] += count

    def queue_changed(self, length: int) -> None:
        self.length = length


class Gate:
    """An engine that squares numbers when it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.batches: list[list[int]] = []

    async def run(self, items: Sequence[int], _spread: bool) -> list[int]:
        self.batches.append(list(items))
        await self.open.wait()
        if any(item < 0 for item in items):
            raise ZeroDivisionError
        return [item * item for item in items]


class Setup:
    """A batcher in front of a gate."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.observer = Observer()
        self.batcher = batcher_of(self.gate.run, self.observer)

    async def submit(self, items: Sequence[int], deadline: Deadline = LATER) -> list[Answer[int] | InferenceFailed]:
        return await self.batcher.submit(items, deadline, time.monotonic())

    async def __aenter__(self) -> "Setup":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.batcher.close(CLOSED)


def batcher_of(run: Callable[[Sequence[int], bool], Awaitable[list[int]]], observer: Observer) -> Batcher[int, int]:
    """A batcher of batches of up to four, on one core."""
    return Batcher(run, max_batch_size=4, admission=places(), observer=observer, cores=Cores(1), costs=AsLargeAsCanBe())


def places() -> Admission:
    """Room for many."""
    return Admission(Limit("max_queue_size", 10_000), Limit("max_queue_bytes", 10_000), item_bytes=1)


def values(answers: Sequence[Answer[int] | InferenceFailed]) -> list[int | None]:
    """The results; None where the engine has failed."""
    return [answer.value if isinstance(answer, Answer) else None for answer in answers]


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_lone_item_is_computed_at_once() -> None:
    async with Setup() as setup:
        assert values(await setup.submit([3])) == [9]
        assert setup.gate.batches == [[3]]


async def test_no_item_is_no_batch() -> None:
    async with Setup() as setup:
        assert await setup.submit([]) == []
        assert setup.gate.batches == []


async def test_what_gathers_while_the_engine_is_busy_is_one_batch() -> None:
    async with Setup() as setup:
        setup.gate.open.clear()
        callers = []
        for item in range(6):
            callers.append(asyncio.create_task(setup.submit([item])))
            await settle()
        assert setup.gate.batches == [[0]]
        setup.gate.open.set()
        assert [values(await caller) for caller in callers] == [[0], [1], [4], [9], [16], [25]]
        assert setup.gate.batches == [[0], [1, 2, 3, 4], [5]]
        assert setup.observer.sizes == [1, 4, 1]


async def test_a_request_larger_than_a_batch_is_divided_and_put_together() -> None:
    async with Setup() as setup:
        answers = await setup.submit(list(range(10)))
        assert values(answers) == [n * n for n in range(10)]
        assert [len(batch) for batch in setup.gate.batches] == [4, 4, 2]
        assert [answer.batch.size for answer in answers if isinstance(answer, Answer)] == [4] * 8 + [2] * 2


async def test_an_item_whose_caller_has_gone_is_not_computed_and_does_not_delay_its_mates() -> None:
    async with Setup() as setup:
        setup.gate.open.clear()
        first, gone, stays = (asyncio.create_task(setup.submit([item])) for item in (1, 2, 3))
        await settle()
        late = asyncio.create_task(setup.submit([4]))
        await settle()
        late.cancel()
        gone.cancel()  # its batch is running: its answer will find nobody
        await settle()
        setup.gate.open.set()
        assert values(await first) == [1]
        assert values(await stays) == [9]
        assert values(await setup.submit([5])) == [25]
        assert setup.gate.batches == [[1, 2, 3], [5]]
        assert setup.observer.dropped == {Dropped.CALLER_LEFT: 1}


async def test_an_item_that_breaks_its_batch_fails_alone() -> None:
    async with Setup() as setup:
        setup.gate.open.clear()
        callers = [asyncio.create_task(setup.submit([1]))]
        await settle()
        callers += [asyncio.create_task(setup.submit(items)) for items in ([2], [-3, 4], [5])]
        await settle()
        setup.gate.open.set()
        assert [values(await caller) for caller in callers] == [[1], [4], [None, 16], [25]]
        assert setup.gate.batches == [[1], [2, -3, 4, 5], [2], [-3], [4], [5]]
        (failure,) = [answer for answer in await callers[2] if isinstance(answer, InferenceFailed)]
        assert isinstance(failure.__cause__, ZeroDivisionError)
        assert len(setup.observer.failures) == 2
        assert values(await setup.submit([2])) == [4]


async def test_a_failure_that_does_not_come_again_is_nobodys() -> None:
    attempts = []

    async def moody(items: Sequence[int], _spread: bool) -> list[int]:
        attempts.append(list(items))
        if len(attempts) == 1:
            raise OSError
        return list(items)

    batcher = batcher_of(moody, Observer())
    assert values(await batcher.submit([7], LATER, time.monotonic())) == [7]
    assert attempts == [[7], [7]]
    await batcher.close(CLOSED)


async def test_a_batch_that_took_too_long_is_not_tried_again() -> None:
    attempts = []

    async def slow(items: Sequence[int], _spread: bool) -> list[int]:
        attempts.append(list(items))
        raise EngineTimeout("too slow", LIMIT)

    batcher = batcher_of(slow, Observer())
    assert [type(answer) for answer in await batcher.submit([1, 2], LATER, time.monotonic())] == [
        EngineTimeout,
        EngineTimeout,
    ]
    assert attempts == [[1, 2]]
    await batcher.close(CLOSED)


async def test_an_engine_that_loses_an_answer_is_found_out() -> None:
    async def forgetful(items: Sequence[int], _spread: bool) -> list[int]:
        return list(items)[1:]

    batcher = batcher_of(forgetful, Observer())
    assert values(await batcher.submit([1, 2], LATER, time.monotonic())) == [None, None]
    await batcher.close(CLOSED)


async def test_an_item_that_is_too_late_is_not_computed() -> None:
    async with Setup() as setup:
        setup.gate.open.clear()
        first = asyncio.create_task(setup.submit([1]))
        await settle()
        late = asyncio.create_task(setup.submit([2], Deadline(time.monotonic() - 1, LIMIT)))
        mate = asyncio.create_task(setup.submit([3]))
        await settle()
        setup.gate.open.set()
        with pytest.raises(DeadlineExceeded, match="within 30000 ms"):
            await late
        assert values(await first) + values(await mate) == [1, 9]
        assert setup.gate.batches == [[1], [3]]
        assert setup.observer.dropped == {Dropped.DEADLINE: 1}


async def test_closing_tells_those_who_wait() -> None:
    setup = Setup()
    setup.gate.open.clear()
    callers = [asyncio.create_task(setup.submit([item])) for item in range(9)]
    await settle()
    await setup.batcher.close(CLOSED)
    assert await asyncio.gather(*callers, return_exceptions=True) == [CLOSED] * 9


async def test_whoever_comes_after_the_end_is_told_as_well() -> None:
    setup = Setup()
    await setup.batcher.close(CLOSED)
    with pytest.raises(ModelNotReady) as caught:
        await setup.submit([1])
    assert caught.value is CLOSED


async def test_what_is_queued_is_divided_among_the_cores_that_are_free() -> None:
    gate = Gate()
    batcher = Batcher(
        gate.run, max_batch_size=8, admission=places(), observer=Observer(), cores=Cores(3), costs=AsLargeAsCanBe()
    )
    assert values(await batcher.submit(range(7), LATER, time.monotonic())) == [0, 1, 4, 9, 16, 25, 36]
    assert gate.batches == [[0, 1, 2], [3, 4], [5, 6]]
    await batcher.close(CLOSED)


async def test_the_queue_keeps_nothing_of_callers_that_have_gone() -> None:
    async with Setup() as setup:
        setup.gate.open.clear()
        busy = asyncio.create_task(setup.submit([0]))
        await settle()
        for item in range(100):
            caller = asyncio.create_task(setup.submit([item]))
            await settle()
            caller.cancel()
            await settle()
            assert setup.observer.length == 0
        assert setup.observer.dropped == {Dropped.CALLER_LEFT: 100}
        setup.gate.open.set()
        assert values(await busy) == [0]


async def test_a_fault_of_the_observer_does_not_stop_the_batcher() -> None:
    async with Setup() as setup:
        setup.observer.batch_finished = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
        assert values(await setup.submit([2])) == [4]
        assert values(await setup.submit([3])) == [9]


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[list[int], int, int | None]]:
    """Requests: their items (negative ones break their batch), when they come, when their caller goes."""
    one = st.tuples(
        st.lists(st.integers(-1, 50), min_size=1, max_size=9),
        st.integers(0, 6),
        st.one_of(st.none(), st.integers(0, 6)),
    )
    return draw(st.lists(one, min_size=1, max_size=12))


@settings(max_examples=150, deadline=None)
@given(mix=requests(), max_batch_size=st.integers(1, 8), pauses=st.integers(0, 3), cores=st.integers(1, 4))
def test_any_mix_of_requests_gives_each_caller_its_own_answer(
    mix: list[tuple[list[int], int, int | None]], max_batch_size: int, pauses: int, cores: int
) -> None:
    """Whatever comes, goes or fails: an answer is the unbatched one, in order, and only what fails has none."""

    async def scenario() -> None:
        observer = Observer()
        batches: list[list[int]] = []

        async def engine(items: Sequence[int], _spread: bool) -> list[int]:
            batches.append(list(items))
            for _ in range(pauses):
                await asyncio.sleep(0)
            if any(item < 0 for item in items):
                raise ValueError
            return [item * item + 1 for item in items]

        admission = places()
        batcher: Batcher[int, int] = Batcher(
            engine,
            max_batch_size=max_batch_size,
            admission=admission,
            observer=observer,
            cores=Cores(cores),
            costs=CostCurve(),
        )

        async def caller(items: list[int], arrival: int) -> list[int | None]:
            for _ in range(arrival):
                await asyncio.sleep(0)
            with held_places(admission, len(items), LATER):
                return values(await batcher.submit(items, LATER, time.monotonic()))

        async def leave(task: asyncio.Task[list[int | None]], when: int) -> None:
            for _ in range(when):
                await asyncio.sleep(0)
            task.cancel()

        tasks = [asyncio.create_task(caller(items, arrival)) for items, arrival, _ in mix]
        goers = [
            asyncio.create_task(leave(task, when))
            for task, (_, _, when) in zip(tasks, mix, strict=True)
            if when is not None
        ]
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=10)
        await asyncio.gather(*goers)
        for (items, _, when), outcome in zip(mix, outcomes, strict=True):
            if isinstance(outcome, asyncio.CancelledError):
                assert when is not None
            else:
                assert outcome == [item * item + 1 if item >= 0 else None for item in items]
        assert all(len(batch) <= max_batch_size for batch in batches)
        for _ in range(20 + pauses * 20):
            await asyncio.sleep(0)
        assert admission.admitted == 0
        assert observer.length == 0
        await batcher.close(CLOSED)

    asyncio.run(scenario())

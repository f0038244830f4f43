import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import InferenceFailed
from service.batching import Answer, Batcher
from service.errors import QueueFull

pytestmark = pytest.mark.anyio


@dataclass
class Observer:
    """Notes what it is told."""

    sizes: list[int] = field(default_factory=list)
    waits: int = 0
    dropped: int = 0
    length: int = 0

    def batch_finished(self, size: int, seconds: float, waits: Sequence[float]) -> None:
        assert seconds >= 0
        assert all(wait >= 0 for wait in waits)
        self.sizes.append(size)
        self.waits += len(waits)

    def entries_dropped(self, count: int) -> None:
        self.dropped += count

    def queue_changed(self, length: int) -> None:
        self.length = length


class Gate:
    """An engine that squares numbers when it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.batches: list[list[int]] = []

    async def run(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.open.wait()
        if any(item < 0 for item in items):
            raise ZeroDivisionError
        return [item * item for item in items]


class Setup:
    """A batcher in front of a gate."""

    def __init__(self, max_batch_size: int = 4, max_queue_size: int = 100) -> None:
        self.gate = Gate()
        self.observer = Observer()
        self.batcher: Batcher[int, int] = Batcher(
            self.gate.run, max_batch_size=max_batch_size, max_queue_size=max_queue_size, observer=self.observer
        )

    async def __aenter__(self) -> "Setup":
        self.batcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.batcher.close()


def values(answers: list[Answer[int]]) -> list[int]:
    return [answer.value for answer in answers]


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_lone_item_is_computed_at_once() -> None:
    async with Setup() as setup:
        assert values(await setup.batcher.submit([3])) == [9]
        assert setup.gate.batches == [[3]]


async def test_no_item_is_no_batch() -> None:
    async with Setup() as setup:
        assert await setup.batcher.submit([]) == []
        assert setup.gate.batches == []


async def test_what_gathers_while_the_engine_is_busy_is_one_batch() -> None:
    async with Setup() as setup:
        setup.gate.open.clear()
        callers = []
        for item in range(6):
            callers.append(asyncio.create_task(setup.batcher.submit([item])))
            await settle()
        assert setup.gate.batches == [[0]]
        setup.gate.open.set()
        assert [values(await caller) for caller in callers] == [[0], [1], [4], [9], [16], [25]]
        assert setup.gate.batches == [[0], [1, 2, 3, 4], [5]]
        assert setup.observer.sizes == [1, 4, 1]


async def test_a_request_larger_than_a_batch_is_divided_and_put_together() -> None:
    async with Setup() as setup:
        answers = await setup.batcher.submit(list(range(10)))
        assert values(answers) == [n * n for n in range(10)]
        assert [len(batch) for batch in setup.gate.batches] == [4, 4, 2]
        assert [answer.batch.size for answer in answers] == [4] * 8 + [2] * 2


async def test_an_item_whose_caller_has_gone_is_not_computed_and_does_not_delay_its_mates() -> None:
    async with Setup() as setup:
        setup.gate.open.clear()
        first, gone, stays = (asyncio.create_task(setup.batcher.submit([item])) for item in (1, 2, 3))
        await settle()
        late = asyncio.create_task(setup.batcher.submit([4]))
        await settle()
        late.cancel()
        gone.cancel()  # its batch is running: its answer will find nobody
        await settle()
        setup.gate.open.set()
        assert values(await first) == [1]
        assert values(await stays) == [9]
        assert values(await setup.batcher.submit([5])) == [25]
        assert setup.gate.batches == [[1, 2, 3], [5]]
        assert setup.observer.dropped == 1


async def test_a_batch_that_fails_fails_its_callers_and_no_other() -> None:
    async with Setup() as setup:
        with pytest.raises(InferenceFailed) as caught:
            await setup.batcher.submit([-1])
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert values(await setup.batcher.submit([2])) == [4]


async def test_an_engine_that_loses_an_answer_is_found_out() -> None:
    async def forgetful(items: Sequence[int]) -> list[int]:
        return list(items)[1:]

    batcher: Batcher[int, int] = Batcher(forgetful, max_batch_size=4, max_queue_size=9, observer=Observer())
    batcher.start()
    with pytest.raises(InferenceFailed):
        await batcher.submit([1, 2])
    await batcher.close()


async def test_admission_is_bounded_and_room_comes_back() -> None:
    async with Setup(max_queue_size=3) as setup:
        with setup.batcher.admit(2):
            with pytest.raises(QueueFull, match="over the limit of 3") as caught, setup.batcher.admit(2):
                pass
            assert caught.value.limit.name == "max_queue_size"
            assert caught.value.retry_after_seconds >= 1
            with setup.batcher.admit(1):
                pass
        with setup.batcher.admit(3):
            pass


async def test_closing_cancels_those_who_wait() -> None:
    setup = Setup()
    setup.batcher.start()
    setup.gate.open.clear()
    callers = [asyncio.create_task(setup.batcher.submit([item])) for item in range(9)]
    await settle()
    await setup.batcher.close()
    await settle()
    assert all(caller.cancelled() for caller in callers)


async def test_the_queue_keeps_nothing_of_callers_that_have_gone() -> None:
    async with Setup(max_queue_size=4) as setup:
        setup.gate.open.clear()
        busy = asyncio.create_task(setup.batcher.submit([0]))
        await settle()
        for item in range(100):
            caller = asyncio.create_task(setup.batcher.submit([item]))
            await settle()
            caller.cancel()
            await settle()
            assert setup.observer.length == 0
        assert setup.observer.dropped == 100
        setup.gate.open.set()
        assert values(await busy) == [0]


async def test_a_fault_of_the_observer_does_not_stop_the_batcher() -> None:
    async with Setup() as setup:
        setup.observer.batch_finished = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
        assert values(await setup.batcher.submit([2])) == [4]
        assert values(await setup.batcher.submit([3])) == [9]


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
@given(mix=requests(), max_batch_size=st.integers(1, 8), pauses=st.integers(0, 3))
def test_any_mix_of_requests_gives_each_caller_its_own_answer(
    mix: list[tuple[list[int], int, int | None]], max_batch_size: int, pauses: int
) -> None:
    """Whatever comes, goes or fails: an answer is the unbatched one, in order, or the batch's failure."""

    async def scenario() -> None:
        observer = Observer()
        batches: list[list[int]] = []

        async def engine(items: Sequence[int]) -> list[int]:
            batches.append(list(items))
            for _ in range(pauses):
                await asyncio.sleep(0)
            if any(item < 0 for item in items):
                raise ValueError
            return [item * item + 1 for item in items]

        batcher: Batcher[int, int] = Batcher(
            engine, max_batch_size=max_batch_size, max_queue_size=10_000, observer=observer
        )
        batcher.start()

        async def caller(items: list[int], arrival: int) -> list[int]:
            for _ in range(arrival):
                await asyncio.sleep(0)
            with batcher.admit(len(items)):
                return values(await batcher.submit(items))

        async def leave(task: asyncio.Task[list[int]], when: int) -> None:
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
            elif isinstance(outcome, InferenceFailed):
                assert any(set(items) & set(batch) and min(batch) < 0 for batch in batches)
            else:
                assert outcome == [item * item + 1 for item in items]
        assert all(len(batch) <= max_batch_size for batch in batches)
        for _ in range(20 + pauses * 20):
            await asyncio.sleep(0)
        with batcher.admit(10_000):  # all room has come back
            pass
        assert observer.length == 0
        await batcher.close()

    asyncio.run(scenario())

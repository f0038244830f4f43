import asyncio

import pytest

from service.callers import CALLER, Caller, caller_of
from service.errors import CallerLeft

pytestmark = pytest.mark.anyio


async def test_what_is_done_for_a_caller_ends_when_it_leaves() -> None:
    caller, reached = Caller(), asyncio.Event()

    async def work() -> None:
        with caller:
            reached.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await reached.wait()
    caller.leave()
    with pytest.raises(CallerLeft):
        await task
    assert not task.cancelled()


async def test_nothing_is_begun_for_a_caller_that_has_left() -> None:
    caller = Caller()
    caller.leave()
    with pytest.raises(CallerLeft), caller:
        raise AssertionError


async def test_a_caller_that_leaves_after_its_answer_disturbs_nobody() -> None:
    caller = Caller()
    with caller:
        await asyncio.sleep(0)
    caller.leave()
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_a_task_that_others_cancel_is_cancelled() -> None:
    caller = Caller()

    async def work() -> None:
        with caller:
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_deadline_inside_still_counts() -> None:
    with Caller(), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)


def test_without_word_from_the_server_a_caller_stays() -> None:
    assert caller_of({}).left is False
    caller = Caller()
    assert caller_of({CALLER: caller}) is caller

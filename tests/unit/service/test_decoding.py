"""The room that images being decoded share: who waits, who does not, and that nothing of it is lost."""

import asyncio
import gc
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.classifier import Classifier
from model.errors import InvalidImage
from model.preprocessing import ImageFacts, ImageLimits, PreparedImage
from service import decoding
from service.decoding import BYTES_PER_PIXEL, Decoders

pytestmark = pytest.mark.anyio
PIXELS = 10_000_000
ROOM = PIXELS * BYTES_PER_PIXEL
PREPARED = PreparedImage(np.zeros((1, 1, 3), np.uint8), ImageFacts(1, 1, "PNG", ()))


class Steps:
    """Stands for a classifier: an image is the bytes that its steps hold, as text; each waits until it may go on."""

    def __init__(self, *, free: bool = False) -> None:
        self.begun: list[str] = []
        self.held = self.most = 0
        self.gate = threading.Event()
        self._lock = threading.Lock()
        if free:
            self.gate.set()

    def prepare_in_steps(self, data: bytes, _limits: ImageLimits) -> Generator[int, None, PreparedImage]:
        for size in map(int, data.split()):
            yield size
            with self._lock:
                self.begun.append(data.decode())
                self.held += size
                self.most = max(self.most, self.held)
            self.gate.wait(10)
            with self._lock:
                self.held -= size
        if data.endswith(b" "):
            raise InvalidImage("broken")
        return PREPARED

    async def seen(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.begun) < count:
                await asyncio.sleep(0.001)


def as_classifier(steps: Steps) -> Classifier:
    return cast("Classifier", steps)


def some(threads: int = 4) -> Decoders:
    return Decoders(threads, ImageLimits(), PIXELS)


async def test_large_images_wait_for_each_other_and_small_ones_for_nobody() -> None:
    steps, decoders = Steps(), some()
    large = f"{ROOM * 3 // 4}".encode()
    tasks = [asyncio.create_task(decoders.decode(as_classifier(steps), large)) for _ in range(3)]
    await steps.seen(1)
    small = asyncio.create_task(decoders.decode(as_classifier(steps), b"1000"))
    await steps.seen(2)
    await asyncio.sleep(0.02)
    assert steps.begun == [large.decode(), "1000"]
    steps.gate.set()
    assert await asyncio.gather(*tasks, small) == [PREPARED] * 4
    assert steps.most <= ROOM
    decoders.close()


async def test_the_largest_is_not_passed_over_by_those_that_come_later() -> None:
    steps, decoders = Steps(), some(threads=1)
    half, whole, third = (str(ROOM // part).encode() for part in (2, 1, 3))
    first = asyncio.create_task(decoders.decode(as_classifier(steps), half))
    await steps.seen(1)
    rest = [asyncio.create_task(decoders.decode(as_classifier(steps), data)) for data in (whole, third, third, third)]
    await asyncio.sleep(0.01)
    steps.gate.set()
    await asyncio.gather(first, *rest)
    assert steps.begun == [half.decode(), whole.decode(), *[third.decode()] * 3]
    decoders.close()


async def test_a_thread_that_does_not_come_back_is_found_though_its_caller_has_left() -> None:
    steps, decoders = Steps(), some()
    assert decoders.longest_seconds == 0
    task = asyncio.create_task(decoders.decode(as_classifier(steps), b"1000"))
    await steps.seen(1)
    task.cancel()
    await asyncio.sleep(0.05)
    assert 0.04 < decoders.longest_seconds < 10
    steps.gate.set()
    async with asyncio.timeout(10):
        while decoders.longest_seconds:
            await asyncio.sleep(0.001)
    decoders.close()


async def test_one_alone_may_be_larger_than_the_room() -> None:
    steps, decoders = Steps(free=True), some()
    huge = str(5 * ROOM).encode()
    assert await asyncio.gather(*(decoders.decode(as_classifier(steps), huge) for _ in range(3))) == [PREPARED] * 3
    assert steps.most == 5 * ROOM
    decoders.close()


async def test_images_of_those_who_have_left_are_forgotten_before_their_turn() -> None:
    steps, decoders = Steps(), some(threads=1)
    large, small = f"{ROOM * 3 // 4}".encode(), b"1000"
    working = asyncio.create_task(decoders.decode(as_classifier(steps), large))
    await steps.seen(1)
    data = [large, large, small, small]  # the small ones wait for the thread
    jobs = [asyncio.create_task(decoders.decode(as_classifier(steps), bytes(part))) for part in data]
    await asyncio.sleep(0.01)
    kept = [job for job in gc.get_objects() if type(job) is decoding._Job and job.steps is not None]
    assert len(kept) == 5
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert sum(job.steps is not None for job in kept) == 1
    assert not decoders._waiting
    steps.gate.set()
    assert await working == PREPARED
    assert await decoders.decode(as_classifier(steps), large) == PREPARED
    decoders.close()


async def test_an_image_is_decoded_on_the_calling_thread_where_there_is_room() -> None:
    steps, decoders = Steps(free=True), some()
    large = f"{ROOM * 3 // 4}".encode()
    seen: list[float] = []
    assert decoders.decode_here(as_classifier(steps), large, seen.append) == PREPARED
    assert len(seen) == 1
    steps.gate.clear()
    held = asyncio.create_task(decoders.decode(as_classifier(steps), large))
    await steps.seen(2)
    assert decoders.decode_here(as_classifier(steps), large, seen.append) is None
    assert len(seen) == 1
    steps.gate.set()
    assert await held == PREPARED
    with pytest.raises(InvalidImage):
        decoders.decode_here(as_classifier(steps), large + b" ")
    assert decoders.decode_here(as_classifier(steps), large) == PREPARED
    decoders.close()


async def test_an_abandoned_image_gives_its_room_back_when_it_is_done_and_its_turn_at_once() -> None:
    steps, decoders = Steps(), some()
    large = f"{ROOM * 3 // 4}".encode()
    working, waiting, last = (asyncio.create_task(decoders.decode(as_classifier(steps), large)) for _ in range(3))
    await steps.seen(1)
    await asyncio.sleep(0.01)
    working.cancel()
    waiting.cancel()
    await asyncio.sleep(0.01)
    assert len(steps.begun) == 1  # a thread still holds what the first took
    steps.gate.set()
    assert await last == PREPARED
    assert len(steps.begun) == 2
    decoders.close()


async def test_what_a_step_fails_with_is_the_caller_s_and_frees_its_room() -> None:
    steps, decoders = Steps(free=True), some()
    broken = f"{ROOM} ".encode()
    for _ in range(3):
        with pytest.raises(InvalidImage, match="broken"):
            await decoders.decode(as_classifier(steps), broken)
    seconds: list[float] = []
    assert await decoders.decode(as_classifier(steps), b"%d" % ROOM, seconds.append) == PREPARED
    assert len(seconds) == 1
    decoders.close()


async def test_who_waits_when_the_service_stops_is_told() -> None:
    steps, decoders = Steps(), some(threads=1)
    large = f"{ROOM * 3 // 4}".encode()
    tasks = [asyncio.create_task(decoders.decode(as_classifier(steps), data)) for data in (large, large, b"1", b"2")]
    await steps.seen(1)
    await asyncio.sleep(0.01)
    decoders.close()
    steps.gate.set()
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == PREPARED
    assert all(isinstance(result, asyncio.CancelledError) for result in results[1:])


IMAGES = st.lists(st.integers(0, 2 * ROOM), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(images=st.lists(st.tuples(IMAGES, st.booleans()), min_size=1, max_size=30), threads=st.integers(1, 5))
def test_every_image_ends_whatever_comes_and_goes(images: list[tuple[list[int], bool]], threads: int) -> None:
    async def scenario() -> None:
        steps, decoders = Steps(free=True), some(threads)
        classifier = as_classifier(steps)
        tasks = [asyncio.create_task(decoders.decode(classifier, " ".join(map(str, i)).encode())) for i, _ in images]
        await asyncio.sleep(0)
        for task, (_, goes) in zip(tasks, images, strict=True):
            if goes:
                task.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)
            # Those who were left are still at work; after them there is room for the largest at once.
            assert await decoders.decode(classifier, b"%d" % (2 * ROOM)) == PREPARED
        decoders.close()
        assert isinstance(decoders._threads, ThreadPoolExecutor)
        decoders._threads.shutdown(wait=True)
        assert (decoders._held, len(decoders._waiting)) == (0, 0)

    asyncio.run(scenario())

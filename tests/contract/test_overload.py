"""More than can be answered: who is refused, how soon, and that nothing is done for those who have left."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from model.classifier import Classifier, Probabilities
from model.preprocessing import Pixels
from service.callers import CALLER, Caller
from tests.asgi import assert_problem, metric_values, running, until
from tests.contract.test_predict import IMAGE, PREDICT, form

pytestmark = pytest.mark.anyio
VERSION = "model=tiny,version=1"
Hold = Callable[[], threading.Event]


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Called, it lets every engine wait from then on until what it returns is set."""
    free = threading.Event()
    classify = Classifier.classify

    def wait(classifier: Classifier, pixels: Pixels, *, spread: bool = False) -> Probabilities:
        free.wait(30)
        return classify(classifier, pixels, spread=spread)

    def begin() -> threading.Event:
        monkeypatch.setattr(Classifier, "classify", wait)
        return free

    yield begin
    free.set()


async def waiting(client: httpx.AsyncClient, count: int) -> None:
    """Wait until so many images wait for the engine."""

    async def there() -> bool:
        return (await metric_values(client))["hubel_queue_length", VERSION] == count

    await until(there)


async def test_a_request_whose_answer_would_come_too_late_is_refused_at_once(published_tiny: Path, hold: Hold) -> None:
    async with running(published_tiny, max_batch_size=1, threads=1) as client:
        served = client._transport.app.state.host.models["tiny"].versions[1].served  # type: ignore[attr-defined]
        served._admission.seconds_per_item = 1.0
        free = hold()
        before = [asyncio.create_task(client.post(PREDICT, content=IMAGE)) for _ in range(3)]
        await waiting(client, 2)
        refused = await client.post(PREDICT, params={"timeout_ms": 2000}, content=IMAGE)
        body = assert_problem(
            refused, 503, "queue-full", "3 images are being answered", "an answer is expected in 6000 ms"
        )
        assert body["limit"] == "timeout_ms"
        assert int(refused.headers["retry-after"]) in (2, 3)
        assert (await metric_values(client))["hubel_overload_refusals_total", VERSION] == 1
        free.set()
        assert [answer.status_code for answer in await asyncio.gather(*before)] == [200] * 3


async def test_who_is_refused_anyway_is_refused_before_the_body_is_read(published_tiny: Path, hold: Hold) -> None:
    async with running(published_tiny, max_queue_size=1, max_images_per_request=1) as client:
        free = hold()
        first = asyncio.create_task(client.post(PREDICT, content=IMAGE))
        await until(lambda: admitted(client))
        read = []

        async def body() -> AsyncIterator[bytes]:
            read.append(1)
            yield IMAGE

        assert_problem(await client.post(PREDICT, content=body()), 503, "queue-full")
        assert not read
        free.set()
        assert (await first).status_code == 200


async def admitted(client: httpx.AsyncClient) -> bool:
    host = client._transport.app.state.host  # type: ignore[attr-defined]
    return not host.models["tiny"].versions[1].served.idle


async def test_the_bytes_of_decoded_images_are_bounded(published_tiny: Path, hold: Hold) -> None:
    pixels = 2**20 // (12 * 12 * 3)
    async with running(
        published_tiny, max_queue_bytes=2**20, max_queue_size=9999, max_images_per_request=9999
    ) as client:
        never = await client.post(PREDICT, files=form(*[b"x"] * (pixels + 1)))
        assert assert_problem(never, 413, "too-many-images", "of 432 bytes")["setting"] == "HUBEL_MAX_QUEUE_BYTES"
        free = hold()
        first = asyncio.create_task(client.post(PREDICT, content=IMAGE))
        await until(lambda: admitted(client))
        full = await client.post(PREDICT, files=form(*[b"x"] * pixels))
        assert assert_problem(full, 503, "queue-full", "limit of 1048576")["setting"] == "HUBEL_MAX_QUEUE_BYTES"
        free.set()
        assert (await first).status_code == 200


async def test_the_bytes_of_all_bodies_together_are_bounded(published_tiny: Path) -> None:
    async with running(published_tiny, max_body_bytes=4000, max_pending_body_bytes=6000) as client:
        more = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield IMAGE
            await more.wait()
            yield b""

        holding = asyncio.create_task(client.post(PREDICT, content=slowly()))
        await asyncio.sleep(0.1)
        refused = await client.post(PREDICT, content=IMAGE)
        assert assert_problem(refused, 503, "queue-full", "more than 6000")["setting"] == "HUBEL_MAX_PENDING_BODY_BYTES"
        assert int(refused.headers["retry-after"]) >= 1
        more.set()
        assert (await holding).status_code == 200
        assert (await client.post(PREDICT, content=IMAGE)).status_code == 200


@pytest.mark.parametrize(("asked", "limit"), [(300, "timeout_ms"), (90_000, "max_timeout_ms")])
async def test_a_request_s_own_timeout_may_be_longer_up_to_a_limit(
    published_tiny: Path, hold: Hold, asked: int, limit: str
) -> None:
    async with running(published_tiny, request_timeout_ms=50, max_timeout_ms=600) as client:
        free = hold()
        answer = await client.post(PREDICT, params={"timeout_ms": asked}, content=IMAGE)
        assert assert_problem(answer, 504, "deadline-exceeded")["limit"] == limit
        free.set()


@pytest.mark.parametrize("stage", ["body", "queue", "engine"])
async def test_nothing_is_done_for_a_caller_that_has_left(published_tiny: Path, hold: Hold, stage: str) -> None:
    async with running(published_tiny, max_batch_size=1) as client:
        app = client._transport.app  # type: ignore[attr-defined]
        free = hold()
        first = None if stage == "engine" else asyncio.create_task(client.post(PREDICT, content=IMAGE))
        await until(lambda: admitted(client)) if first else None
        caller, arrived = Caller(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield IMAGE
            arrived.set()
            if stage == "body":
                await asyncio.sleep(60)

        async def with_caller(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, CALLER: caller}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_caller), base_url="http://hubel") as leaving:
            leaves = asyncio.create_task(leaving.post(PREDICT, content=body()))
            await arrived.wait()
            await (waiting(client, 1) if stage == "queue" else asyncio.sleep(0.1))
            caller.leave()
            assert (await leaves).status_code == 499
        values = await metric_values(client)
        assert values["hubel_queue_length", VERSION] == 0
        dropped = values["hubel_dropped_images_total", f"{VERSION.replace(',', ',reason=caller_left,')}"]
        assert dropped == (stage == "queue")
        free.set()
        if first:
            assert (await first).status_code == 200
        assert (await client.post(PREDICT, content=IMAGE)).status_code == 200
        assert not await admitted(client)

"""Canary and shadow over the application: who answers, what is compared, and what a failing version cannot do."""

import asyncio
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from model.classifier import Classifier
from model.engines.base import Logits
from model.engines.selection import EngineChoice
from model.errors import CorruptCheckpoint, RegistryUnavailable
from model.preprocessing import Pixels
from model.registry import Registry, StoredVersion
from model.state import Canary, Shadow, State, Traffic
from model.types import ModelRef
from service import loading
from service.traffic import falls_to
from tests.asgi import metric_values, running, until
from tests.fakes import encode, noise
from tests.publishers import publish_again

pytestmark = pytest.mark.anyio

IMAGE = encode(noise(12, 12))
PREDICT = "/v1/models/tiny/predict"
SECOND = "model=tiny,version=2"


class Telling:
    """An engine that gives every image the same probabilities; it can be slow, held up and broken."""

    name = "telling"
    device = "cpu"
    one_core = False

    def __init__(self, *probabilities: float) -> None:
        self.logits = np.log(np.array(probabilities, np.float32))
        self.error: Exception | None = None
        self.seconds = 0.0
        self.open = threading.Event()
        self.open.set()

    def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
        assert self.open.wait(20)
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return np.tile(self.logits, (len(pixels), 1))

    def stop(self) -> None:
        """It never takes long."""

    def release(self) -> None:
        """It holds nothing."""


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[int, Telling]:
    """The engines of versions 1 to 3: cow, ant, and cow again; another version cannot be loaded."""
    engines = {1: Telling(0.1, 0.2, 0.7), 2: Telling(0.6, 0.3, 0.1), 3: Telling(0.2, 0.2, 0.6)}

    def load(version: StoredVersion, choice: EngineChoice) -> Classifier:
        if version.number not in engines:
            raise CorruptCheckpoint("it is broken")
        return Classifier(version.manifest, engines[version.number])

    monkeypatch.setattr(loading, "load_classifier", load)
    return engines


@pytest.fixture
def registry(tiny_root: Path, tiny: StoredVersion, engines: dict[int, Telling]) -> Registry:
    """A registry with four versions, of which the first is `production` and `stable`."""
    registry = Registry(tiny_root)
    for _ in range(3):
        publish_again(registry, tiny)
    registry.promote(ModelRef.parse("tiny:1"), "stable")
    return registry


def divide(registry: Registry, *, canary: Canary | None = None, shadow: Shadow | None = None) -> Path:
    """Set the traffic, and return the registry's folder."""
    registry.change("tiny", lambda state: state.with_traffic(Traffic(canary=canary, shadow=shadow)))
    return Path(registry.address)


async def ask(client: httpx.AsyncClient, path: str = PREDICT, **headers: str) -> int:
    """Return the version that answered."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await client.post(path, content=IMAGE, headers=named)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["version"])


async def counted(client: httpx.AsyncClient, name: str, labels: str = SECOND) -> float:
    return (await metric_values(client)).get((f"hubel_{name}", labels), 0.0)


async def dropped(client: httpx.AsyncClient) -> dict[str, float]:
    """Requests that the shadow was not asked, by reason."""
    found = await metric_values(client)
    return {
        labels.split("reason=")[1].split(",")[0]: value
        for (name, labels), value in found.items()
        if name == "hubel_shadow_dropped_requests_total"
    }


async def compared(client: httpx.AsyncClient, count: int, labels: str = SECOND) -> None:
    """Wait until the shadow has been compared on `count` images and is free again."""

    async def done() -> bool:
        return await counted(client, "shadow_images_total", labels) == count

    await until(done)


# ---- canary


async def test_a_canary_of_ten_percent_answers_a_tenth_of_the_requests(registry: Registry) -> None:
    async with running(divide(registry, canary=Canary(version=2, percent=10))) as client:
        answers = [await ask(client, x_request_id=f"request-{number}") for number in range(2000)]
    assert set(answers) == {1, 2}
    assert 160 <= answers.count(2) <= 240


async def test_a_caller_is_always_on_the_same_side(registry: Registry) -> None:
    async with running(divide(registry, canary=Canary(version=2, percent=50))) as client:
        sides = [{await ask(client, x_client_id=f"caller-{number}") for _ in range(4)} for number in range(30)]
    assert all(len(side) == 1 for side in sides)
    assert set.union(*sides) == {1, 2}


async def test_the_canary_s_own_header_decides_and_no_other(registry: Registry) -> None:
    async with running(divide(registry, canary=Canary(version=2, percent=50, header="X-Tenant"))) as client:
        mine = [await ask(client, x_tenant="mine") for _ in range(8)]
        others = [await ask(client, x_client_id="mine", x_request_id=f"r-{number}") for number in range(30)]
    assert len(set(mine)) == 1
    assert set(others) == {1, 2}


async def test_without_the_header_the_request_s_id_decides(registry: Registry) -> None:
    async with running(divide(registry, canary=Canary(version=2, percent=50))) as client:
        for number in range(20):
            request = f"request-{number}"
            assert await ask(client, x_request_id=request) == 1 + falls_to(50, "tiny", 2, request, "canary")


async def test_only_requests_for_production_are_diverted(registry: Registry) -> None:
    async with running(divide(registry, canary=Canary(version=2, percent=100))) as client:
        for path in ("/v1/predict", PREDICT, "/v1/models/tiny@production/predict"):
            assert await ask(client, path) == 2
        for path in ("/v1/models/tiny:1/predict", "/v1/models/tiny@stable/predict"):
            assert await ask(client, path) == 1


@pytest.mark.parametrize("version", [4, 9])
async def test_a_canary_that_cannot_be_loaded_leaves_everything_to_production(version: int, registry: Registry) -> None:
    async with running(divide(registry, canary=Canary(version=version, percent=100))) as client:
        assert {await ask(client) for _ in range(5)} == {1}
        assert (await client.get("/livez")).status_code == 200


async def test_a_canary_that_is_still_loading_leaves_everything_to_production(
    registry: Registry, engines: dict[int, Telling]
) -> None:
    engines[2].open.clear()
    async with running(divide(registry, canary=Canary(version=2, percent=100)), wait=False) as client:

        async def ready() -> bool:
            return "tiny:1" not in (await client.get("/readyz")).text

        async def diverted() -> bool:
            return await ask(client) == 2

        await until(ready)
        assert {await ask(client) for _ in range(5)} == {1}
        engines[2].open.set()
        await until(diverted)


async def test_a_canary_that_fails_is_taken_out_and_production_answers_everybody(
    registry: Registry, engines: dict[int, Telling]
) -> None:
    root = divide(registry, canary=Canary(version=2, percent=50, min_requests=5))
    async with running(root, registry_poll_seconds=0.05) as client:
        engines[2].error = RuntimeError("out of memory")

        async def taken_out() -> bool:
            await asyncio.gather(*(client.post(PREDICT, content=IMAGE) for _ in range(4)))
            (model,) = (await client.get("/v1/models")).json()["models"]
            return model["traffic"]["canary"] is None

        await until(taken_out)
        assert {await ask(client) for _ in range(20)} == {1}
        (model,) = (await client.get("/health")).json()["models"]
        assert model["rolled_back"]["version"] == 2
        assert "answers were errors" in model["rolled_back"]["reason"]
        assert await counted(client, "canary_rollbacks_total") == 1
    assert registry.state("tiny").rolled_back is not None
    assert registry.state("tiny").aliases["production"] == 1


async def test_a_canary_that_fails_answers_nobody_also_where_the_registry_cannot_be_written(
    registry: Registry, engines: dict[int, Telling], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> State:
        raise RegistryUnavailable("it is mounted read-only")

    root = divide(registry, canary=Canary(version=2, percent=50, min_requests=5))
    monkeypatch.setattr(Registry, "change", refuse)
    async with running(root, registry_poll_seconds=0.05) as client:
        engines[2].error = RuntimeError("out of memory")

        async def stopped() -> bool:
            answers = await asyncio.gather(*(client.post(PREDICT, content=IMAGE) for _ in range(16)))
            return {answer.status_code for answer in answers} == {200}

        await until(stopped)
        assert {await ask(client) for _ in range(20)} == {1}
    assert registry.state("tiny").traffic.canary is not None


async def test_a_canary_that_does_well_is_left_in(registry: Registry) -> None:
    root = divide(registry, canary=Canary(version=2, percent=50, min_requests=5, max_latency_ratio=1000))
    async with running(root, registry_poll_seconds=0.05) as client:
        ends = time.monotonic() + 0.4
        while time.monotonic() < ends:
            await ask(client)
    assert registry.state("tiny").traffic.canary is not None


# ---- shadow


@pytest.mark.parametrize(("version", "agreements", "difference"), [(2, 0, 0.6), (3, 1, 0.1)])
async def test_a_shadow_s_agreement_difference_and_time_are_measured(
    version: int, agreements: int, difference: float, registry: Registry, engines: dict[int, Telling]
) -> None:
    labels = f"model=tiny,version={version}"
    engines[version].seconds = 0.02
    async with running(divide(registry, shadow=Shadow(version=version, percent=100))) as client:
        for number in range(1, 6):
            assert await ask(client) == 1
            await compared(client, number, labels)
        values = await metric_values(client)
        assert await dropped(client) == {}
    assert values["hubel_shadow_agreements_total", labels] == 5 * agreements
    assert values["hubel_shadow_probability_difference_count", labels] == 5
    assert values["hubel_shadow_probability_difference_sum", labels] == pytest.approx(5 * difference, abs=1e-4)
    assert values["hubel_shadow_inference_seconds_total", labels] >= 5 * 0.02
    assert values["hubel_shadowed_inference_seconds_total", labels] > 0


async def test_a_shadow_s_images_are_compared_each_in_its_place(registry: Registry) -> None:
    files = [("images", IMAGE), ("images", b"no image"), ("images", encode(noise(seed=3)))]
    async with running(divide(registry, shadow=Shadow(version=3, percent=100))) as client:
        answer = await client.post(PREDICT, files=files)
        assert [bool(result.get("error")) for result in answer.json()["results"]] == [False, True, False]
        await compared(client, 2, "model=tiny,version=3")
        assert await counted(client, "shadow_agreements_total", "model=tiny,version=3") == 2


async def test_a_shadow_is_asked_for_its_share_alone(registry: Registry) -> None:
    requests = [f"request-{number}" for number in range(40)]
    expected = sum(falls_to(25, "tiny", 2, request, "shadow") for request in requests)
    async with running(divide(registry, shadow=Shadow(version=2, percent=25))) as client:
        for request in requests:
            await ask(client, x_request_id=request)

        async def done() -> bool:
            asked = await counted(client, "shadow_images_total")
            return asked + sum((await dropped(client)).values()) == expected

        await until(done)
    assert 0 < expected < len(requests)


async def test_a_shadow_is_asked_only_what_production_was_asked(registry: Registry) -> None:
    async with running(divide(registry, shadow=Shadow(version=2, percent=100))) as client:
        for path in ("/v1/models/tiny:1/predict", "/v1/models/tiny@stable/predict"):
            assert await ask(client, path) == 1
        await ask(client)
        await compared(client, 1)


async def test_a_busy_shadow_drops_and_counts_and_nobody_waits(registry: Registry, engines: dict[int, Telling]) -> None:
    async with running(divide(registry, shadow=Shadow(version=2, percent=100))) as client:
        engines[2].open.clear()
        assert [await ask(client) for _ in range(4)] == [1] * 4
        assert await dropped(client) == {"busy": 3}
        engines[2].open.set()
        await compared(client, 1)


async def test_a_busy_production_is_not_given_more_to_do(registry: Registry, engines: dict[int, Telling]) -> None:
    async with running(divide(registry, shadow=Shadow(version=2, percent=100)), max_batch_size=1) as client:
        engines[1].seconds = 0.05
        await asyncio.gather(*(ask(client) for _ in range(3)))
        await compared(client, 1)  # the last of the three left production idle
        assert await dropped(client) == {"busy": 2}


async def test_more_images_than_a_batch_are_not_asked_of_a_shadow(registry: Registry) -> None:
    async with running(divide(registry, shadow=Shadow(version=2, percent=100)), max_batch_size=2) as client:
        answer = await client.post(PREDICT, files=[("images", IMAGE)] * 3)
        assert answer.status_code == 200
        assert await dropped(client) == {"many images": 1}


async def test_a_failing_shadow_is_counted_and_never_touches_an_answer(
    registry: Registry, engines: dict[int, Telling], caplog: pytest.LogCaptureFixture
) -> None:
    root = divide(registry, shadow=Shadow(version=2, percent=100))
    async with running(root) as client:
        plain = await client.post("/v1/models/tiny:1/predict", content=IMAGE)
        engines[2].error = RuntimeError("out of memory")
        for count in range(1, 4):
            answer = await client.post(PREDICT, content=IMAGE)
            assert (answer.status_code, answer.text) == (200, plain.text)

            async def failed(count: int = count) -> bool:
                return await dropped(client) == {"failed": count}

            await until(failed)
        engines[2].error = None
        await ask(client)
        await compared(client, 1)
    assert "shadow tiny:2 failed" in caplog.text
    assert registry.state("tiny").traffic.shadow is not None


async def test_a_shadow_that_cannot_be_loaded_is_counted(registry: Registry) -> None:
    async with running(divide(registry, shadow=Shadow(version=4, percent=100))) as client:
        assert await ask(client) == 1
        assert await dropped(client) == {"not loaded": 1}


async def test_a_shadow_that_is_production_is_not_asked(registry: Registry) -> None:
    """Only a state that was written by hand has one."""
    traffic = Traffic(shadow=Shadow(version=1, percent=100))
    registry.change("tiny", lambda state: state.model_copy(update={"traffic": traffic}))
    async with running(Path(registry.address)) as client:
        assert await ask(client) == 1
        assert (await dropped(client), await counted(client, "shadow_images_total", "model=tiny,version=1")) == ({}, 0)


async def test_a_version_that_a_shadow_is_compared_with_is_not_unloaded_meanwhile(
    registry: Registry, engines: dict[int, Telling]
) -> None:
    registry.promote(ModelRef.parse("tiny:3"), "stable")
    async with running(divide(registry, shadow=Shadow(version=2, percent=100)), registry_poll_seconds=0.05) as client:

        async def states() -> list[str]:
            (model,) = (await client.get("/v1/models")).json()["models"]
            return [version["state"] for version in model["versions"]]

        async def leaves() -> bool:
            return (await states())[0] == "draining"

        async def gone() -> bool:
            return (await states())[0] == "stored"

        engines[2].open.clear()
        assert await ask(client) == 1
        registry.promote(ModelRef.parse("tiny:3"))
        await until(leaves)
        engines[2].open.set()
        await compared(client, 1)
        await until(gone)
        assert await dropped(client) == {}


async def test_canary_and_shadow_are_independent_shares(registry: Registry) -> None:
    root = divide(registry, canary=Canary(version=2, percent=50), shadow=Shadow(version=3, percent=50))
    found = set()
    async with running(root) as client:
        for number in range(40):
            request = f"request-{number}"
            found.add((await ask(client, x_request_id=request), falls_to(50, "tiny", 3, request, "shadow")))
    assert found == {(1, False), (1, True), (2, False), (2, True)}

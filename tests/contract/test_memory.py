"""What a crowd's batches have taken is given back when the crowd has gone."""

from pathlib import Path

import pytest

from model.engines.onnx import OnnxEngine
from service import hosting, served
from tests.asgi import running, until
from tests.contract.test_predict import PREDICT
from tests.fakes import encode, noise

pytestmark = pytest.mark.anyio


async def test_a_version_gives_memory_back_when_it_is_loaded_and_once_each_time_it_comes_to_rest(
    published_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = list[OnnxEngine]()
    release = OnnxEngine.release

    def note(engine: OnnxEngine) -> None:
        release(engine)
        released.append(engine)

    monkeypatch.setattr(OnnxEngine, "release", note)
    monkeypatch.setattr(served, "REST_SECONDS", 0.05)
    monkeypatch.setattr(hosting, "WATCH_SECONDS", 0.01)
    async with running(published_tiny) as client:
        assert len(released) == 1  # once it was warm
        looks = 0

        async def looked_often() -> bool:
            nonlocal looks
            looks += 1
            return looks > 30

        for rests in (2, 3):
            assert (await client.post(PREDICT, content=encode(noise()))).status_code == 200

            async def rested(rests: int = rests) -> bool:
                return len(released) == rests

            await until(rested)
            looks = 0
            await until(looked_often)
            assert len(released) == rests
    assert len(set(released)) == 1

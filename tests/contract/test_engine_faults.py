"""Engines that raise, are slow, or hang: who fails, who does not, and what becomes of the process."""

import asyncio
import math
import threading
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from model.classifier import Classifier, Probabilities
from model.engines.onnx import OnnxEngine
from model.errors import InvalidImage
from model.preprocessing import ImageLimits, Pixels, PreparedImage
from service import hosting, loading, served
from service.hosted import LoadState
from tests.asgi import assert_problem, metric_values, running, until
from tests.contract.test_predict import PREDICT, form
from tests.fakes import encode, noise

pytestmark = pytest.mark.anyio
GOOD, OTHER, BAD = (encode(noise(seed=seed)) for seed in range(3))
FAILED = ("hubel_engine_failures_total", "error=RuntimeError,model=tiny,version=1")


class Faulty:
    """Takes the place of `Classifier.classify`: fails on marked images, or waits until it may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.marked: list[Pixels] = []
        self.batches: list[int] = []
        self.stopped = False
        self.free = threading.Event()
        self.free.set()
        self._classify = Classifier.classify
        faulty = self

        def classify(self: Classifier, pixels: Pixels, *, spread: bool = False) -> Probabilities:
            return faulty.run(self, pixels)

        monkeypatch.setattr(Classifier, "classify", classify)

    def stop(self) -> None:
        """End the run as a runtime does: with an exception of its own."""
        self.stopped = True
        self.free.set()

    def release(self) -> None:
        """It holds nothing."""

    def run(self, classifier: Classifier, pixels: Pixels) -> Probabilities:
        self.batches.append(len(pixels))
        if not self.free.wait(30):
            raise AssertionError
        if self.stopped:
            self.stopped = False
            raise RuntimeError("stopped")
        if any(np.array_equal(image, mark) for image in pixels for mark in self.marked):
            raise RuntimeError("the secret cause")
        return self._classify(classifier, pixels, spread=False)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Faulty:
    return Faulty(monkeypatch)


@pytest.fixture
def marked(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """An engine that fails on the image BAD."""
    prepare = Classifier.prepare_in_steps

    def note(classifier: Classifier, data: bytes, limits: ImageLimits) -> Generator[int, None, PreparedImage]:
        prepared = yield from prepare(classifier, data, limits)
        if data == BAD:
            faulty.marked.append(prepared.pixels)
        return prepared

    monkeypatch.setattr(Classifier, "prepare_in_steps", note)
    return faulty


async def test_an_image_that_breaks_its_batch_fails_alone(published_tiny: Path, marked: Faulty) -> None:
    async with running(published_tiny, threads=1) as client:
        marked.batches.clear()
        answer = await client.post(PREDICT, files=form(GOOD, BAD, OTHER))
        assert answer.status_code == 200
        good, bad, other = answer.json()["results"]
        assert "predictions" in good
        assert "predictions" in other
        assert bad["error"]["type"] == "urn:hubel:problem:inference-failed"
        assert "secret" not in answer.text
        assert marked.batches == [3, 1, 1, 1]
        assert (await metric_values(client))[FAILED] == 2  # the batch, and the image alone
        assert_problem(await client.post(PREDICT, content=BAD), 500, "inference-failed")
        assert_problem(await client.post(PREDICT, files=form(BAD, BAD)), 500, "inference-failed")
        assert (await client.post(PREDICT, content=GOOD)).status_code == 200


async def test_an_engine_that_takes_too_long_is_stopped_and_goes_on(
    published_tiny: Path, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(published_tiny, engine_timeout_ms=50) as client:
        monkeypatch.setattr(OnnxEngine, "stop", lambda _: faulty.stop())
        faulty.free.clear()
        body = assert_problem(await client.post(PREDICT, content=GOOD), 504, "engine-timeout", "within 50 ms")
        assert body["setting"] == "HUBEL_ENGINE_TIMEOUT_MS"
        assert (await client.post(PREDICT, content=GOOD)).status_code == 200
        assert (await client.get("/readyz")).status_code == 200


async def test_an_engine_that_hangs_ends_its_process_and_those_who_wait_are_told(
    published_tiny: Path, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "STOP_SECONDS", 0.05)
    async with running(published_tiny, engine_timeout_ms=50, max_batch_size=1) as client:
        faulty.free.clear()
        answer = await client.post(PREDICT, files=form(GOOD, OTHER))
        assert_problem(answer, 503, "model-not-ready", "neither answers nor stops", "replaced")
        assert int(answer.headers["retry-after"]) >= 1
        assert_problem(await client.post(PREDICT, content=GOOD), 503, "model-not-ready", "replaced")
        for path in ("/readyz", "/health"):
            told = await client.get(path)
            assert told.status_code == 503
            assert "tiny:1 neither answers nor stops" in told.text
        assert (await client.get("/livez")).status_code == 200
        app = client._transport.app  # type: ignore[attr-defined]
        assert "tiny:1" in app.state.lifecycle.fault
        faulty.free.set()


async def test_a_decoder_that_hangs_ends_its_process_though_nobody_waits_for_it(
    published_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()

    def hang(*_: object) -> Generator[int, None, PreparedImage]:
        yield 1
        free.wait(30)
        raise InvalidImage("at last")

    for module in (served, hosting):
        monkeypatch.setattr(module, "STOP_SECONDS", 0.1)
    monkeypatch.setattr(Classifier, "prepare_in_steps", hang)
    async with running(published_tiny, engine_timeout_ms=100, registry_poll_seconds=0.05) as client:
        answer = await client.post(PREDICT, params={"timeout_ms": 20}, content=GOOD)
        assert_problem(answer, 504, "deadline-exceeded")

        async def unready() -> bool:
            return (await client.get("/readyz")).status_code == 503

        await until(unready)
        assert "this process ends" in (await client.get("/readyz")).text
        free.set()


async def test_an_engine_that_hangs_while_its_version_leaves_ends_its_process(
    published_tiny: Path, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "STOP_SECONDS", 0.05)
    async with running(published_tiny, engine_timeout_ms=200) as client:
        state = client._transport.app.state  # type: ignore[attr-defined]
        faulty.free.clear()
        answer = await client.post(PREDICT, params={"timeout_ms": 20}, content=GOOD)
        assert_problem(answer, 504, "deadline-exceeded")
        leaving = asyncio.create_task(state.host.models["tiny"].versions[1].served.unload())

        async def given_up() -> bool:
            return "does not stop, and cannot be unloaded" in state.lifecycle.fault

        await until(given_up)
        assert not leaving.done()
        faulty.free.set()
        await leaving


async def test_a_version_that_hangs_while_it_is_loaded_is_given_up_and_not_tried_again(
    published_tiny: Path, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_LOADING_SECONDS", 0.3)
    faulty.free.clear()
    async with running(published_tiny, wait=False) as client:
        host = client._transport.app.state.host  # type: ignore[attr-defined]

        async def failed() -> bool:
            return bool(host.models["tiny"].versions[1].state is LoadState.FAILED)

        await until(failed)
        version = host.models["tiny"].versions[1]
        assert "within 0.3 s: it hangs" in version.reason
        assert version.retry_at == math.inf
        assert host._loader._turns._value == 2
        faulty.free.set()


async def test_a_slow_engine_is_not_taken_for_one_that_hangs(published_tiny: Path, faulty: Faulty) -> None:
    async with running(published_tiny, engine_timeout_ms=5000) as client:
        faulty.free.clear()
        threading.Timer(0.2, faulty.free.set).start()
        assert (await client.post(PREDICT, content=GOOD)).status_code == 200


def test_onnx_runtime_can_be_stopped_and_used_again(published_tiny: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    # An endless loop: nothing but being stopped ends it.
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["x"], ["x2"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("c", 9, []),
         helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("c2", 9, []), helper.make_tensor_value_info("x2", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["go"]),
        helper.make_node("Loop", ["", "go", "floats"], ["looped"], body=body),
        helper.make_node("ReduceMean", ["looped", "axes"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 2, 2, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array(0, np.float32), "zero"), numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    folder = published_tiny / "endless"
    folder.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    engine = OnnxEngine(folder, threads=1)
    threading.Timer(0.2, engine.stop).start()
    with pytest.raises(Exception, match=r"(?i)terminat"):
        engine.infer(np.ones((1, 2, 2, 3), np.uint8))
    assert engine.infer(np.zeros((1, 2, 2, 3), np.uint8)).shape == (1, 3)

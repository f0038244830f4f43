"""Explanations over HTTP: what they answer, what they refuse and why, and the process that computes them."""

import asyncio
import base64
import io
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from model.checkpoint import EXPLAIN_NETWORK, LAYERS
from model.registry import Registry, StoredVersion
from service.explaining import Explainer
from service.explanations import ActivationsOut, ExplanationOut, LayersOut, NeuronOut
from service.lifecycle import lives
from tests.asgi import assert_problem, running, until
from tests.fakes import encode, noise

pytestmark = pytest.mark.anyio
IMAGE = encode(noise(60, 40))
TINY = "/v1/models/tiny"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def client(published_tiny: Path) -> AsyncIterator[httpx.AsyncClient]:
    """One service for all questions: the process that explains begins once."""
    # Its process gets what others leave of the processor, which may be little while tests run.
    async with running(published_tiny, request_timeout_ms=300_000) as client:
        yield client


def explainer_of(client: httpx.AsyncClient) -> Explainer:
    """The part of the service that holds the process."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    explainer: Explainer = transport.app.state.explainer  # type: ignore[attr-defined]
    return explainer


def without_layers(tiny: StoredVersion) -> None:
    """Publish a version that lacks what its layers are shown from."""
    registry = Registry(tiny.folder.parent.parent)
    with registry.staging(tiny.name) as folder:
        for path in tiny.folder.iterdir():
            if path.name not in ("manifest.json", EXPLAIN_NETWORK, LAYERS):
                shutil.copy(path, folder)
        registry.publish(folder, tiny.manifest, None)


# ---- what is answered


async def test_the_network_is_told_as_a_graph(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{TINY}/layers")
    assert answer.status_code == 200
    body = LayersOut.model_validate_json(answer.content)
    assert (body.model, body.version, body.temperature, body.methods) == ("tiny", 1, 1.0, ["occlusion", "gradcam"])
    layers = {layer.name: layer for layer in body.layers}
    assert list(layers)[:3] == ["input", "normalize", "normalize#2"]
    conv = layers["conv2"]
    assert (conv.kind, conv.inputs, conv.shape, conv.folded) == ("convolution", ("pool1",), (4, 6, 6), ("batch_norm",))
    assert (conv.kernel, conv.stride, conv.padding, conv.dilation, conv.groups) == ((3, 3), (1, 1), (1,) * 4, (1, 1), 1)
    assert conv.receptive_field is not None
    assert (conv.receptive_field.height, conv.receptive_field.stride_y, conv.receptive_field.offset_y) == (8, 2, -3)
    assert layers["classifier"].receptive_field is None
    assert body.filters is not None
    assert (body.filters.layer, np.shape(body.filters.weights)) == ("conv1", (4, 3, 3, 3))
    assert answer.headers["server-timing"].startswith("queue;dur=")


async def test_activations_come_as_pictures_on_one_scale(client: httpx.AsyncClient) -> None:
    query = {"layers": "input, conv1,relu1,classifier"}
    body = (await client.post(f"{TINY}/activations", params=query, content=IMAGE)).json()
    numbers = (await client.post(f"{TINY}/activations", params={**query, "format": "arrays"}, content=IMAGE)).json()
    ActivationsOut.model_validate(body)
    assert (body["image"]["width"], body["crop"]) == (60, {"x": 0, "y": 0, "width": 60, "height": 40})
    for drawn, told in zip(body["layers"], numbers["layers"], strict=True):
        values = np.array(told["values"]).reshape(told["shape"])
        assert (drawn["minimum"], drawn["maximum"]) == (values.min(), values.max())
        assert told["tiles"] is None
        if len(told["shape"]) == 3:
            np.testing.assert_allclose(drawn["means"], values.mean(axis=(1, 2)), rtol=1e-6, atol=1e-7)
            assert drawn["dead"] == [k for k, channel in enumerate(values) if channel.min() == channel.max()]
            picture = Image.open(io.BytesIO(base64.b64decode(drawn["tiles"]["png"])))
            assert picture.mode == ("RGB" if drawn["name"] == "input" else "L")
        else:
            assert drawn["values"] == told["values"]
    predicted = (await client.post(f"{TINY}/predict?top_k=0", content=IMAGE)).json()["results"][0]["predictions"]
    logits = np.array(body["layers"][-1]["values"])
    for each in predicted:
        softmax = np.exp(logits[each["index"]]) / np.exp(logits).sum()
        assert each["probability"] == pytest.approx(softmax, abs=1e-5)


async def test_the_picture_of_a_layer_comes_as_a_file(client: httpx.AsyncClient) -> None:
    for layer in ("conv1", "input"):
        answer = await client.post(f"{TINY}/activations?layers={layer}&format=png", content=IMAGE)
        assert answer.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(answer.content)).format == "PNG"


@pytest.mark.parametrize("method", ["occlusion", pytest.param("gradcam", marks=pytest.mark.extra), None])
async def test_a_class_is_explained(method: str | None, client: httpx.AsyncClient) -> None:
    query = {"class": "bee", **({"method": method} if method else {})}
    answer = await client.post(f"{TINY}/explain", params=query, content=IMAGE)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    ExplanationOut.model_validate(body)
    assert body["method"] == (method or "occlusion")
    assert (body["class"]["label"], body["class"]["index"]) == ("bee", 1)
    assert np.shape(body["map"]["values"]) == (body["map"]["height"], body["map"]["width"])
    assert body["map"]["maximum"] == np.max(body["map"]["values"])
    predicted = (await client.post(f"{TINY}/predict?top_k=0", content=IMAGE)).json()["results"][0]["predictions"]
    (expected,) = (each["probability"] for each in predicted if each["label"] == "bee")
    assert body["class"]["probability"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("form", "size"), [("heatmap", (12, 12)), ("overlay", (60, 40))])
async def test_a_heat_map_comes_as_a_picture(form: str, size: tuple[int, int], client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{TINY}/explain?format={form}", content=IMAGE)
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.size) == ("PNG", size)


async def test_a_value_is_taken_apart(client: httpx.AsyncClient) -> None:
    query = "layer=conv1&channel=2&y=0&x=11"
    body = (await client.post(f"{TINY}/neuron?{query}", content=IMAGE)).json()
    NeuronOut.model_validate(body)
    assert sum(part["sum"] for part in body["inputs"]) == pytest.approx(body["sum"], abs=1e-9)
    assert body["sum"] + body["bias"] == body["value"] == pytest.approx(body["computed"], abs=1e-5)
    assert body["after"]["layer"] == "relu1"
    assert body["after"]["value"] == max(body["computed"], 0)
    assert body["folded"] == ["batch_norm"]
    assert body["receptive_field"] == {"x": 10, "y": 0, "width": 2, "height": 2, "whole": False}


async def test_images_come_as_for_predictions(client: httpx.AsyncClient) -> None:
    form = {"image": ("a.png", IMAGE)}
    coded = {"images": [{"b64": base64.b64encode(IMAGE).decode()}]}
    whole = (await client.post(f"{TINY}/explain", content=IMAGE)).json()
    assert (await client.post(f"{TINY}/explain", files=form)).json() == whole
    assert (await client.post(f"{TINY}/explain", json=coded)).json() == whole


# ---- what is refused


@pytest.mark.parametrize(
    ("path", "status", "slug", "words"),
    [
        ("activations?layers=conv7", 422, "no-such-part", "there is no layer 'conv7'; there are conv2, conv1"),
        ("activations", 422, "invalid-request", "layers"),
        ("activations?layers=%2C", 422, "invalid-request", "name 1 to 32 layers"),
        ("activations?layers=classifier&format=png", 422, "not-explainable", "has no maps, but 3 values"),
        ("activations?layers=conv1,conv2&format=png", 413, "explanation-too-large", "2 are named"),
        ("neuron?layer=conv1&channel=4&y=0&x=0", 422, "no-such-part", "channel is 4, and may be 0 to 3"),
        ("neuron?layer=conv1&channel=0&y=-1", 422, "invalid-request", "query.y is '-1'"),
        ("neuron?layer=flatten&channel=0", 422, "not-explainable", "of the kind flatten"),
        ("explain?class=wasp", 422, "no-such-part", "'ant', 'bee', 'cow'"),
        ("explain?class=3", 422, "no-such-part", "an index from 0 to 2"),
        ("explain?method=guess", 422, "invalid-request", "'cam', 'gradcam' or 'occlusion'"),
        ("explain?method=cam", 422, "not-explainable", "these work: occlusion"),
        ("explain?windows=17", 413, "explanation-too-large", "cover the image 289 times; the limit is 256"),
        ("explain?colour=red", 422, "invalid-request", "colour"),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_what_can(
    path: str, status: int, slug: str, words: str, client: httpx.AsyncClient
) -> None:
    assert_problem(await client.post(f"{TINY}/{path}", content=IMAGE), status, slug, words)


async def test_limits_are_named_with_their_settings(published_tiny: Path) -> None:
    async with running(
        published_tiny, max_explained_values=575, max_image_pixels=3000, request_timeout_ms=300_000
    ) as client:
        answer = await client.post(f"{TINY}/activations?layers=conv1&format=arrays", content=IMAGE)
        body = assert_problem(answer, 413, "explanation-too-large", "576 values", "575")
        assert (body["limit"], body["setting"]) == ("max_explained_values", "HUBEL_MAX_EXPLAINED_VALUES")
        large = encode(noise(80, 60))
        body = assert_problem(await client.post(f"{TINY}/explain", content=large), 413, "image-too-large")
        assert body["setting"] == "HUBEL_MAX_IMAGE_PIXELS"


@pytest.mark.parametrize("what", ["activations?layers=conv1", "explain", "neuron?layer=conv1&channel=0"])
async def test_what_is_no_image_is_refused_as_for_predictions(what: str, client: httpx.AsyncClient) -> None:
    assert_problem(await client.post(f"{TINY}/{what}", content=b"hello"), 422, "invalid-image")
    assert_problem(await client.post(f"{TINY}/{what}", content=b""), 422, "invalid-image", "0 bytes")
    assert_problem(await client.post(f"{TINY}/{what}", content=b"%PDF-1.4"), 415, "unsupported-format", "PDF")
    two = [("a", ("a.png", IMAGE)), ("b", ("b.png", IMAGE))]
    assert_problem(await client.post(f"{TINY}/{what}", files=two), 422, "invalid-request", "one image")
    broken = {"images": [{"b64": "?"}]}
    assert_problem(await client.post(f"{TINY}/{what}", json=broken), 422, "invalid-image", "base64")


async def test_models_that_are_not_there_are_told_of(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/v1/models/dogs/layers"), 404, "model-not-found")
    assert_problem(await client.post("/v1/models/tiny:9/explain", content=IMAGE), 404, "version-not-found")


async def test_a_version_without_its_layers_says_what_works(tiny_root: Path, tiny: StoredVersion) -> None:
    without_layers(tiny)
    async with running(tiny_root, request_timeout_ms=300_000) as client:
        url = "/v1/models/tiny:2"
        assert_problem(await client.get(f"{url}/layers"), 422, "not-explainable", "model.explain.onnx", "occlusion")
        for path in ("activations?layers=input", "explain?method=cam", "neuron?layer=conv1&channel=0"):
            assert_problem(await client.post(f"{url}/{path}", content=IMAGE), 422, "not-explainable", "occlusion works")
        answer = await client.post(f"{url}/explain", content=IMAGE)
        assert answer.json()["method"] == "occlusion"


async def test_a_key_is_asked_for(published_tiny: Path) -> None:
    async with running(published_tiny, api_keys="phone predict sha256:" + "0" * 64, wait=False) as client:
        for path in ("activations?layers=conv1", "explain", "neuron?layer=conv1&channel=0"):
            assert_problem(await client.post(f"{TINY}/{path}", content=IMAGE), 401, "unauthorized")
        assert_problem(await client.get(f"{TINY}/layers"), 401, "unauthorized")


# ---- the process


async def test_who_does_not_explain_has_no_process_for_it(published_tiny: Path) -> None:
    async with running(published_tiny, request_timeout_ms=300_000) as client:
        assert (await client.post(f"{TINY}/predict", content=IMAGE)).status_code == 200
        assert explainer_of(client).pid is None


async def test_the_process_has_the_lowest_priority_and_ends_when_nobody_asks(published_tiny: Path) -> None:
    async with running(published_tiny, explain_idle_seconds=0.5, request_timeout_ms=300_000) as client:
        assert (await client.get(f"{TINY}/layers")).status_code == 200
        pid = explainer_of(client).pid
        assert pid is not None
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE

        async def has_ended() -> bool:
            return not lives(pid)

        await until(has_ended)
        assert explainer_of(client).pid is None
        assert (await client.get(f"{TINY}/layers")).status_code == 200
        last = explainer_of(client).pid
        assert last not in (None, pid)
    assert last is not None
    assert not lives(last)


async def test_a_process_that_dies_while_it_computes_fails_its_question_alone(published_tiny: Path) -> None:
    async with running(published_tiny, request_timeout_ms=300_000) as client:
        assert (await client.get(f"{TINY}/layers")).status_code == 200
        pid = explainer_of(client).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # so that it has the question when it dies
        asked = asyncio.create_task(client.get(f"{TINY}/layers"))
        following = asyncio.create_task(client.post(f"{TINY}/explain", content=IMAGE))
        await asyncio.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        assert_problem(await asked, 500, "inference-failed")
        assert (await following).status_code == 200


async def test_a_process_that_died_meanwhile_is_replaced(published_tiny: Path) -> None:
    async with running(published_tiny, request_timeout_ms=300_000) as client:
        assert (await client.get(f"{TINY}/layers")).status_code == 200
        explainer = explainer_of(client)
        pid = explainer.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        async def is_noticed() -> bool:
            return explainer.pid is None

        await until(is_noticed)
        assert (await client.get(f"{TINY}/layers")).status_code == 200


def test_the_process_knows_no_key(published_tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBEL_ADMIN_KEY", "a secret of sixteen or more")

    async def environment_of_process() -> bytes:
        async with running(published_tiny, request_timeout_ms=300_000) as client:
            await client.get(f"{TINY}/layers")
            return await asyncio.to_thread(Path(f"/proc/{explainer_of(client).pid}/environ").read_bytes)

    assert b"HUBEL_" not in asyncio.run(environment_of_process())


async def test_beyond_the_line_is_refused_and_told_when_to_come_back(published_tiny: Path) -> None:
    async with running(published_tiny, max_explanations=2, request_timeout_ms=300_000) as client:
        answers = await asyncio.gather(*(client.post(f"{TINY}/explain", content=IMAGE) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
        for answer in answers:
            if answer.status_code == 503:
                body = assert_problem(answer, 503, "queue-full", "the limit is 2")
                assert body["setting"] == "HUBEL_MAX_EXPLANATIONS"
                assert int(answer.headers["retry-after"]) >= 1
        assert (await client.post(f"{TINY}/explain", content=IMAGE)).status_code == 200


async def test_a_question_s_time_is_kept_and_the_next_one_is_answered(published_tiny: Path) -> None:
    async with running(published_tiny, request_timeout_ms=300_000) as client:
        pid = explainer_of(client).pid
        late = await client.post(f"{TINY}/explain?timeout_ms=1", content=IMAGE)
        assert_problem(late, 504, "deadline-exceeded", "1 ms")
        first, second = await asyncio.gather(
            client.post(f"{TINY}/explain?class=ant", content=IMAGE),
            client.post(f"{TINY}/neuron?layer=conv1&channel=0", content=IMAGE),
        )
        assert first.json()["class"]["label"] == "ant"
        assert second.json()["layer"] == "conv1"
        assert pid is None


async def test_nothing_more_is_computed_for_whoever_has_left(published_tiny: Path) -> None:
    async with running(published_tiny, request_timeout_ms=300_000) as client:
        assert (await client.get(f"{TINY}/layers")).status_code == 200
        explainer = explainer_of(client)
        pid = explainer.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # so that it is slower than whoever leaves
        leaving = asyncio.create_task(client.post(f"{TINY}/explain?method=occlusion", content=IMAGE))

        async def is_asked() -> bool:
            return explainer._computing is not None and not explainer._computing.done()

        await until(is_asked)
        await asyncio.sleep(0.05)
        leaving.cancel()
        following = asyncio.create_task(client.post(f"{TINY}/explain?method=occlusion", content=IMAGE))
        assert explainer._computing is not None
        await asyncio.sleep(0.05)
        computing = explainer._computing
        os.kill(pid, signal.SIGCONT)
        head, _ = await computing
        assert head["error"] == "TooLate"
        assert (await following).json()["method"] == "occlusion"
        assert explainer.pid == pid


async def test_whoever_leaves_takes_no_answer_from_the_next(published_tiny: Path) -> None:
    async with running(published_tiny, request_timeout_ms=300_000) as client:
        await client.get(f"{TINY}/layers")
        pid = explainer_of(client).pid
        for _ in range(3):
            leaving = asyncio.create_task(client.post(f"{TINY}/explain?windows=16", content=IMAGE))
            await asyncio.sleep(0.02)
            leaving.cancel()
            answer = await client.post(f"{TINY}/neuron?layer=conv2&channel=1", content=IMAGE)
            assert answer.json()["layer"] == "conv2"
        assert explainer_of(client).pid == pid

"""The prediction routes: the three forms of a request, what comes back, and every bad input."""

import asyncio
import base64
import gzip
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.classifier import Classifier
from model.preprocessing import Pixels
from service import hosting, served
from service.schemas import PredictResponse
from tests.asgi import assert_problem, running
from tests.fakes import encode, noise
from tests.unit.model.test_preprocessing import bomb

pytestmark = pytest.mark.anyio
IMAGE = encode(noise(seed=1))
PREDICT = "/v1/models/tiny/predict"


def form(*files: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{number}.bin", data)) for number, data in enumerate(files)]


def as_json(*files: bytes) -> dict[str, object]:
    return {"images": [{"b64": base64.b64encode(data).decode()} for data in files]}


async def test_every_form_of_a_request_gets_the_same_answer(published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        answers = [
            await client.post("/v1/predict", content=IMAGE),
            await client.post(PREDICT, content=IMAGE, headers={"content-type": "image/png"}),
            await client.post(PREDICT, content=IMAGE, headers={"content-type": "application/x-www-form-urlencoded"}),
            await client.post("/v1/models/tiny:1/predict", content=IMAGE, headers={"content-type": "text/plain"}),
            await client.post("/v1/models/tiny@production/predict", files={"anything": IMAGE}),
            await client.post(PREDICT, json=as_json(IMAGE)),
        ]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.text for answer in answers}) == 1
    assert PredictResponse.model_validate_json(answers[0].content).model_dump_json(exclude_none=True) == answers[0].text
    body = answers[0].json()
    assert (body["model"], body["version"], body["calibrated"]) == ("tiny", 1, False)
    (result,) = body["results"]
    assert result["image"] == {"width": 40, "height": 30, "format": "PNG", "applied": []}
    assert {p["label"] for p in result["predictions"]} == {"ant", "bee", "cow"}
    assert sum(p["probability"] for p in result["predictions"]) == pytest.approx(1, abs=1e-6)


async def test_the_stages_times_and_the_request_s_id_come_back(published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        answer = await client.post(PREDICT, content=IMAGE, headers={"x-request-id": "mine-1"})
        other = await client.post(PREDICT, content=IMAGE, headers={"x-request-id": "not\tmine"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert len(other.headers["x-request-id"]) == 32
    stages = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert list(stages) == ["decode", "queue", "inference"]
    assert all(0 <= float(value) < 60_000 for value in stages.values())


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (0, 3), (50, 3)])
async def test_top_k_says_how_many_classes_come_back(top_k: int, count: int, published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        body = (await client.post(PREDICT, params={"top_k": top_k}, content=IMAGE)).json()
    probabilities = [p["probability"] for p in body["results"][0]["predictions"]]
    assert len(probabilities) == count
    assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize("send", ["form", "json"])
async def test_a_bad_image_among_others_fails_only_itself(send: str, published_tiny: Path) -> None:
    files = (IMAGE, b"no image", encode(noise(seed=2)), bomb(9000, 9000), b"")
    async with running(published_tiny) as client:
        answer = await (
            client.post(PREDICT, files=form(*files)) if send == "form" else client.post(PREDICT, json=as_json(*files))
        )
        alone = await client.post(PREDICT, content=files[2])
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert ["error" in result for result in results] == [False, True, False, True, True]
    assert results[2] == alone.json()["results"][0]
    assert results[1]["error"]["status"] == 422
    assert results[3]["error"]["setting"] == "HUBEL_MAX_IMAGE_PIXELS"


async def test_base64_that_is_none_fails_only_its_image(published_tiny: Path) -> None:
    body = as_json(IMAGE, IMAGE)
    body["images"][1]["b64"] = "***"  # type: ignore[index]
    async with running(published_tiny) as client:
        results = (await client.post(PREDICT, json=body)).json()["results"]
    assert "predictions" in results[0]
    assert "not base64" in results[1]["error"]["detail"]


@pytest.mark.parametrize(
    ("content", "status", "slug", "word"),
    [
        (b"hello, I am a text", 422, "invalid-image", "not an image"),
        (b"", 422, "invalid-image", "0 bytes"),
        (encode(noise(300, 300), "JPEG")[:9000], 422, "invalid-image", "truncated"),
        (bomb(13_000, 13_000), 413, "image-too-large", "13000 x 13000 = 169000000 pixels; the limit is 50000000"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported-format", "SVG"),
    ],
    ids=["text", "empty", "truncated", "bomb", "svg"],
)
async def test_a_bad_image_is_a_clear_problem_and_the_service_lives_on(
    content: bytes, status: int, slug: str, word: str, published_tiny: Path
) -> None:
    async with running(published_tiny) as client:
        for sent in ({"content": content}, {"files": form(content)}, {"json": as_json(content)}):
            assert_problem(await client.post(PREDICT, **sent), status, slug, word)
        assert (await client.post(PREDICT, content=IMAGE)).status_code == 200


@pytest.mark.parametrize(
    ("path", "slug", "words"),
    [
        ("/v1/models/dogs/predict", "model-not-found", ["'dogs'", "this server has tiny"]),
        ("/v1/models/tiny:7/predict", "version-not-found", ["no version 7", "it has 1"]),
        ("/v1/models/tiny@canary/predict", "alias-not-found", ["'canary'", "it has production"]),
        ("/v1/models/Tiny!/predict", "invalid-reference", ["'Tiny!'", "name:3"]),
        ("/v1/nothing", "not-found", ["/v1/nothing", "/docs"]),
    ],
)
async def test_what_does_not_exist_is_told_with_what_does(
    path: str, slug: str, words: list[str], published_tiny: Path
) -> None:
    async with running(published_tiny) as client:
        assert_problem(await client.post(path, content=IMAGE), 404, slug, *words)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"top_k": -1}, ["top_k", "-1", "greater than or equal to 0"]),
        ({"top_k": "many"}, ["top_k", "many"]),
        ({"topk": 1}, ["topk", "Extra inputs are not permitted"]),
        ({"timeout_ms": 0}, ["timeout_ms"]),
    ],
)
async def test_a_wrong_parameter_is_named(parameters: dict[str, str], words: list[str], published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        answer = await client.post("/v1/predict", params=parameters, content=IMAGE)
    assert_problem(answer, 422, "invalid-request", *words)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"{", "JSON"),
        (b'{"images": []}', "images"),
        (b'{"images": [{"b64": "", "url": "http://x"}]}', "images.0.url: Extra inputs are not permitted"),
        (b'{"images": [{"b64": ""}], "topk": 3}', "topk: Extra inputs are not permitted"),
        (b'{"image": "x"}', "images"),
        (b"[1]", "object"),
    ],
)
async def test_json_of_another_form_is_explained(content: bytes, word: str, published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        answer = await client.post(
            PREDICT, content=content, headers={"content-type": "application/json; charset=utf-8"}
        )
    assert_problem(answer, 422, "invalid-request", '{"images": [{"b64": "..."}]}', word)


async def test_a_body_that_would_make_the_parser_build_without_bound_is_refused_soon(published_tiny: Path) -> None:
    many = 2_000_000
    bodies = [
        b'{"images":[' + b"1," * many + b"1]}",
        b'{"images":[' + b'{"b64":""},' * (many // 4) + b'{"b64":""}]}',
        b"{" + b",".join(b'"%d":1' % n for n in range(many // 4)) + b"}",
    ]
    async with running(published_tiny) as client:
        for body in bodies:
            started = time.monotonic()
            answer = await client.post(PREDICT, content=body, headers={"content-type": "application/json"})
            assert_problem(answer, 413, "too-many-images")
            assert time.monotonic() - started < 1
        deep = await client.post(PREDICT, content=b"[" * many, headers={"content-type": "application/json"})
        assert_problem(deep, 422, "invalid-request", "JSON")


async def test_base64_may_be_broken_into_lines_and_a_data_url_is_explained(published_tiny: Path) -> None:
    lines = base64.encodebytes(IMAGE).decode()
    url = "data:image/png;base64," + lines
    async with running(published_tiny) as client:
        answer = await client.post(PREDICT, json={"images": [{"b64": lines}, {"b64": url}]})
    good, bad = answer.json()["results"]
    assert good["image"]["format"] == "PNG"
    assert "data URL" in bad["error"]["detail"]


async def test_a_compressed_body_is_refused_by_name(published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        answer = await client.post(PREDICT, content=gzip.compress(IMAGE), headers={"content-encoding": "gzip"})
    assert_problem(answer, 415, "unsupported-encoding", "Content-Encoding 'gzip'")
    assert answer.headers["accept-encoding"] == "identity"


async def test_a_form_that_is_cut_off_is_refused_whole(published_tiny: Path) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="n"\r\n\r\n' + IMAGE + b"\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    async with running(published_tiny) as client:
        for body in (part, part + part[: len(part) // 2], part[:90]):
            answer = await client.post(PREDICT, content=body, headers=headers)
            assert_problem(answer, 422, "invalid-request", "cut off")
        whole = await client.post(PREDICT, content=part + part + b"--b--\r\n", headers=headers)
    assert len(whole.json()["results"]) == 2


async def test_a_form_that_is_none_is_explained(published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        no_boundary = await client.post(PREDICT, content=b"x", headers={"content-type": "multipart/form-data"})
        broken = await client.post(PREDICT, content=b"x", headers={"content-type": "multipart/form-data; boundary=b"})
        text = await client.post(PREDICT, data={"top_k": "3"}, files=form(IMAGE))
        empty = await client.post(
            PREDICT, content=b"--b--\r\n", headers={"content-type": "multipart/form-data; boundary=b"}
        )
    assert_problem(no_boundary, 422, "invalid-request", "multipart", "boundary")
    assert_problem(broken, 422, "invalid-request")
    assert_problem(text, 422, "invalid-request", "'top_k' is not a file")
    assert_problem(empty, 422, "invalid-request", "no image")


@pytest.mark.parametrize("send", ["form", "json"])
async def test_too_many_images_in_one_request_are_refused(send: str, published_tiny: Path) -> None:
    for count in (4, 9):
        files = [IMAGE] * count
        async with running(published_tiny, max_images_per_request=3) as client:
            answer = await (
                client.post(PREDICT, files=form(*files))
                if send == "form"
                else client.post(PREDICT, json=as_json(*files))
            )
        body = assert_problem(answer, 413, "too-many-images", "more than 3 images")
        assert body["setting"] == "HUBEL_MAX_IMAGES_PER_REQUEST"


async def test_a_body_over_the_limit_is_refused_whether_announced_or_not(published_tiny: Path) -> None:
    async def chunks() -> object:
        for _ in range(31):
            yield b"\xff" * 2**20

    async with running(published_tiny) as client:
        announced = await client.post(PREDICT, content=b"\xff" * (30 * 2**20))
        streamed = await client.post(PREDICT, content=chunks())  # type: ignore[arg-type]
        assert (await client.post(PREDICT, content=IMAGE)).status_code == 200
    for answer in (announced, streamed):
        body = assert_problem(answer, 413, "body-too-large", "the limit is 20971520")
        assert body["setting"] == "HUBEL_MAX_BODY_BYTES"


async def test_a_wrong_method_is_told_the_right_one(published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        answer = await client.get("/v1/predict")
    assert_problem(answer, 405, "method-not-allowed", "GET is not allowed", "allowed: POST")
    assert answer.headers["allow"] == "POST"


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(
    published_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()
    run_batch = served.ServedModel._run_batch

    async def slow(self: served.ServedModel, items: Sequence[served.Item], spread: bool) -> object:
        await release.wait()
        return await run_batch(self, items, spread)

    monkeypatch.setattr(served.ServedModel, "_run_batch", slow)
    async with running(published_tiny, max_queue_size=4, max_images_per_request=4) as client:
        waiting = asyncio.create_task(client.post(PREDICT, files=form(IMAGE, IMAGE, IMAGE)))
        await asyncio.sleep(0.2)
        refused = await client.post(PREDICT, files=form(IMAGE, IMAGE))
        body = assert_problem(refused, 503, "queue-full", "over the limit of 4")
        assert body["setting"] == "HUBEL_MAX_QUEUE_SIZE"
        assert int(refused.headers["retry-after"]) >= 1
        for path in ("/health", "/livez", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200
        release.set()
        assert (await waiting).status_code == 200


async def test_no_answer_in_time_is_a_timeout(published_tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stuck(self: served.ServedModel, items: Sequence[served.Item], spread: bool) -> object:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(served.ServedModel, "_run_batch", stuck)
    async with running(published_tiny, request_timeout_ms=100) as client:
        for parameters, limit, setting in (
            ({"timeout_ms": 20}, "timeout_ms", None),
            ({"timeout_ms": 60_000}, "request_timeout_ms", "HUBEL_REQUEST_TIMEOUT_MS"),
            ({}, "request_timeout_ms", "HUBEL_REQUEST_TIMEOUT_MS"),
        ):
            answer = await client.post(PREDICT, params=parameters, content=IMAGE)
            body = assert_problem(answer, 504, "deadline-exceeded", "no answer within")
            assert (body["limit"], body.get("setting")) == (limit, setting)


async def test_an_engine_that_fails_tells_the_log_and_not_the_caller(
    published_tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Classifier, pixels: Pixels, *, spread: bool = False) -> object:
        raise RuntimeError("the secret cause")

    async with running(published_tiny) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "classify", broken)
            answer = await client.post(PREDICT, content=IMAGE)
        body = assert_problem(answer, 500, "inference-failed")
        assert "secret" not in answer.text
        assert body["request_id"] in caplog.text
        assert "the secret cause" in caplog.text
        assert (await client.post(PREDICT, content=IMAGE)).status_code == 200


async def test_what_nobody_foresaw_is_a_problem_too(
    published_tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("the secret cause")

    monkeypatch.setattr(hosting.ModelHost, "route", broken)
    async with running(published_tiny) as client:
        answer = await client.post(PREDICT, content=IMAGE)
    body = assert_problem(answer, 500, "internal-error")
    assert "secret" not in answer.text
    assert [r for r in caplog.records if body["request_id"] in r.getMessage() and r.exc_info]


FILES = [encode(noise(seed=seed, width=20 + seed)) for seed in range(6)] + [b"bad", encode(noise(60, 60))[:500]]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mix=st.lists(
        st.tuples(st.lists(st.integers(0, len(FILES) - 1), min_size=1, max_size=9), st.booleans()),
        min_size=1,
        max_size=24,
    )
)
def test_any_mix_of_requests_is_answered_as_each_image_alone(
    mix: list[tuple[list[int], bool]], published_tiny: Path
) -> None:
    """Over HTTP, with the real engine: sizes, bad images and callers that go; batched equals unbatched."""

    async def scenario() -> None:
        async with running(published_tiny, max_batch_size=5) as client:
            alone = [(await client.post(PREDICT, files=form(FILES[0], data))).json()["results"][1] for data in FILES]

            async def ask(chosen: list[int]) -> httpx.Response:
                return await client.post(PREDICT, files=form(FILES[0], *(FILES[i] for i in chosen)))

            tasks = [asyncio.create_task(ask(chosen)) for chosen, _ in mix]
            await asyncio.sleep(0.002)
            for task, (_, goes) in zip(tasks, mix, strict=True):
                if goes:
                    task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            for answer, (chosen, goes) in zip(answers, mix, strict=True):
                if isinstance(answer, asyncio.CancelledError):
                    assert goes
                    continue
                assert isinstance(answer, httpx.Response)
                for result, index in zip(answer.json()["results"][1:], chosen, strict=True):
                    assert_same(result, alone[index])
            assert 'hubel_queue_length{model="tiny",version="1"} 0.0' in (await client.get("/metrics")).text

    asyncio.run(scenario())


def assert_same(result: dict[str, Any], alone: dict[str, Any]) -> None:
    if "error" in alone:
        assert result == alone
        return
    assert result["image"] == alone["image"]
    for got, expected in zip(result["predictions"], alone["predictions"], strict=True):
        assert got["label"] == expected["label"]
        assert got["probability"] == pytest.approx(expected["probability"], abs=1e-6)

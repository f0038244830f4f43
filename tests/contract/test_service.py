"""The routes beside predictions: models, health, metrics, documentation; and what a damaged registry does."""

import asyncio
import json
import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from model.checkpoint import WEIGHTS
from model.classifier import Classifier, load_classifier
from model.engines.selection import EngineChoice
from model.registry import Registry, StoredVersion
from service import loading
from tests.asgi import assert_problem, metric_values, running
from tests.fakes import encode, noise, reported_release
from tests.publishers import publish_again
from training.publish import publish

pytestmark = pytest.mark.anyio
IMAGE = encode(noise())
PREDICT = "/v1/models/tiny/predict"


async def test_models_tell_their_versions_aliases_and_state(tiny_root: Path, tiny: StoredVersion) -> None:
    publish_again(Registry(tiny_root), tiny)
    async with running(tiny_root) as client:
        body = (await client.get("/v1/models")).json()
    assert body["default_model"] == "tiny"
    (model,) = body["models"]
    assert (model["name"], model["aliases"]) == ("tiny", {"production": 1})
    assert [(v["version"], v["state"], v["engine"]) for v in model["versions"]] == [
        (1, "ready", "onnx"),
        (2, "stored", None),
    ]


async def test_a_version_tells_its_labels_input_and_card(tiny_root: Path, tiny: StoredVersion) -> None:
    publish_again(Registry(tiny_root), tiny)
    async with running(tiny_root) as client:
        body = (await client.get("/v1/models/tiny")).json()
        stored = (await client.get("/v1/models/tiny:2")).json()
        assert_problem(await client.get("/v1/models/tiny:3"), 404, "version-not-found")
    assert body["labels"] == ["ant", "bee", "cow"]
    assert body["preprocessing"]["height"] == 12
    assert (body["engine"], body["device"], body["state"]) == ("onnx", "cpu", "ready")
    assert body["card"].startswith("# A tiny network")
    assert (stored["version"], stored["state"], stored["labels"]) == (2, "stored", body["labels"])


async def test_a_ready_service_says_so(published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        assert (await client.get("/livez")).json() == {"live": True}
        assert (await client.get("/readyz")).json() == {"ready": True, "waiting_for": []}
        health = await client.get("/health")
    assert (health.status_code, health.json()["ready"]) == (200, True)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics"])
async def test_health_checks_may_ask_with_head(path: str, published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        assert (await client.head(path)).status_code == 200


async def test_a_service_that_loads_is_alive_but_not_ready(
    published_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(version: StoredVersion, choice: EngineChoice) -> Classifier:
        go_on.wait(30)
        return load_classifier(version, choice)

    monkeypatch.setattr(loading, "load_classifier", slow)
    async with running(published_tiny, wait=False) as client:
        assert (await client.get("/livez")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["waiting_for"]) == (503, ["tiny:1: loading"])
        answer = await client.post(PREDICT, params={"timeout_ms": 50}, content=IMAGE)
        assert_problem(answer, 503, "model-not-ready", "being loaded")
        assert answer.headers["retry-after"] == "1"
        patient = asyncio.create_task(client.post(PREDICT, content=IMAGE))
        await asyncio.sleep(0.05)
        go_on.set()
        assert (await patient).status_code == 200
        assert (await client.get("/readyz")).status_code == 200


async def test_a_tampered_version_is_not_served_and_the_others_are(tiny_root: Path) -> None:
    shutil.copytree(tiny_root / "tiny", tiny_root / "sound")
    with (tiny_root / "tiny" / "1" / WEIGHTS).open("ab") as file:
        file.write(b"x")
    async with running(tiny_root) as client:
        assert_problem(await client.post(PREDICT, content=IMAGE), 503, "model-not-ready", "GET /health says why")
        health = await client.get("/health")
        assert health.status_code == 503
        assert f"{WEIGHTS} is not the file that was published" in health.json()["waiting_for"][0]
        assert (await client.post("/v1/models/sound/predict", content=IMAGE)).status_code == 200
        assert (await client.get("/livez")).status_code == 200


async def test_a_default_model_that_is_not_there_is_named(published_tiny: Path) -> None:
    async with running(published_tiny, default_model="imagenet") as client:
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert "HUBEL_DEFAULT_MODEL" in ready.json()["waiting_for"][0]
        assert_problem(await client.post("/v1/predict", content=IMAGE), 404, "model-not-found", "this server has tiny")
        assert (await client.post(PREDICT, content=IMAGE)).status_code == 200


async def test_an_empty_registry_is_served_as_such(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        assert (await client.get("/v1/models")).json()["models"] == []
        assert_problem(await client.post(PREDICT, content=IMAGE), 404, "model-not-found", "hubel setup")


async def test_aliases_that_cannot_be_read_are_told(tiny_root: Path) -> None:
    (tiny_root / "tiny" / "state.json").write_text("{")
    async with running(tiny_root) as client:
        assert "state.json" in (await client.get("/health")).json()["models"][0]["reason"]
        assert_problem(await client.post(PREDICT, content=IMAGE), 503, "model-not-ready")


async def test_a_registry_that_goes_missing_leaves_a_service_that_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path / "nowhere") as client:
        assert "nowhere cannot be read" in (await client.get("/readyz")).json()["waiting_for"][0]
        assert (await client.get("/livez")).status_code == 200
        assert_problem(await client.post(PREDICT, content=IMAGE), 503, "model-not-ready", "GET /readyz says why")
    assert "not ready: the registry" in caplog.text


async def test_an_alias_of_a_version_that_is_gone_is_told(tiny_root: Path) -> None:
    (tiny_root / "tiny" / "state.json").write_text('{"aliases": {"production": 4}}')
    async with running(tiny_root) as client:
        answer = await client.post(PREDICT, content=IMAGE)
        assert "model 'tiny' has no version 4; it has 1" in (await client.get("/health")).text
    assert_problem(answer, 503, "model-not-ready", "tiny:4 could not be loaded")


async def test_a_card_that_was_altered_is_not_shown(tiny_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tiny_root) as client:
        (tiny_root / "tiny" / "1" / "card.md").write_bytes(b"# Another card")
        assert_problem(await client.get("/v1/models/tiny"), 500, "corrupt-checkpoint")
        assert (await client.post(PREDICT, content=IMAGE)).status_code == 200
    assert "card.md is not the file that was published" in caplog.text


async def test_metrics_count_requests_images_and_batches(published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        for _ in range(3):
            await client.post(PREDICT, content=IMAGE)
        await client.post(PREDICT, files=[("f", IMAGE), ("f", IMAGE), ("f", b"bad")])
        await client.post(PREDICT, content=b"bad")
        await client.post("/v1/models/dogs/predict", content=IMAGE)
        values = await metric_values(client)
    version = "model=tiny,version=1"
    route = "route=/v1/models/{ref}/predict"
    assert values["hubel_requests_total", f"model=tiny,{route},status=200,version=1"] == 4
    assert values["hubel_requests_total", f"model=tiny,{route},status=422,version=1"] == 1
    assert values["hubel_requests_total", f"model=,{route},status=404,version="] == 1
    assert values["hubel_images_total", version] == 5
    assert 4 <= values["hubel_batches_total", version] <= 5
    assert values["hubel_batch_size_sum", version] == 5
    assert values["hubel_batch_size_count", version] == values["hubel_inference_seconds_count", version]
    assert values["hubel_queue_seconds_count", version] == 7
    assert values["hubel_decode_seconds_count", version] == 7
    assert values["hubel_rejected_images_total", f"error=InvalidImage,{version}"] == 2
    assert values["hubel_queue_length", version] == 0
    assert values["hubel_model_ready", version] == 1
    assert values["hubel_request_seconds_count", f"model=tiny,{route},version=1"] == 5
    assert ("process_resident_memory_bytes", "") in values


async def test_the_access_log_has_the_request_s_id_and_never_the_image(
    published_tiny: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    async with running(published_tiny) as client:
        await client.post(PREDICT, content=IMAGE, headers={"x-request-id": "find-me"})
    (line,) = [line for line in (capsys.readouterr().err + caplog.text).splitlines() if "find-me" in line]
    told = json.loads(line)
    assert told.items() >= {"status": 200, "model": "tiny", "version": "1", "images": 1, "method": "POST"}.items()
    assert told["bytes_in"] == len(IMAGE)


async def test_the_documentation_page_loads_nothing_from_elsewhere(published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        page = await client.get("/docs")
        assert page.status_code == 200
        assert "https://" not in page.text
        for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
            assert f"/docs/files/{name}" in page.text
            assert (await client.get(f"/docs/files/{name}")).status_code == 200


async def test_openapi_describes_every_route_and_form(published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        document = (await client.get("/openapi.json")).json()
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == {
        ("/v1/predict", "post"),
        ("/v1/models/{ref}/predict", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{ref}", "get"),
        ("/v1/models/{ref}/report/{file}", "get"),
        ("/v1/models/{ref}/layers", "get"),
        ("/v1/models/{ref}/activations", "post"),
        ("/v1/models/{ref}/explain", "post"),
        ("/v1/models/{ref}/neuron", "post"),
        ("/livez", "get"),
        ("/readyz", "get"),
        ("/health", "get"),
        ("/metrics", "get"),
    }
    operation = document["paths"]["/v1/predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "image/*",
        "application/octet-stream",
        "multipart/form-data",
        "application/json",
    }
    assert set(operation["responses"]) == {"200", "404", "413", "415", "422", "503", "504"}
    assert {p["name"] for p in operation["parameters"]} == {"top_k", "timeout_ms"}
    text = json.dumps(document)
    assert "HTTPValidationError" not in text  # every failure is a problem
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"], reference


async def test_a_report_is_served_file_by_file_and_nothing_else_is(tmp_path: Path) -> None:
    version = publish(Registry(tmp_path), reported_release())
    async with running(tmp_path) as client:
        page = await client.get("/v1/models/tiny/report/index.html")
        picture = await client.get("/v1/models/tiny:1/report/confusion.png")
        figures = await client.get("/v1/models/tiny/report/evaluation.json")
        for name in ("weights.png", "..%2Fmodel.safetensors", "%2E%2E%2Fmanifest.json"):
            assert (await client.get(f"/v1/models/tiny/report/{name}")).status_code == 404
        assert_problem(
            await client.get("/v1/models/tiny/report/nothing"), 404, "report-not-found", "nothing", "index.html"
        )
    assert page.headers["content-type"].startswith("text/html")
    assert page.content == (version.folder / "report" / "index.html").read_bytes()
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith("; sandbox")
    assert "script" not in policy
    assert picture.headers["content-type"] == "image/png"
    assert figures.json()["images"] == 12


async def test_a_version_without_a_report_says_so(published_tiny: Path) -> None:
    async with running(published_tiny) as client:
        answer = await client.get("/v1/models/tiny/report/index.html")
    assert_problem(answer, 404, "report-not-found", "no file at all")


def test_the_arrows_between_the_packages_hold(pytestconfig: pytest.Config) -> None:
    command = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([command], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout

"""Versions that come and go while the application serves: swaps, loading on demand, removal, a lost registry."""

import asyncio
import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.checkpoint import NETWORK, WEIGHTS
from model.classifier import Classifier, load_classifier
from model.engines.selection import EngineChoice
from model.manifest import Manifest, parse_manifest, write_manifest_text
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from service import hosting, loading
from tests.asgi import assert_problem, metric_values, running, until
from tests.fakes import encode, noise, tiny_release
from tests.publishers import publish_again
from training.publish import publish

pytestmark = pytest.mark.anyio
IMAGE = encode(noise())
PREDICT = "/v1/models/tiny/predict"
SOON: dict[str, Any] = {"registry_poll_seconds": 0.05}
DEADLINE_SECONDS = 20.0


async def states(client: httpx.AsyncClient, name: str = "tiny") -> dict[int, str]:
    """How each version of a model stands."""
    (model,) = [model for model in (await client.get("/v1/models")).json()["models"] if model["name"] == name]
    return {version["version"]: version["state"] for version in model["versions"]}


async def answering(client: httpx.AsyncClient, path: str = PREDICT) -> int:
    """The version that answers."""
    answer = await client.post(path, content=IMAGE)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["version"])


def becomes(client: httpx.AsyncClient, number: int) -> Callable[[], Awaitable[bool]]:
    async def answers_now() -> bool:
        return await answering(client) == number

    return answers_now


def stand(client: httpx.AsyncClient, **wanted: str) -> Callable[[], Awaitable[bool]]:
    """Versions stand as told, as v1="ready"."""

    async def stand_now() -> bool:
        found = await states(client)
        return all(found.get(int(name[1:]), "none") == state for name, state in wanted.items())

    return stand_now


def hold_up(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the first batch after a warm-up wait for an event."""
    go_on = threading.Event()
    first = threading.Semaphore(1)
    classify = Classifier.classify

    def slow(self: Classifier, pixels: Any, *, spread: bool = False) -> Any:
        if pixels.any() and first.acquire(blocking=False):
            go_on.wait(DEADLINE_SECONDS)
        return classify(self, pixels)

    monkeypatch.setattr(Classifier, "classify", slow)
    return go_on


def hold_up_loading(monkeypatch: pytest.MonkeyPatch, *, number: int) -> threading.Event:
    """Let a version wait for an event while it is loaded."""
    go_on = threading.Event()

    def slow(version: StoredVersion, choice: EngineChoice) -> Classifier:
        if version.number == number:
            go_on.wait(DEADLINE_SECONDS)
        return load_classifier(version, choice)

    monkeypatch.setattr(loading, "load_classifier", slow)
    return go_on


@pytest.fixture
def two(tiny_root: Path, tiny: StoredVersion) -> Registry:
    """A registry with tiny:1, which is production, and tiny:2."""
    registry = Registry(tiny_root)
    publish_again(registry, tiny)
    return registry


async def test_a_promoted_version_serves_without_a_restart_and_the_old_one_is_unloaded(
    tiny_root: Path, two: Registry
) -> None:
    async with running(tiny_root, **SOON) as client:
        assert await answering(client) == 1
        two.promote(ModelRef.parse("tiny:2"))
        await until(becomes(client, 2))
        await until(stand(client, v1="stored", v2="ready"))
        values = await metric_values(client)
        assert values["hubel_model_ready", "model=tiny,version=1"] == 0
        assert values["hubel_model_ready", "model=tiny,version=2"] == 1


async def test_a_version_published_while_serving_is_known_within_a_look(tiny_root: Path, tiny: StoredVersion) -> None:
    async with running(tiny_root, **SOON) as client:
        publish_again(Registry(tiny_root), tiny, alias="canary")
        await until(stand(client, v2="ready"))
        assert await answering(client, "/v1/models/tiny@canary/predict") == 2
        publish(Registry(tiny_root), dataclasses.replace(tiny_release(seed=3), name="newcomer"))
        await until(lambda: known(client, "newcomer"))


async def known(client: httpx.AsyncClient, name: str) -> bool:
    return (await client.post(f"/v1/models/{name}/predict", content=IMAGE)).is_success


@pytest.mark.parametrize("file", [NETWORK, WEIGHTS, "golden.safetensors", "card.md", "manifest.json"])
@pytest.mark.parametrize("fault", ["flipped", "missing"])
async def test_a_version_that_fails_stays_out_and_the_old_one_serves_on(
    file: str, fault: str, tiny_root: Path, two: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_root / "tiny" / "2" / file
    async with running(tiny_root, **SOON) as client:
        content = bytearray(path.read_bytes())
        if fault == "missing":
            path.unlink()
        else:
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        two.change("tiny", lambda state: state.model_copy(update={"aliases": {"production": 2}}))
        await until(stand(client, v1="ready", v2="failed"))
        assert await answering(client) == 1
        health = (await client.get("/health")).json()
        assert health["ready"]
        (model,) = health["models"]
        assert (model["aliases"], model["pending"]) == ({"production": 1}, {"production": 2})
        reason = model["versions"][1]["reason"]
        values = await metric_values(client)
        assert values["hubel_model_failed", "model=tiny,version=2"] == 1
        assert sum(value for (name, _), value in values.items() if name == "hubel_model_load_failures_total") >= 1
    expected = "has no version 2" if (file, fault) == ("manifest.json", "missing") else file
    assert expected in reason
    assert f"tiny:2 could not be loaded: {reason}" in caplog.text


async def test_a_repaired_version_is_taken_after_all(
    tiny_root: Path, two: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "FIRST_RETRY_SECONDS", 0.1)
    path = tiny_root / "tiny" / "2" / NETWORK
    sound = path.read_bytes()
    path.write_bytes(b"broken")
    two.change("tiny", lambda state: state.model_copy(update={"aliases": {"production": 2}}))
    async with running(tiny_root, **SOON) as client:
        await until(stand(client, v2="failed"))
        path.write_bytes(sound)
        await until(stand(client, v2="ready"))
        assert await answering(client) == 2


async def test_requests_under_way_during_a_swap_are_answered_by_the_version_that_took_them(
    tiny_root: Path, two: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = hold_up(monkeypatch)
    async with running(tiny_root, **SOON) as client:
        under_way = asyncio.create_task(client.post(PREDICT, files=[("f", IMAGE)] * 3))
        await asyncio.sleep(0.1)
        two.promote(ModelRef.parse("tiny:2"))
        await until(stand(client, v1="draining", v2="ready"))
        assert await answering(client) == 2
        assert not under_way.done()
        go_on.set()
        answer = await under_way
        assert (answer.status_code, answer.json()["version"]) == (200, 1)
        await until(stand(client, v1="stored"))


async def test_a_body_that_is_still_coming_in_during_a_swap_is_answered(tiny_root: Path, two: Registry) -> None:
    swapped = asyncio.Event()

    async def body() -> Any:
        yield IMAGE[:100]
        await swapped.wait()
        yield IMAGE[100:]

    async with running(tiny_root, **SOON) as client:
        slow = asyncio.create_task(client.post(PREDICT, content=body()))
        await asyncio.sleep(0.05)
        two.promote(ModelRef.parse("tiny:2"))
        await until(stand(client, v1="stored", v2="ready"))
        swapped.set()
        answer = await slow
    assert (answer.status_code, answer.json()["version"]) == (200, 2)


async def test_swaps_under_load_fail_no_request_and_mix_no_answers(tiny_root: Path) -> None:
    registry = Registry(tiny_root)
    publish(registry, tiny_release(seed=5))
    async with running(tiny_root, **SOON) as client:
        own = {
            number: (await client.post(f"/v1/models/tiny:{number}/predict", content=IMAGE)).json() for number in (1, 2)
        }
        assert own[1]["results"] != own[2]["results"]
        done = asyncio.Event()
        answers: list[httpx.Response] = []

        async def ask() -> None:
            while not done.is_set():
                answers.append(await client.post(PREDICT, content=IMAGE))

        askers = [asyncio.create_task(ask()) for _ in range(4)]
        for number in (2, 1, 2):
            registry.promote(ModelRef("tiny", version=number))
            await until(becomes(client, number))
        done.set()
        await asyncio.gather(*askers)
    assert {answer.status_code for answer in answers} == {200}
    bodies = [answer.json() for answer in answers]
    assert {body["version"] for body in bodies} == {1, 2}
    assert all(close(body, own[body["version"]]) for body in bodies)


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers for one image are the same but for rounding in batches of different sizes."""
    pairs = zip(one["results"][0]["predictions"], other["results"][0]["predictions"], strict=True)
    return all(a["label"] == b["label"] and abs(a["probability"] - b["probability"]) < 1e-5 for a, b in pairs)


async def test_a_version_is_loaded_when_it_is_asked_for(tiny_root: Path, two: Registry) -> None:
    async with running(tiny_root) as client:
        assert await states(client) == {1: "ready", 2: "stored"}
        together = await asyncio.gather(
            *(client.post("/v1/models/tiny:2/predict", content=IMAGE) for _ in range(5)),
        )
        assert [(answer.status_code, answer.json()["version"]) for answer in together] == [(200, 2)] * 5
        assert await states(client) == {1: "ready", 2: "ready"}


async def test_a_registry_that_is_slow_keeps_no_request_longer_than_its_time(
    tiny_root: Path, two: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    manifest = Registry.manifest

    def slow(self: Registry, name: str, number: int) -> Manifest:
        go_on.wait(10)
        return manifest(self, name, number)

    async with running(tiny_root) as client:
        monkeypatch.setattr(Registry, "manifest", slow)
        started = time.monotonic()
        answer = await client.post("/v1/models/tiny:2/predict", params={"timeout_ms": 200}, content=IMAGE)
        assert time.monotonic() - started < 5
        assert_problem(answer, 503, "model-not-ready", "could not be read in time")
        go_on.set()


async def test_the_least_recently_used_version_makes_room(tiny_root: Path, two: Registry, tiny: StoredVersion) -> None:
    for _ in range(2):
        publish_again(two, tiny)
    async with running(tiny_root, max_loaded_models=3, **SOON) as client:
        for number in (2, 3, 2, 4):
            assert await answering(client, f"/v1/models/tiny:{number}/predict") == number
        await until(stand(client, v1="ready", v2="ready", v3="stored", v4="ready"))


async def test_no_version_in_use_makes_room(
    tiny_root: Path, two: Registry, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_again(two, tiny)
    go_on = hold_up(monkeypatch)
    async with running(tiny_root, max_loaded_models=2) as client:
        under_way = asyncio.create_task(client.post("/v1/models/tiny:2/predict", files=[("f", IMAGE)] * 2))
        await until(stand(client, v2="ready"))
        refused = await client.post("/v1/models/tiny:3/predict", content=IMAGE)
        body = assert_problem(refused, 503, "no-room", "tiny:3")
        assert (body["limit"], body["value"], body["setting"]) == ("max_loaded_models", 2, "HUBEL_MAX_LOADED_MODELS")
        go_on.set()
        assert (await under_way).status_code == 200
        assert await answering(client, "/v1/models/tiny:3/predict") == 3


async def test_weights_over_the_bound_in_bytes_are_not_loaded_on_request(tiny_root: Path, two: Registry) -> None:
    size = (tiny_root / "tiny" / "1" / WEIGHTS).stat().st_size
    async with running(tiny_root, max_loaded_bytes=2 * size - 1) as client:
        refused = await client.post("/v1/models/tiny:2/predict", content=IMAGE)
        assert assert_problem(refused, 503, "no-room")["limit"] == "max_loaded_bytes"
        assert await answering(client) == 1
    async with running(tiny_root, max_loaded_bytes=2 * size) as client:
        assert await answering(client, "/v1/models/tiny:2/predict") == 2


async def test_only_what_is_on_the_list_is_loaded_before_it_is_asked_for(tiny_root: Path, two: Registry) -> None:
    shutil.copytree(tiny_root / "tiny", tiny_root / "other")
    async with running(tiny_root, preload="tiny:2", **SOON) as client:
        assert await states(client) == {1: "ready", 2: "ready"}
        assert await states(client, "other") == {1: "stored", 2: "stored"}
        assert await answering(client, "/v1/models/other/predict") == 1
        two_of_other = Registry(tiny_root)
        two_of_other.promote(ModelRef.parse("other:2"))
        await until(lambda: other_answers(client, 2))


async def other_answers(client: httpx.AsyncClient, number: int) -> bool:
    return await answering(client, "/v1/models/other/predict") == number


async def test_readiness_names_everything_that_it_waits_for(
    tiny_root: Path, two: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = hold_up_loading(monkeypatch, number=2)
    async with running(tiny_root, wait=False, preload="tiny:2, nobody", **SOON) as client:
        await until(stand(client, v1="ready"))
        waiting = (await client.get("/readyz")).json()["waiting_for"]
        assert waiting[0] == "tiny:2: loading"
        assert waiting[1].startswith("nobody@production (HUBEL_PRELOAD): there is no model 'nobody'")
        go_on.set()
        await until(stand(client, v2="ready"))
        assert len((await client.get("/readyz")).json()["waiting_for"]) == 1


async def test_a_removed_version_answers_those_it_took_and_is_unknown_to_the_next(
    tiny_root: Path, two: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = hold_up(monkeypatch)
    async with running(tiny_root, **SOON) as client:
        under_way = asyncio.create_task(client.post("/v1/models/tiny:2/predict", files=[("f", IMAGE)] * 2))
        await until(stand(client, v2="ready"))
        two.remove(ModelRef.parse("tiny:2"))

        async def unknown() -> bool:
            return (await client.get("/v1/models/tiny:2")).status_code == 404

        await until(unknown)
        refused = await client.post("/v1/models/tiny:2/predict", content=IMAGE)
        assert_problem(refused, 404, "version-not-found", "it has 1")
        go_on.set()
        answer = await under_way
        assert (answer.status_code, answer.json()["version"]) == (200, 2)
        await until(lambda: gone(client, 2))


async def gone(client: httpx.AsyncClient, number: int) -> bool:
    return number not in await states(client)


@pytest.mark.parametrize("how", ["away", "empty"])
async def test_a_registry_that_goes_away_leaves_what_is_loaded_serving_and_is_told(
    how: str, tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tiny_root, **SOON) as client:
        take_away(tiny_root, tmp_path / "elsewhere", empty=how == "empty")
        await until(lambda: told(client, away=True))
        assert await answering(client) == 1
        assert (await client.get("/readyz")).status_code == 200
        values = await metric_values(client)
        assert values["hubel_registry_available", ""] == 0
        bring_back(tiny_root, tmp_path / "elsewhere")
        await until(lambda: told(client, away=False))
    assert "what is loaded goes on serving" in caplog.text


def take_away(root: Path, elsewhere: Path, *, empty: bool) -> None:
    """Move a registry; where it was is an empty folder then, as where a volume is not mounted, or nothing."""
    root.rename(elsewhere)
    if empty:
        root.mkdir()


def bring_back(root: Path, elsewhere: Path) -> None:
    if root.exists():
        root.rmdir()
    elsewhere.rename(root)


async def told(client: httpx.AsyncClient, *, away: bool) -> bool:
    return bool((await client.get("/health")).json()["registry_away"]) is away


async def test_a_state_that_becomes_unreadable_changes_nothing_that_serves(tiny_root: Path, two: Registry) -> None:
    async with running(tiny_root, **SOON) as client:
        (tiny_root / "tiny" / "state.json").write_text('{"aliases": {"production": "two"}}')

        async def said() -> bool:
            return "state.json" in str((await client.get("/health")).json()["models"][0].get("reason"))

        await until(said)
        assert await answering(client) == 1


async def test_a_manifest_of_a_newer_schema_is_told(tiny_root: Path, two: Registry) -> None:
    path = tiny_root / "tiny" / "2" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))  # told before its digest
    two.change("tiny", lambda state: state.model_copy(update={"aliases": {"production": 2}}))
    async with running(tiny_root, **SOON) as client:
        await until(stand(client, v2="failed"))
        assert "a newer hubel wrote it" in (await client.get("/health")).text


async def test_labels_that_do_not_match_the_network_s_width_are_not_served(tiny_root: Path, two: Registry) -> None:
    path = tiny_root / "tiny" / "2" / "manifest.json"
    manifest = parse_manifest(path.read_text(), "it")
    path.write_text(write_manifest_text(manifest.model_copy(update={"labels": (*manifest.labels, "dog")})))
    async with running(tiny_root, **SOON) as client:
        answer = await client.post("/v1/models/tiny:2/predict", content=IMAGE)
        assert_problem(answer, 503, "model-not-ready")
        assert "4 labels" in (await client.get("/health")).text


async def test_more_models_than_there_is_room_for_all_answer_in_turn(tiny_root: Path) -> None:
    for name in ("second", "third"):
        shutil.copytree(tiny_root / "tiny", tiny_root / name)
    async with running(tiny_root, max_loaded_models=2, **SOON) as client:
        for name in ("tiny", "second", "third", "second", "third", "tiny"):
            assert await answering(client, f"/v1/models/{name}/predict") == 1
            await until(lambda: at_most_two_ready(client))


async def at_most_two_ready(client: httpx.AsyncClient) -> bool:
    models = (await client.get("/v1/models")).json()["models"]
    found = [version["state"] for model in models for version in model["versions"]]
    return found.count("ready") <= 2


async def test_a_full_service_swaps_all_the_same(tiny_root: Path, two: Registry) -> None:
    key = "the key of the tests"
    async with running(tiny_root, max_loaded_models=1, admin_key=key, **SOON) as client:
        for number in (2, 1):
            answer = await client.put(
                "/v1/models/tiny/aliases/production",
                json={"version": number},
                headers={"Authorization": f"Bearer {key}"},
            )
            assert answer.status_code == 200, answer.text
            await until(becomes(client, number))
        await until(stand(client, v1="ready", v2="stored"))


async def test_a_version_that_is_to_be_loaded_stays_so_though_nothing_is_preloaded(
    tiny_root: Path, two: Registry, tiny: StoredVersion
) -> None:
    publish_again(two, tiny)
    two.change("tiny", lambda state: state.with_loaded(2, wanted=True))
    async with running(tiny_root, preload="tiny", max_loaded_models=3, **SOON) as client:
        assert await states(client) == {1: "ready", 2: "ready", 3: "stored"}
        two.change("tiny", lambda state: state.with_loaded(2, wanted=False))
        await until(stand(client, v1="ready", v2="stored"))


async def test_production_serves_on_when_it_is_removed_before_its_successor_is_loaded(
    tiny_root: Path, two: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = hold_up_loading(monkeypatch, number=2)
    async with running(tiny_root, wait=False, **SOON) as client:
        await until(stand(client, v1="ready"))
        two.promote(ModelRef.parse("tiny:2"))
        two.remove(ModelRef.parse("tiny:1"))
        await until(stand(client, v2="loading"))
        for _ in range(5):
            assert await answering(client) == 1
            await asyncio.sleep(0.03)
        go_on.set()
        await until(becomes(client, 2))
        await until(lambda: gone(client, 1))


async def test_a_state_that_is_lost_changes_nothing_that_serves(tiny_root: Path, two: Registry) -> None:
    async with running(tiny_root, **SOON) as client:
        (tiny_root / "tiny" / "state.json").unlink()

        async def said() -> bool:
            return "the state of model 'tiny' is missing" in (await client.get("/health")).text

        await until(said)
        assert await answering(client) == 1


async def test_a_registry_that_hangs_is_told_and_holds_nobody_up(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    snapshot = Registry.snapshot

    def slow(self: Registry) -> Any:
        if hanging:
            go_on.wait(DEADLINE_SECONDS)
        return snapshot(self)

    hanging = False
    monkeypatch.setattr(Registry, "snapshot", slow)
    monkeypatch.setattr(hosting, "LOOK_SECONDS", 0.1)
    async with running(tiny_root, **SOON) as client:
        hanging = True
        await until(lambda: told(client, away=True))
        assert "has not answered for 0.1 s" in (await client.get("/health")).text
        assert await answering(client) == 1
        go_on.set()
        await until(lambda: told(client, away=False))


async def test_slow_downloads_keep_no_other_version_from_loading(
    tiny_root: Path, two: Registry, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        publish_again(two, tiny)
    go_on = threading.Event()
    version = Registry.version

    def slow(self: Registry, ref: ModelRef) -> StoredVersion:
        if ref.version in (3, 4):
            go_on.wait(DEADLINE_SECONDS)
        return version(self, ref)

    monkeypatch.setattr(Registry, "version", slow)
    async with running(tiny_root, **SOON) as client:
        slow_ones = [
            asyncio.create_task(client.post(f"/v1/models/tiny:{number}/predict", content=IMAGE)) for number in (3, 4)
        ]
        await until(stand(client, v3="loading", v4="loading"))
        assert await answering(client, "/v1/models/tiny:2/predict") == 2
        go_on.set()
        assert {answer.status_code for answer in await asyncio.gather(*slow_ones)} == {200}


async def test_a_broken_version_drives_out_no_good_one(tiny_root: Path, two: Registry, tiny: StoredVersion) -> None:
    publish_again(two, tiny)
    (tiny_root / "tiny" / "3" / "manifest.json").write_text("{")
    async with running(tiny_root, max_loaded_models=2) as client:
        assert await answering(client, "/v1/models/tiny:2/predict") == 2
        answer = await client.post("/v1/models/tiny:3/predict", content=IMAGE)
        assert_problem(answer, 503, "model-not-ready", "tiny:3 could not be loaded")
        assert await states(client) == {1: "ready", 2: "ready", 3: "failed"}


async def test_the_series_of_a_version_that_is_gone_go_with_it(tiny_root: Path, two: Registry) -> None:
    async with running(tiny_root, **SOON) as client:
        assert await answering(client, "/v1/models/tiny:2/predict") == 2
        two.remove(ModelRef.parse("tiny:2"))
        await until(lambda: gone(client, 2))
        assert not [labels for _, labels in await metric_values(client) if "version=2" in labels]

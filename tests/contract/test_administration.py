"""The routes that change models: who may use them, what they change, what they refuse and leave as it was."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.checkpoint import MANIFEST, NETWORK
from model.registry import Registry, StoredVersion
from model.state import DiffRecord, State
from model.types import ModelRef
from service.settings import Settings
from tests.asgi import assert_problem, running, until
from tests.fakes import encode, noise
from tests.publishers import publish_again
from tests.unit.model.test_state import NOW

pytestmark = pytest.mark.anyio

KEY = "correct-horse-battery"
IMAGE = encode(noise(12, 12))
TINY = "/v1/models/tiny"
CANARY = {"canary": {"version": 2, "percent": 10}}
# Every route that changes something, with a request that would be answered.
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", f"{TINY}/state", None),
    ("PUT", f"{TINY}/aliases/trial", {"version": 2}),
    ("DELETE", f"{TINY}/aliases/trial", None),
    ("POST", f"{TINY}/rollback", {}),
    ("PUT", f"{TINY}/traffic", {}),
    ("PUT", f"{TINY}/promotion", {"min_agreement": 0.9}),
    ("POST", f"{TINY}:2/load", None),
    ("POST", f"{TINY}:2/unload", None),
    ("DELETE", f"{TINY}:2", None),
]


@pytest.fixture
def registry(tiny_root: Path, tiny: StoredVersion) -> Registry:
    """A registry with three versions, of which the first is `production`."""
    registry = Registry(tiny_root)
    for _ in range(2):
        publish_again(registry, tiny)
    return registry


@asynccontextmanager
async def administering(registry: Registry, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run the application, asked by somebody who has the key; looks at the registry are far apart."""
    async with running(Path(registry.address), **{"admin_key": KEY, "registry_poll_seconds": 60, **settings}) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        yield client


def state_of(registry: Registry) -> State:
    return registry.state("tiny")


async def answering(client: httpx.AsyncClient, ref: str = "tiny") -> int:
    """Return the version that answers."""
    answer = await client.post(f"/v1/models/{ref}/predict", content=IMAGE)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["version"])


async def versions(client: httpx.AsyncClient) -> dict[int, dict[str, Any]]:
    (model,) = (await client.get("/health")).json()["models"]
    return {version["version"]: version for version in model["versions"]}


def damage(registry: Registry, number: int) -> None:
    (Path(registry.address) / "tiny" / str(number) / NETWORK).write_bytes(b"broken")


# ---- who may


async def test_without_a_key_in_the_settings_the_routes_do_not_exist(registry: Registry) -> None:
    before = state_of(registry)
    async with running(Path(registry.address)) as client:
        for method, path, body in ROUTES:
            answer = await client.request(method, path, json=body, headers={"Authorization": f"Bearer {KEY}"})
            assert answer.status_code == (405 if path == f"{TINY}:2" else 404)
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert {method for path in paths.values() for method in path} == {"get", "post"}
    assert not any(word in path for path in paths for word in ("alias", "state", "traffic", "load", "promotion"))
    assert (state_of(registry), registry.numbers("tiny")) == (before, [1, 2, 3])


async def test_with_a_key_the_routes_are_described_and_ask_for_it(registry: Registry) -> None:
    async with administering(registry) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    described = {(path, method) for path, methods in paths.items() for method in methods}
    for method, path, _ in ROUTES:
        template = path.replace("tiny:2", "{ref}").replace("tiny", "{name}").replace("trial", "{alias}")
        assert (template, method.lower()) in described
        operation = paths[template][method.lower()]
        assert operation["security"] == [{"HTTPBearer": []}]
        assert "401" in operation["responses"]


async def test_a_missing_or_wrong_key_is_refused_and_changes_nothing(registry: Registry) -> None:
    before = state_of(registry)
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY.upper()}",
    ]
    async with running(Path(registry.address), admin_key=KEY) as client:
        for method, path, body in ROUTES:
            for headers in ({}, *({"Authorization": given} for given in wrong)):
                answer = await client.request(method, path, json=body, headers=headers)
                problem = assert_problem(answer, 401, "unauthorized", "Authorization: Bearer KEY")
                assert answer.headers["www-authenticate"] == "Bearer"
                assert KEY not in json.dumps(problem)
    assert (state_of(registry), registry.numbers("tiny")) == (before, [1, 2, 3])


async def test_a_body_beyond_the_limit_is_told_by_its_name(registry: Registry) -> None:
    async with running(Path(registry.address), admin_key=KEY, max_body_bytes=1024) as client:
        headers = {"Authorization": f"Bearer {KEY}", "content-type": "application/json"}
        answer = await client.put(f"{TINY}/traffic", content=b"{" + b" " * 2000, headers=headers)
        assert assert_problem(answer, 413, "body-too-large", "1024")["setting"] == "HUBEL_MAX_BODY_BYTES"


async def test_the_key_is_asked_for_before_a_body_or_a_name_is_looked_at(registry: Registry) -> None:
    async with running(Path(registry.address), admin_key=KEY) as client:
        for path, content in ((f"{TINY}/aliases/trial", b"{"), ("/v1/models/dogs/traffic", b"{}")):
            answer = await client.put(path, content=content, headers={"content-type": "application/json"})
            assert_problem(answer, 401, "unauthorized")


async def test_a_key_may_have_any_letters(registry: Registry) -> None:
    key = "schlüssel-ключ-0123"
    async with running(Path(registry.address), admin_key=key) as client:
        answer = await client.get(f"{TINY}/state", headers={b"Authorization": f"Bearer {key}".encode()})
    assert answer.status_code == 200


async def test_reading_and_predicting_need_no_key(registry: Registry) -> None:
    async with running(Path(registry.address), admin_key=KEY) as client:
        for path in ("/v1/models", TINY, "/health", "/metrics"):
            assert (await client.get(path)).status_code == 200
        assert await answering(client) == 1


async def test_the_key_is_told_nowhere(
    registry: Registry, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    damage(registry, 3)
    told = [repr(Settings(admin_key=KEY)), str(Settings(admin_key=KEY)), Settings(admin_key=KEY).model_dump_json()]
    async with administering(registry) as client:
        for method, path, body in ROUTES:
            told.append((await client.request(method, path, json=body)).text)
        told.append((await client.put(f"{TINY}/aliases/trial", json={"version": 3})).text)
        told.append((await client.put(f"{TINY}/aliases/trial", content=b"{")).text)
        told.append((await client.get(f"{TINY}/state", headers={"Authorization": f"Basic {KEY}"})).text)
        told += [(await client.get(path)).text for path in ("/health", "/v1/models", "/metrics", "/openapi.json")]
    told += [caplog.text, *capsys.readouterr()]
    assert KEY not in "".join(told)


# ---- aliases


async def test_promoting_changes_who_answers_at_once(registry: Registry) -> None:
    async with administering(registry) as client:
        answer = await client.put(f"{TINY}/aliases/production", json={"version": 2})
        assert answer.status_code == 200
        assert answer.json()["aliases"] == {"production": 2}
        assert await answering(client) == 2
        assert (await versions(client))[2]["aliases"] == ["production"]
    assert state_of(registry).previous == {"production": (1,)}


async def test_a_new_alias_is_made_and_can_be_asked(registry: Registry) -> None:
    async with administering(registry) as client:
        assert_problem(await client.get(f"{TINY}@trial"), 404, "alias-not-found")
        assert (await client.put(f"{TINY}/aliases/trial", json={"version": 3})).status_code == 200
        assert (await answering(client, "tiny@trial"), await answering(client)) == (3, 1)


async def test_what_was_published_a_moment_ago_can_be_promoted(registry: Registry, tiny: StoredVersion) -> None:
    async with administering(registry) as client:
        publish_again(registry, tiny)
        assert (await client.put(f"{TINY}/aliases/production", json={"version": 4})).status_code == 200
        assert await answering(client) == 4


async def test_an_alias_moves_only_to_a_version_that_loads(registry: Registry) -> None:
    damage(registry, 2)
    async with administering(registry) as client:
        answer = await client.put(f"{TINY}/aliases/production", json={"version": 2})
        assert_problem(answer, 503, "model-not-ready", "tiny:2 could not be loaded", NETWORK)
        assert await answering(client) == 1
        health = await client.get("/health")
        assert health.status_code == 200
        failed = (await versions(client))[2]
    assert (failed["state"], NETWORK in failed["reason"]) == ("failed", True)
    assert state_of(registry).aliases == {"production": 1}


async def test_a_version_that_was_mended_can_be_promoted_at_once(registry: Registry) -> None:
    whole = (Path(registry.address) / "tiny" / "2" / NETWORK).read_bytes()
    damage(registry, 2)
    async with administering(registry) as client:
        assert not (await client.put(f"{TINY}/aliases/production", json={"version": 2})).is_success
        (Path(registry.address) / "tiny" / "2" / NETWORK).write_bytes(whole)
        assert (await client.put(f"{TINY}/aliases/production", json={"version": 2})).status_code == 200
        assert await answering(client) == 2


@pytest.mark.parametrize(
    ("path", "slug"),
    [
        (f"{TINY}/aliases/7", "invalid-reference"),
        (f"{TINY}/aliases/Bad", "invalid-reference"),
        ("/v1/models/dogs/aliases/trial", "model-not-found"),
        ("/v1/models/Tiny/aliases/trial", "model-not-found"),
        ("/v1/models/tiny:1/aliases/trial", "model-not-found"),
    ],
)
async def test_names_that_mean_nothing_are_refused(path: str, slug: str, registry: Registry) -> None:
    async with administering(registry) as client:
        assert_problem(await client.put(path, json={"version": 2}), 404, slug)
    assert state_of(registry).aliases == {"production": 1}
    assert registry.names() == ["tiny"]


async def test_a_version_that_is_not_there_is_refused(registry: Registry) -> None:
    async with administering(registry) as client:
        for version in (9, 10**30):
            answer = await client.put(f"{TINY}/aliases/trial", json={"version": version})
            assert_problem(answer, 404, "version-not-found", "it has 1, 2, 3")
    assert state_of(registry).aliases == {"production": 1}


NOT_UNDERSTOOD = [
    ("PUT", "aliases/trial", ""),
    ("PUT", "aliases/trial", "{"),
    ("PUT", "aliases/trial", "[]"),
    ("PUT", "aliases/trial", "{}"),
    ("PUT", "aliases/trial", '{"version": 0}'),
    ("PUT", "aliases/trial", '{"version": "two"}'),
    ("PUT", "aliases/trial", '{"version": 2, "force": true}'),
    ("POST", "rollback", '{"alias": 3}'),
    ("POST", "rollback", '{"to": 3}'),
    ("PUT", "traffic", '{"canary": {"version": 2}}'),
    ("PUT", "traffic", '{"canary": {"version": 2, "percent": 101}}'),
    ("PUT", "traffic", '{"canary": {"version": 2, "percent": NaN}}'),
    ("PUT", "traffic", '{"canary": {"version": 2, "percent": 5, "max_latency_ratio": Infinity}}'),
    ("PUT", "traffic", '{"canary": {"version": 2, "percent": 5, "header": "X Y"}}'),
    ("PUT", "traffic", '{"shadow": {"version": 2, "percent": 5, "header": "X"}}'),
    ("PUT", "promotion", ""),
    ("PUT", "promotion", "{}"),
    ("PUT", "promotion", '{"min_agreement": 90}'),
    ("PUT", "promotion", '{"min_agreement": 0.9, "min_images": 0}'),
]


async def test_a_body_that_is_not_understood_changes_nothing(registry: Registry) -> None:
    before = state_of(registry)
    async with administering(registry) as client:
        client.headers["Content-Type"] = "application/json"
        for method, path, content in NOT_UNDERSTOOD:
            answer = await client.request(method, f"{TINY}/{path}", content=content)
            assert_problem(answer, 422, "invalid-request", "body")
    assert state_of(registry) == before


async def test_an_alias_is_dropped_and_production_is_not(registry: Registry) -> None:
    registry.promote(ModelRef.parse("tiny:2"), "trial")
    async with administering(registry) as client:
        assert await answering(client, "tiny@trial") == 2
        assert (await client.delete(f"{TINY}/aliases/trial")).json()["aliases"] == {"production": 1}
        assert_problem(await client.get(f"{TINY}@trial"), 404, "alias-not-found")
        assert_problem(await client.delete(f"{TINY}/aliases/trial"), 404, "alias-not-found", "there is production")
        refused = await client.delete(f"{TINY}/aliases/production")
        assert_problem(refused, 409, "version-in-use", "cannot be taken away")
        assert await answering(client) == 1


# ---- only if nobody else was faster


async def test_a_state_has_a_tag_that_changes_with_it(registry: Registry) -> None:
    async with administering(registry) as client:
        first = await client.get(f"{TINY}/state")
        moved = await client.put(f"{TINY}/aliases/trial", json={"version": 2})
        second = await client.get(f"{TINY}/state")
    assert State.model_validate(second.json()) == state_of(registry)
    assert first.headers["etag"] != moved.headers["etag"] == second.headers["etag"]
    assert first.headers["etag"].startswith('"')


@pytest.mark.parametrize(("given", "accepted"), [("{tag}", True), ("*", True), ('"0123"', False), ('""', False)])
async def test_a_change_is_made_only_to_the_state_that_was_seen(given: str, accepted: bool, registry: Registry) -> None:
    async with administering(registry) as client:
        tag = (await client.get(f"{TINY}/state")).headers["etag"]
        headers = {"If-Match": given.format(tag=tag)}
        answer = await client.put(f"{TINY}/aliases/trial", json={"version": 2}, headers=headers)
    if accepted:
        assert answer.status_code == 200
    else:
        assert_problem(answer, 412, "state-conflict", tag.strip('"'))
    assert ("trial" in state_of(registry).aliases) == accepted


async def test_every_change_of_the_state_heeds_a_stale_tag(registry: Registry) -> None:
    for number in (2, 3):
        for alias in ("production", "trial"):
            registry.promote(ModelRef("tiny", version=number), alias)
    before = state_of(registry)
    async with administering(registry) as client:
        for method, path, body in ROUTES[1:-1]:
            answer = await client.request(method, path, json=body, headers={"If-Match": '"0123456789abcdef"'})
            assert_problem(answer, 412, "state-conflict")
    assert state_of(registry) == before


# ---- back


async def test_rolling_back_goes_back_one_version_at_a_time(registry: Registry) -> None:
    async with administering(registry) as client:
        for number in (2, 3):
            await client.put(f"{TINY}/aliases/production", json={"version": number})
        for number in (2, 1):
            answer = await client.post(f"{TINY}/rollback", json={})
            assert answer.json()["aliases"] == {"production": number}
            assert await answering(client) == number
        answer = await client.post(f"{TINY}/rollback", json={})
        assert_problem(answer, 409, "nothing-to-roll-back", "no version before 1")
        answer = await client.post(f"{TINY}/rollback", json={"alias": "trial"})
        assert_problem(answer, 404, "alias-not-found")


async def test_another_alias_can_be_rolled_back(registry: Registry) -> None:
    for number in (2, 3):
        registry.promote(ModelRef("tiny", version=number), "trial")
    async with administering(registry) as client:
        answer = await client.post(f"{TINY}/rollback", json={"alias": "trial"})
        assert answer.json()["aliases"] == {"production": 1, "trial": 2}


async def test_rolling_back_to_what_does_not_load_changes_nothing(registry: Registry) -> None:
    registry.promote(ModelRef.parse("tiny:2"))
    damage(registry, 1)
    async with administering(registry) as client:
        answer = await client.post(f"{TINY}/rollback", json={})
        assert_problem(answer, 503, "model-not-ready", "tiny:1 could not be loaded")
        assert await answering(client) == 2
    assert state_of(registry).aliases == {"production": 2}


async def test_two_who_roll_back_at_once_go_back_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (2, 3):
        registry.promote(ModelRef("tiny", version=number))
    change = Registry.change

    def other_first(self: Registry, name: str, *arguments: Any, **named: Any) -> State:
        monkeypatch.setattr(Registry, "change", change)
        change(registry, name, lambda state: state.rolled_back_to_previous("production"))
        return change(self, name, *arguments, **named)

    async with administering(registry) as client:
        monkeypatch.setattr(Registry, "change", other_first)
        answer = await client.post(f"{TINY}/rollback", json={})
        assert_problem(answer, 412, "state-conflict", "moved meanwhile")
    assert state_of(registry).aliases == {"production": 2}


# ---- traffic, promotion


async def test_traffic_is_divided_and_ended(registry: Registry) -> None:
    async with administering(registry) as client:
        body = {"canary": {"version": 2, "percent": 100}, "shadow": {"version": 3, "percent": 5}}
        answer = await client.put(f"{TINY}/traffic", json=body)
        assert answer.json()["traffic"]["canary"]["header"] == "X-Client-ID"
        assert {number: version["state"] for number, version in (await versions(client)).items()} == {
            1: "ready",
            2: "ready",
            3: "ready",
        }
        assert await answering(client) == 2
        assert (await client.put(f"{TINY}/traffic", json={})).json()["traffic"] == {"canary": None, "shadow": None}
        assert await answering(client) == 1


async def test_a_version_that_does_not_load_gets_no_traffic(registry: Registry) -> None:
    damage(registry, 2)
    async with administering(registry) as client:
        assert_problem(await client.put(f"{TINY}/traffic", json=CANARY), 503, "model-not-ready")
        answer = await client.put(f"{TINY}/traffic", json={"shadow": {"version": 9, "percent": 1}})
        assert_problem(answer, 404, "version-not-found")
    assert state_of(registry).wanted() == {1}


async def test_production_moves_only_with_the_diff_that_is_asked_for(registry: Registry) -> None:
    def record(agreement: float, images: int) -> None:
        registry.record_diff(
            "tiny", DiffRecord(baseline=1, candidate=2, images=images, agreement=agreement, created=NOW)
        )

    async with administering(registry) as client:

        async def promote() -> httpx.Response:
            return await client.put(f"{TINY}/aliases/production", json={"version": 2})

        answer = await client.put(f"{TINY}/promotion", json={"min_agreement": 0.9})
        assert answer.json()["promotion"] == {"min_agreement": 0.9, "min_images": 20}
        assert_problem(await promote(), 409, "promotion-refused", "was not compared", "hubel models diff")
        assert (await versions(client))[2]["state"] == "stored"  # what is refused is not loaded
        record(0.5, 100)
        assert_problem(await promote(), 409, "promotion-refused", "50.0%", "90.0%")
        record(1.0, 19)
        assert_problem(await promote(), 409, "promotion-refused", "on 19 images", "20 images or more")
        assert state_of(registry).aliases == {"production": 1}
        record(0.95, 20)
        assert (await promote()).json()["aliases"] == {"production": 2}


async def test_null_asks_for_nothing_again(registry: Registry) -> None:
    async with administering(registry) as client:
        await client.put(f"{TINY}/promotion", json={"min_agreement": 1, "min_images": 5})
        json_type = {"content-type": "application/json"}
        answer = await client.put(f"{TINY}/promotion", content=b"null", headers=json_type)
        assert (answer.status_code, answer.json()["promotion"]) == (200, None)
        assert (await client.put(f"{TINY}/aliases/production", json={"version": 3})).status_code == 200


# ---- load, unload, remove


async def test_a_version_is_kept_loaded_until_it_need_not_be(registry: Registry) -> None:
    async with administering(registry) as client:
        answer = await client.post(f"{TINY}:2/load")
        assert (answer.status_code, answer.json()["state"]) == (200, "ready")
        assert state_of(registry).load == (2,)
        assert (await client.post(f"{TINY}:2/unload")).status_code == 200
        assert state_of(registry).load == ()

        async def unloaded() -> bool:
            return bool((await versions(client))[2]["state"] == "stored")

        await until(unloaded)
        assert await answering(client) == 1


async def test_what_an_alias_needs_stays_loaded(registry: Registry) -> None:
    async with administering(registry) as client:
        answer = await client.post(f"{TINY}/unload")
        assert (answer.json()["version"], answer.json()["state"]) == (1, "ready")
        assert await answering(client) == 1


async def test_a_version_that_cannot_be_loaded_is_not_kept(registry: Registry) -> None:
    damage(registry, 2)
    async with administering(registry) as client:
        assert_problem(await client.post(f"{TINY}:2/load"), 503, "model-not-ready")
        for ref in ("tiny:9", "dogs", "tiny@trial"):
            assert (await client.post(f"/v1/models/{ref}/load")).status_code == 404
        assert_problem(await client.post("/v1/models/Tiny:2/load"), 404, "invalid-reference")
    assert state_of(registry).load == ()


@pytest.mark.parametrize("user", ["alias 'trial'", "the traffic", "the list of versions to load"])
async def test_a_version_in_use_is_not_removed_and_its_user_is_named(user: str, registry: Registry) -> None:
    async with administering(registry) as client:
        if "alias" in user:
            await client.put(f"{TINY}/aliases/trial", json={"version": 2})
        elif "traffic" in user:
            await client.put(f"{TINY}/traffic", json=CANARY)
        else:
            await client.post(f"{TINY}:2/load")
        assert_problem(await client.delete(f"{TINY}:2"), 409, "version-in-use", user)
        assert_problem(await client.delete(TINY), 409, "version-in-use", "alias 'production'")
        assert await answering(client, "tiny:2") == 2
    assert registry.numbers("tiny") == [1, 2, 3]


async def test_a_removed_version_is_gone_and_its_number_is_never_given_again(
    registry: Registry, tiny: StoredVersion
) -> None:
    async with administering(registry) as client:
        assert await answering(client, "tiny:3") == 3  # it may well be loaded
        answer = await client.delete(f"{TINY}:3")
        assert (answer.status_code, answer.content) == (204, b"")
        for ask in (client.get(f"{TINY}:3"), client.delete(f"{TINY}:3"), client.post(f"{TINY}:3/load")):
            assert_problem(await ask, 404, "version-not-found", "it has 1, 2")
        assert_problem(await client.post(f"{TINY}:3/predict", content=IMAGE), 404, "version-not-found", "no version 3")
        answer = await client.put(f"{TINY}/aliases/trial", json={"version": 3})
        assert_problem(answer, 404, "version-not-found")
        assert await answering(client) == 1
    assert not (Path(registry.address) / "tiny" / "3" / MANIFEST).exists()
    assert publish_again(registry, tiny).number == 4


async def test_rolling_back_passes_over_what_was_removed(registry: Registry) -> None:
    async with administering(registry) as client:
        for number in (2, 3):
            await client.put(f"{TINY}/aliases/production", json={"version": number})
        assert (await client.delete(f"{TINY}:2")).status_code == 204
        assert (await client.post(f"{TINY}/rollback", json={})).json()["aliases"] == {"production": 1}


async def test_a_registry_that_cannot_be_written_is_told_and_what_serves_goes_on(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    async with administering(registry) as client:
        monkeypatch.setattr("model.stores.local.write_temporary", full)
        answer = await client.put(f"{TINY}/aliases/production", json={"version": 2})
        assert_problem(answer, 503, "registry-unavailable", "No space left on device")
        assert await answering(client) == 1
    assert state_of(registry).aliases == {"production": 1}

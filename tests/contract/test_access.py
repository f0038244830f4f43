"""Who may come in: every route, every kind of caller; limits, headers, other origins, and what is never told."""

import asyncio
import json
import logging
import re
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Mount

from hubel import Client
from service.access import METRICS_PATH, Access, is_open
from service.app import create_app
from service.errors import RateLimited
from service.keys import Role, make_key
from service.metrics import Metrics
from service.security import AdminRoute
from service.settings import Settings
from tests.asgi import assert_problem, metric_values, running, until
from tests.fakes import encode, noise

pytestmark = pytest.mark.anyio

PREDICT = "/v1/models/tiny/predict"
IMAGE = encode(noise(12, 12))
SECRETS, KEYS = {}, {}
for _name, _role in (("phone", Role.PREDICT), ("ops", Role.ADMIN)):
    SECRETS[_name], KEYS[_name] = make_key(_name, _role)
LINES = "\n".join(map(str, KEYS.values()))
ADMIN_KEY = "correct-horse-battery"
METRICS_KEY = "staple-of-the-scraper"
ALL: dict[str, Any] = {"api_keys": LINES, "admin_key": ADMIN_KEY, "metrics_key": METRICS_KEY}
# Every path that answers anybody where there are keys. One more is a decision, not an oversight.
OPEN = {"/", "/docs", "/docs/files/", "/health", "/livez", "/openapi.json", "/page/{name}", "/readyz"}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def routes(**settings: Any) -> list[tuple[str, str, bool]]:
    """Return every route that an application has: method, path, whether it is for administrators."""
    app = create_app(Settings.model_validate(settings))
    return [
        (
            method,
            f"{route.path}{'/' * isinstance(route.original_route, Mount)}",
            isinstance(route.original_route, AdminRoute),
        )
        for route in iter_route_contexts(app.routes)
        for method in sorted(route.methods or {"GET"})
    ]


def filled(path: str) -> str:
    """Return a path for a template that names what is not there."""
    return re.sub(r"\{\w+\}", "dogs", path)


# ---- every route

TAILS = ("", "%0A", "/", "%00")  # the framework's patterns end before a newline, too


@pytest.fixture
async def client(published_tiny: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An application with keys of every kind."""
    async with running(published_tiny, wait=False, **ALL) as client:
        yield client


def test_the_open_paths_are_these() -> None:
    assert {path for _, path, _ in routes(**ALL) if is_open(path)} == OPEN


async def test_every_other_route_answers_401_without_a_key(client: httpx.AsyncClient) -> None:
    asked = 0
    for method, path, _ in routes(**ALL):
        if path in OPEN:
            continue
        for headers in ({}, bearer(SECRETS["phone"] + "x"), {"X-API-Key": KEYS["ops"].digest.hex()}):
            for tail in TAILS:
                answer = await client.request(method, filled(path) + tail, headers=headers, content=b"{}")
                assert answer.status_code == 401, (method, path, tail)
                assert answer.headers["www-authenticate"] == "Bearer"
                if method != "HEAD" and not tail:
                    assert_problem(answer, 401, "unauthorized", "Authorization: Bearer KEY")
        asked += 1
    assert asked > 18


async def test_the_open_routes_answer_without_a_key(client: httpx.AsyncClient) -> None:
    for path in OPEN - {"/docs/files/", "/page/{name}"} | {"/docs/files/swagger-ui.css", "/page/app.js"}:
        assert (await client.get(path)).status_code in {200, 503}, path


async def test_what_is_not_there_asks_for_a_key_as_well(client: httpx.AsyncClient) -> None:
    for path in ("/v2", "/v1/nothing", "/docs/files", "/health/", "/docs/file", "/Health"):
        assert_problem(await client.get(path), 401, "unauthorized")


async def test_routes_of_administrators_answer_403_to_other_keys(client: httpx.AsyncClient) -> None:
    for method, path, admin in routes(**ALL):
        answer = await client.request(method, filled(path), headers=bearer(SECRETS["phone"]), content=b"{}")
        if admin or path == METRICS_PATH:
            assert answer.status_code == 403, (method, path)
            if method != "HEAD":
                assert_problem(answer, 403, "forbidden", "predict")
            for tail in TAILS:
                answer = await client.request(method, filled(path) + tail, headers=bearer(SECRETS["phone"]))
                assert answer.status_code in {403, 404, 405}, (method, path, tail)
        else:
            assert answer.status_code not in {401, 403}, (method, path)


async def test_the_metrics_ask_for_their_key_however_their_path_is_spelled(published_tiny: Path) -> None:
    async with running(published_tiny, metrics_key=METRICS_KEY, wait=False) as client:
        for path in ("/metrics", "/metrics%0A", "/%6Detrics%0a"):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers=bearer(METRICS_KEY))).status_code == 200


@pytest.mark.parametrize("secret", [SECRETS["ops"], ADMIN_KEY], ids=["of the file", "of the setting"])
async def test_administrators_come_in_everywhere(secret: str, client: httpx.AsyncClient) -> None:
    for method, path, _ in routes(**ALL):
        answer = await client.request(method, filled(path), headers={"X-API-Key": secret}, content=b"{}")
        assert answer.status_code not in {401, 403}, (method, path)


async def test_the_key_of_the_metrics_opens_nothing_else(client: httpx.AsyncClient) -> None:
    for method, path, _ in routes(**ALL):
        answer = await client.request(method, filled(path), headers=bearer(METRICS_KEY), content=b"{}")
        assert (answer.status_code == 403) == (path not in OPEN | {METRICS_PATH}), (method, path)


def test_every_route_that_changes_something_is_for_administrators() -> None:
    others = {(method, path) for method, path, admin in routes(**ALL) if method not in {"GET", "HEAD"} and not admin}
    asking = ("predict", "activations", "explain", "neuron")  # which change nothing
    assert others == {("POST", "/v1/predict"), *(("POST", f"/v1/models/{{ref}}/{what}") for what in asking)}


def test_without_any_key_there_are_no_routes_of_administrators() -> None:
    assert not any(admin for _, _, admin in routes())
    assert any(admin for _, _, admin in routes(admin_key=ADMIN_KEY))
    assert any(admin for _, _, admin in routes(api_keys=LINES))


async def test_with_an_admin_key_alone_predictions_are_open(published_tiny: Path) -> None:
    async with running(published_tiny, admin_key=ADMIN_KEY) as client:
        for headers in ({}, bearer("anything"), bearer(ADMIN_KEY)):
            assert (await client.post(PREDICT, content=IMAGE, headers=headers)).status_code == 200
        assert (await client.get("/metrics")).status_code == 200
        assert_problem(await client.get("/v1/models/tiny/state"), 401, "unauthorized", "an admin key")


@pytest.mark.parametrize("given", ["file", "variable"])
async def test_keys_of_which_there_are_none_let_nobody_in(given: str, published_tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# nobody yet\n")
    keys: dict[str, Any] = {"api_keys_file": file} if given == "file" else {"api_keys": ""}
    async with running(published_tiny, wait=False, **keys) as client:
        assert_problem(await client.get("/v1/models"), 401, "unauthorized")
        assert_problem(await client.get("/v1/models/tiny/state"), 401, "unauthorized")


# ---- how a key is given


@pytest.mark.parametrize(
    "headers",
    [
        bearer(SECRETS["phone"]),
        {"Authorization": f"bearer   {SECRETS['phone']} "},
        {"X-API-Key": SECRETS["phone"]},
        {"Authorization": "Basic cHJveHk6cHJveHk=", "X-API-Key": SECRETS["phone"]},
        {"Authorization": "Bearer of-the-proxy", "X-API-Key": SECRETS["phone"]},
    ],
)
async def test_a_key_is_given_in_either_header(headers: dict[str, str], client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": SECRETS["phone"]},
        {"Authorization": f"Basic {SECRETS['phone']}"},
        {"Authorization": f"Bearer,{SECRETS['phone']}"},
        {"Authorization": "Bearer"},
        {"X-API-Key": f"Bearer {SECRETS['phone']}"},
        {"X-API-Key": ""},
        {"Cookie": f"X-API-Key={SECRETS['phone']}"},
    ],
)
async def test_a_key_is_given_in_no_other_way(headers: dict[str, str], client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models", headers=headers)).status_code == 401
    answer = await client.get("/v1/models", params={"api_key": SECRETS["phone"], "access_token": SECRETS["phone"]})
    assert answer.status_code == 401


NAMES = st.sampled_from([b"authorization", b"x-api-key", b"other"])


@given(headers=st.lists(st.tuples(NAMES, st.binary(max_size=80) | st.binary().map(lambda tail: b"Bearer " + tail))))
def test_no_header_whatever_is_a_key_by_chance_or_a_failure(headers: list[tuple[bytes, bytes]]) -> None:
    assert ACCESS.authenticate(headers) is None


ACCESS = Access(Settings.model_validate(ALL), Metrics())


@pytest.mark.parametrize("value", [b"Bearer \xff\xfe", b"\xc3\xbc", b"Bearer \x00", b"Bearer " + b"x" * 60_000, b""])
async def test_odd_bytes_in_a_header_are_a_wrong_key(value: bytes, client: httpx.AsyncClient) -> None:
    for name in (b"authorization", b"x-api-key"):
        answer = await client.post(PREDICT, headers=[(name, value)], content=IMAGE)
        assert_problem(answer, 401, "unauthorized")


async def test_a_body_is_not_read_from_who_may_not_come_in(client: httpx.AsyncClient) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(True)
        yield IMAGE

    assert (await client.post(PREDICT, content=body())).status_code == 401
    headers = bearer(SECRETS["phone"])
    assert (await client.post("/v1/models/tiny/diff", content=body(), headers=headers)).status_code == 403
    assert not read


def test_the_client_gives_its_key() -> None:
    with Client("http://hubel", key="sesame") as client:
        assert client._http.headers["authorization"] == "Bearer sesame"
        assert not client._http.follow_redirects
    with Client("http://hubel") as client:
        assert "authorization" not in client._http.headers


# ---- a file that changes


async def test_keys_come_and_go_while_the_service_runs(
    published_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.keys._POLL_SECONDS", 0.02)
    file = tmp_path / "keys"
    file.write_text(f"{KEYS['ops']}\n")
    async with running(published_tiny, api_keys_file=file, wait=False) as client:

        async def status() -> int:
            return (await client.get("/v1/models", headers=bearer(SECRETS["phone"]))).status_code

        async def detail(name: str) -> str | None:
            health = (await client.get("/health", headers=bearer(SECRETS[name]))).json()
            return str(health["keys_away"]) if health["keys_away"] else None

        async def is_away() -> bool:
            return await detail("ops") is not None

        async def is_in() -> bool:
            return await status() == 200

        async def is_out() -> bool:
            return await status() == 401

        assert await status() == 401
        file.write_text(f"{LINES}\n")
        await until(is_in, 3)
        file.write_text("oops\n")
        await until(is_away, 3)
        assert await status() == 200
        assert "line 1" in str(await detail("ops"))
        assert await detail("phone") is None
        assert (await metric_values(client))["hubel_keys_readable", ""] == 0
        file.write_text(f"{KEYS['ops']}\n")
        await until(is_out, 3)
        assert (await metric_values(client))["hubel_keys_readable", ""] == 1


# ---- limits


async def test_a_key_that_asks_too_often_is_told_when_to_come_back(published_tiny: Path) -> None:
    limited = f"{KEYS['phone']} requests_per_second=2\n{KEYS['ops']}"
    async with running(published_tiny, wait=False, api_keys=limited) as client:
        headers = bearer(SECRETS["phone"])
        answers = [await client.get("/v1/models/dogs", headers=headers) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [404, 404, 429, 429]
        problem = assert_problem(answers[2], 429, "rate-limited", "2 requests a second")
        assert (problem["limit"], problem["value"]) == ("key_requests_per_second", 2)
        assert answers[2].headers["retry-after"] == "1"
        for _ in range(5):
            assert (await client.get("/health", headers=headers)).status_code != 429
            assert (await client.get("/v1/models/dogs", headers=bearer(SECRETS["ops"]))).status_code == 404
        values = await metric_values(client)
    assert values["hubel_refused_requests_total", "key=phone,reason=key_requests_per_second"] == 2


async def test_a_setting_limits_every_key_that_has_no_limit_of_its_own(published_tiny: Path) -> None:
    lines = f"{KEYS['phone']}\n{KEYS['ops']} requests_per_second=0"
    async with running(published_tiny, wait=False, api_keys=lines, requests_per_second=1) as client:
        statuses = {
            name: [(await client.get("/v1/models/dogs", headers=bearer(SECRETS[name]))).status_code for _ in range(3)]
            for name in ("phone", "ops")
        }
        answer = await client.get("/v1/models/dogs", headers=bearer(SECRETS["phone"]))
    assert statuses == {"phone": [404, 429, 429], "ops": [404, 404, 404]}
    assert answer.json()["setting"] == "HUBEL_REQUESTS_PER_SECOND"


async def test_a_key_has_so_many_requests_under_way_and_no_more(published_tiny: Path) -> None:
    async with running(published_tiny, api_keys=LINES, concurrent_requests=1, admin_key=ADMIN_KEY) as client:
        headers = bearer(SECRETS["phone"])
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def slow_body() -> AsyncIterator[bytes]:
            arrived.set()
            await go_on.wait()
            yield IMAGE

        first = asyncio.create_task(client.post(PREDICT, content=slow_body(), headers=headers))
        await arrived.wait()
        refused = await client.post(PREDICT, content=IMAGE, headers=headers)
        problem = assert_problem(refused, 429, "too-many-requests", "1 requests under way")
        assert problem["setting"] == "HUBEL_CONCURRENT_REQUESTS"
        assert refused.headers["retry-after"] == "1"
        assert (await client.post(PREDICT, content=IMAGE, headers=bearer(SECRETS["ops"]))).status_code == 200
        go_on.set()
        assert (await first).status_code == 200
        assert (await client.post(PREDICT, content=IMAGE, headers=headers)).status_code == 200


def test_callers_that_are_not_known_leave_nothing_behind() -> None:
    metrics = Metrics()
    access = Access(Settings.model_validate({**ALL, "requests_per_second": 5}), metrics)
    with access.admit(access.authenticate([(b"x-api-key", SECRETS["phone"].encode())])):
        pass
    before = _sizes(access)
    for number in range(1000):
        key = access.authenticate([(b"authorization", f"Bearer hubel_{number}".encode())])
        assert key is None
        with access.admit(key):
            pass
    assert _sizes(access) == before
    assert len(access._allowances) == 4


def _sizes(access: Access) -> list[int]:
    return [len(value) for value in vars(access).values() if hasattr(value, "__len__")]


def test_limits_that_stay_keep_what_is_used_when_the_keys_change(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEYS['phone']} requests_per_second=1\n")
    access = Access(Settings.model_validate({"api_keys_file": file}), Metrics(), clock=lambda: 0.0)

    def ask() -> str:
        try:
            with access.admit(access.authenticate([(b"x-api-key", SECRETS["phone"].encode())])):
                return "in"
        except RateLimited:
            return "refused"

    assert [ask(), ask()] == ["in", "refused"]
    file.write_text(f"{KEYS['phone']} requests_per_second=1\n{KEYS['ops']}\n")
    access.keys.refresh()
    assert ask() == "refused"
    file.write_text(f"{KEYS['phone']} requests_per_second=2\n")
    access.keys.refresh()
    assert [ask(), ask(), ask()] == ["in", "in", "refused"]


# ---- what is told, and what never is


async def test_who_has_no_key_is_told_only_whether_the_service_is_ready(tiny_root: Path) -> None:
    shutil.rmtree(tiny_root / "tiny" / "1")
    async with running(tiny_root, wait=False, **ALL) as client:
        for headers in ({}, bearer("wrong"), bearer(METRICS_KEY)):
            for path in ("/health", "/readyz"):
                answer = await client.get(path, headers=headers)
                assert answer.status_code == 503
                assert (answer.json()["ready"], answer.json()["waiting_for"]) == (False, ["who has an API key is told"])
                assert "tiny" not in answer.text
                assert str(tiny_root) not in answer.text
        for name in ("phone", "ops"):
            assert "tiny" in (await client.get("/health", headers=bearer(SECRETS[name]))).text


async def test_the_log_names_the_key_and_nothing_ever_holds_it(
    published_tiny: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = []
    async with running(published_tiny, **ALL) as client:
        for secret in (*SECRETS.values(), ADMIN_KEY, METRICS_KEY, "hubel_unknown-to-all"):
            for headers in (bearer(secret), {"X-API-Key": secret}, {**bearer(secret), "If-Match": "x"}):
                for method, path in (
                    ("POST", PREDICT),
                    ("GET", "/v1/models?top_k=x"),
                    ("POST", f"{PREDICT}?top_k=x"),
                    ("PUT", "/v1/models/tiny/traffic"),
                    ("GET", "/health"),
                    ("GET", "/metrics"),
                    ("GET", "/nothing"),
                ):
                    answer = await client.request(method, path, headers=headers, content=IMAGE)
                    answers.append(answer.text + str(answer.headers))
    said = capsys.readouterr().err + caplog.text
    digests = [key.digest.hex() for key in KEYS.values()]
    for secret in (*SECRETS.values(), ADMIN_KEY, METRICS_KEY, "unknown-to-all", *digests):
        assert secret not in said
        assert not any(secret in answer for answer in answers)
    requests = [json.loads(line) for line in said.splitlines() if '"path":"/v1/models' in line]
    assert {request["key"] for request in requests} == {"", "admin", "metrics", "ops", "phone"}


async def test_refusals_are_counted_by_what_was_lacking(client: httpx.AsyncClient) -> None:
    await client.get("/v1/models")
    await client.get("/v1/models/tiny/state", headers=bearer(SECRETS["phone"]))
    client.headers.update(bearer(METRICS_KEY))
    values = await metric_values(client)
    assert values["hubel_refused_requests_total", "key=,reason=unauthorized"] == 1
    assert values["hubel_refused_requests_total", "key=phone,reason=forbidden"] == 1
    assert values["hubel_requests_total", "model=,route=,status=401,version="] == 1


# ---- browsers

PROTECTION = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'"


async def test_every_answer_tells_browsers_to_trust_nothing(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.headers.update(bearer(SECRETS["ops"]))
    answers = [
        await client.get("/v1/models"),
        await client.get("/nothing"),
        await client.get("/health"),
        await client.get("/v1/models", headers=bearer("wrong")),
        await client.get("/docs/files/swagger-ui.css"),
    ]

    def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("service.routes.models.WorkerOut.of", fail)
    answers.append(await client.get("/v1/models"))
    assert [answer.status_code for answer in answers] == [200, 404, answers[2].status_code, 401, 200, 500]
    for answer in answers:
        for name, value in {**PROTECTION, "content-security-policy": API_POLICY}.items():
            assert answer.headers.get_list(name) == [value], answer.url
        assert "strict-transport-security" not in answer.headers


async def test_over_tls_browsers_are_told_to_stay_there(client: httpx.AsyncClient) -> None:
    answer = await client.get("https://hubel/livez")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_the_documentation_may_do_what_it_needs_and_no_more(client: httpx.AsyncClient) -> None:
    docs = await client.get("/docs")
    (policy,) = docs.headers.get_list("content-security-policy")
    assert policy.startswith("default-src 'none'; ")
    assert docs.text.count("<script>") == policy.count("'sha256-") == 1
    assert "unsafe" not in policy
    for name, value in PROTECTION.items():
        assert docs.headers.get_list(name) == [value]


PAGE = "https://page.example"


@asynccontextmanager
async def from_elsewhere(root: Path, origins: str) -> AsyncIterator[httpx.AsyncClient]:
    async with running(root, wait=False, cors_origins=origins, **ALL) as client:
        client.headers["Origin"] = PAGE
        yield client


def preflight(headers: Iterable[str] = ("authorization", "x-client-id")) -> dict[str, str]:
    return {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ", ".join(headers)}


async def test_pages_of_a_listed_origin_may_ask(published_tiny: Path) -> None:
    async with from_elsewhere(published_tiny, f"{PAGE}, http://localhost:3000") as client:
        asked = await client.options(PREDICT, headers=preflight())
        refused = await client.get("/v1/models")
        other = await client.options(PREDICT, headers={**preflight(), "Origin": "https://other.example"})
        answer = await client.get("/v1/models", headers=bearer(SECRETS["phone"]))
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert asked.headers["access-control-allow-credentials"] == "true"
    assert "authorization" in asked.headers["access-control-allow-headers"]
    assert asked.headers["x-request-id"]
    for each in (refused, answer):
        assert each.headers["access-control-allow-origin"] == PAGE
        assert {"X-Request-ID", "Retry-After", "Server-Timing"} <= set(
            each.headers["access-control-expose-headers"].split(", ")
        )
    assert (refused.status_code, answer.status_code) == (401, 200)
    assert "access-control-allow-origin" not in other.headers


async def test_every_origin_may_be_listed_and_none_gets_credentials_then(published_tiny: Path) -> None:
    async with from_elsewhere(published_tiny, "*") as client:
        asked = await client.options(PREDICT, headers=preflight())
        answer = await client.get("/v1/models", headers={**bearer(SECRETS["phone"]), "Cookie": "a=b"})
    for each in (asked, answer):
        assert each.status_code == 200
        assert "access-control-allow-credentials" not in each.headers
    assert asked.headers["access-control-allow-origin"] == "*"


async def test_without_a_list_no_origin_may_ask(published_tiny: Path) -> None:
    async with from_elsewhere(published_tiny, "") as client:
        assert (await client.options(PREDICT, headers=preflight())).status_code == 401
        answer = await client.get("/v1/models", headers=bearer(SECRETS["phone"]))
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origins", ["page.example", "https://page.example/", "null", "https://*.example", "https://"])
def test_what_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(ValueError, match="an origin is"):
        Settings(cors_origins=origins)


# ---- the document


async def test_the_document_marks_what_needs_a_key(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert ("security" in operation) == (path not in OPEN), (method, path)
            if "security" in operation:
                assert operation["security"] == [{"HTTPBearer": []}]
                assert {"401", "403", "429"} <= set(operation["responses"])
    assert LINES not in json.dumps(document)

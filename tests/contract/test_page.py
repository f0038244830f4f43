"""The page's files: their types, their policy, how they are kept, and that there are no others to be had."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.keys import Role, make_key
from service.routes.page import page_files
from tests.asgi import assert_problem, running

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).parents[2] / "service" / "page"
NAMES = sorted(path.name for path in FOLDER.iterdir())
MAX_BYTES = 300_000
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' blob: data:",
    "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
}  # fmt: skip


@pytest.fixture
async def client(published_tiny: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(published_tiny, wait=False) as client:
        yield client


def imports(text: str) -> list[str]:
    return re.findall(r'^import (?:.+ from )?"\./([\w.]+)";$', text, re.MULTILINE)


async def test_the_page_answers_at_the_root(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.content == (FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize("name", NAMES)
async def test_every_file_has_its_type_and_the_policy(name: str, client: httpx.AsyncClient) -> None:
    answer = await client.get(f"/page/{name}")
    types = {"css": "text/css; charset=utf-8", "html": "text/html; charset=utf-8", "jpg": "image/jpeg",
             "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}  # fmt: skip
    assert answer.headers["content-type"] == types[name.rpartition(".")[2]]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    told = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert told == POLICY
    assert answer.content == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("path", ["/", "/page/app.js"])
async def test_a_browser_that_has_a_file_is_not_sent_it_again(path: str, client: httpx.AsyncClient) -> None:
    tag = (await client.get(path)).headers["etag"]
    for known in (tag, f"W/{tag}", f'"another", {tag}', "*"):
        answer = await client.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b""), known
        assert answer.headers["etag"] == tag
    for other in ('"another"', tag.strip('"')):
        assert (await client.get(path, headers={"If-None-Match": other})).status_code == 200, other


@pytest.mark.parametrize("path", ["/", "/page/style.css"])
async def test_head_tells_what_get_would(path: str, client: httpx.AsyncClient) -> None:
    got, told = await client.get(path), await client.head(path)
    assert (told.status_code, told.content) == (200, b"")
    for name in ("content-type", "content-length", "etag", "content-security-policy"):
        assert told.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/none.js",
        "/page/..%2f__init__.py",
        "/page/%2e%2e/app.py",
        "/page/app.js%00",
        "/page/page/app.js",
    ],
)
async def test_there_are_no_other_files(path: str, client: httpx.AsyncClient) -> None:
    assert_problem(await client.get(path), 404, "not-found")


async def test_the_page_is_open_and_what_it_asks_for_is_not(published_tiny: Path) -> None:
    secret, key = make_key("page", Role.PREDICT)
    async with running(published_tiny, wait=False, api_keys=str(key)) as client:
        for path in ("/", *(f"/page/{name}" for name in NAMES)):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/v1/models", headers={"X-API-Key": secret})).status_code == 200


def test_all_files_together_are_light() -> None:
    assert sum(len(file.content) for file in page_files().values()) < MAX_BYTES


def test_every_import_leads_to_a_file_and_every_module_is_imported() -> None:
    scripts = {name: (FOLDER / name).read_text() for name in NAMES if name.endswith(".js")}
    asked = {name for text in scripts.values() for name in imports(text)}
    assert asked | {"app.js"} == set(scripts)


def test_the_page_names_its_own_files_only_and_no_other_host() -> None:
    html = (FOLDER / "index.html").read_text()
    assert set(re.findall(r'(?:src|href)="(?!#)([^"]+)"', html)) == {
        "docs",
        "page/app.js",
        "page/icon.svg",
        "page/style.css",
    }
    for name in NAMES:
        if not name.endswith(".jpg"):
            text = (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
            assert "://" not in text, name


def test_nothing_is_ever_read_as_html_or_as_code() -> None:
    for name in NAMES:
        if name.endswith(".js"):
            text = (FOLDER / name).read_text()
            for word in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "Storage",
            ):
                assert word not in text, (name, word)

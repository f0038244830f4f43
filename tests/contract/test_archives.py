"""Versions as files over HTTP, and two versions compared over HTTP."""

from pathlib import Path

import httpx
import pytest
from PIL import Image

from model.registry import Registry, StoredVersion
from tests.asgi import assert_problem, running
from tests.fakes import encode, noise, tiny_release
from training.publish import publish

pytestmark = pytest.mark.anyio
KEY = "the key of the tests"
ADMIN = {"Authorization": f"Bearer {KEY}"}
IMAGE = encode(noise())


async def exported(client: httpx.AsyncClient, ref: str = "tiny") -> bytes:
    answer = await client.get(f"/v1/models/{ref}/archive", headers=ADMIN)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == 'attachment; filename="tiny-1.hubel.tar"'
    return answer.content


async def test_a_version_that_is_exported_can_be_imported_and_serves_at_once(
    tiny_root: Path, tiny: StoredVersion
) -> None:
    async with running(tiny_root, admin_key=KEY) as client:
        archive = await exported(client)
        published = await client.post("/v1/models?name=copy&alias=canary", content=archive, headers=ADMIN)
        assert (published.status_code, published.json()) == (201, {"model": "copy", "version": 1, "ready": True})
        answers = [
            (await client.post(f"/v1/models/{ref}/predict", content=IMAGE)).json()["results"]
            for ref in ("tiny:1", "copy@canary")
        ]
    assert answers[0] == answers[1]
    assert Registry(tiny_root).state("copy").aliases == {"production": 1, "canary": 1}


async def test_a_refused_archive_is_the_sender_s_fault_and_leaves_nothing(tiny_root: Path) -> None:
    async with running(tiny_root, admin_key=KEY) as client:
        archive = await exported(client)
        for content in (b"", b"no archive", archive[: len(archive) // 2], archive.replace(b"cow", b"cat", 1)):
            answer = await client.post("/v1/models?name=copy", content=content, headers=ADMIN)
            assert_problem(answer, 422, "invalid-request", "the archive is refused")
        answer = await client.post("/v1/models?name=../copy", content=archive, headers=ADMIN)
        assert_problem(answer, 404, "invalid-reference")
    assert Registry(tiny_root).names() == ["tiny"]
    assert not Registry(tiny_root).has("copy")


async def test_archives_have_a_limit_of_their_own(published_tiny: Path) -> None:
    async with running(published_tiny, admin_key=KEY, max_body_bytes=1024, max_archive_bytes=2048) as client:
        answer = await client.post("/v1/models", content=bytes(3000), headers=ADMIN)
        assert assert_problem(answer, 413, "body-too-large")["setting"] == "HUBEL_MAX_ARCHIVE_BYTES"
        answer = await client.post("/v1/models", content=bytes(1500), headers=ADMIN)
        assert_problem(answer, 422, "invalid-request")


async def test_archives_and_comparisons_need_the_key(published_tiny: Path) -> None:
    async with running(published_tiny, admin_key=KEY) as client:
        for method, path in (
            ("GET", "/v1/models/tiny/archive"),
            ("POST", "/v1/models"),
            ("POST", "/v1/models/tiny/diff?candidate=tiny:1"),
        ):
            assert_problem(await client.request(method, path), 401, "unauthorized")
    async with running(published_tiny) as client:
        assert (await client.get("/v1/models/tiny/archive")).status_code == 404
        assert (await client.post("/v1/models")).status_code == 405


async def top_label(client: httpx.AsyncClient, number: int, image: bytes) -> str:
    answer = await client.post(f"/v1/models/tiny:{number}/predict", content=image)
    return str(answer.json()["results"][0]["predictions"][0]["label"])


async def test_two_versions_are_compared_on_the_images_of_a_request(tiny_root: Path) -> None:
    registry = Registry(tiny_root)
    for seed in (5, 8):  # the one tells these colours apart, the other calls all of them bees
        publish(registry, tiny_release(seed))
    images = [encode(Image.new("RGB", (12, 12), (10 * n, 255 - 10 * n, 70 * n % 256))) for n in range(24)]
    async with running(tiny_root, admin_key=KEY) as client:
        tops = [[await top_label(client, number, image) for image in images] for number in (2, 3)]
        answer = await client.post(
            "/v1/models/tiny:2/diff?candidate=tiny:3",
            files=[("f", image) for image in [*images, b"bad"]],
            headers=ADMIN,
        )
        bad = await client.post("/v1/models/tiny/diff?candidate=tiny:2", content=b"bad", headers=ADMIN)
        unknown = await client.post("/v1/models/tiny/diff?candidate=tiny:9", content=IMAGE, headers=ADMIN)
    different = [index for index, pair in enumerate(zip(*tops, strict=True)) if pair[0] != pair[1]]
    body = answer.json()
    assert 0 < len(different) < len(images)
    assert [row["image"] for row in body["differences"]] == different
    assert (body["images"], body["unreadable"]) == (24, 1)
    assert body["agreement"] == pytest.approx(1 - len(different) / 24)
    (record,) = registry.state("tiny").diffs
    assert (record.baseline, record.candidate, record.images) == (2, 3, 24)
    assert record.agreement == body["agreement"]
    assert_problem(bad, 422, "invalid-request", "none of the images")
    assert_problem(unknown, 404, "version-not-found")

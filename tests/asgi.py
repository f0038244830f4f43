"""The application in this process, asked over httpx without a port."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.settings import Settings


@asynccontextmanager
async def running(registry: Path, *, wait: bool = True, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run the application on a registry; by default until every version that it loads is loaded."""
    app = create_app(
        Settings.model_validate({"registry": registry, "default_model": "tiny", "device": "cpu", **settings})
    )
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://hubel") as client:
            while wait and re.search("loading|warming", (await client.get("/v1/models")).text):
                await asyncio.sleep(0.01)
            yield client


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 20.0) -> None:
    """Wait until a condition holds, asking again and again."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def metric_values(client: httpx.AsyncClient) -> dict[tuple[str, str], float]:
    """Every sample, by its name and its labels but le."""
    text = (await client.get("/metrics")).text
    return {
        (sample.name, ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def assert_problem(response: httpx.Response, status: int, slug: str, *words: str) -> dict[str, Any]:
    """Check that an answer is a problem of a kind, and that its detail has `words`."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert set(body) >= {"type", "title", "status", "detail", "instance", "request_id"}
    assert body["type"] == f"urn:hubel:problem:{slug}"
    assert body["status"] == status
    assert body["instance"] == response.request.url.path
    assert body["request_id"] == response.headers["x-request-id"]
    for word in words:
        assert word in body["detail"]
    return body

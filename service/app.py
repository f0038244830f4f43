"""The application: the only place where the parts of the service are put together."""

import importlib.metadata
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.responses import RedirectResponse

from model.registry import Registry
from service import problems
from service.canary import CanaryWatch
from service.following import Follower
from service.hosting import ModelHost
from service.lifecycle import Lifecycle
from service.logs import configure_logs
from service.metrics import Metrics
from service.middleware import LimitBody, ObserveRequests
from service.routes import administration, archives, comparisons, health, models, predictions
from service.settings import Settings, load_settings
from service.shadow import ShadowCaller
from service.workers import WorkerBoard

_DESCRIPTION = (
    "Image classification over REST. POST the bytes of an image and get class probabilities. "
    "A model is named `name`, `name:3` or `name@alias`; without a version it is the alias `production`."
)


def create_app(settings: Settings) -> FastAPI:
    """Build the application; its models are loaded when it starts."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        registry = Registry(settings.registry, settings.cache)
        app.state.host = host = ModelHost(registry, settings, metrics)
        app.state.shadows = shadows = ShadowCaller(host, metrics, settings.max_batch_size)
        app.state.board = board = WorkerBoard(settings.worker_folder)
        follower = Follower(host, CanaryWatch(registry, metrics), board, settings.registry_poll_seconds)
        await host.start()
        follower.start()
        yield
        await follower.close()
        await shadows.close()
        await host.close()
        metrics.close()

    app: FastAPI = FastAPIOffline(
        title="hubel",
        version=importlib.metadata.version("hubel"),
        description=_DESCRIPTION,
        redoc_url=None,
        static_url="/docs/files",
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.lifecycle = Lifecycle()
    problems.add_handlers(app)
    for routes in (predictions, models, health):
        app.include_router(routes.router)
    if settings.admin_key is not None:
        for routes in (administration, archives, comparisons):
            app.include_router(routes.router)
    app.add_api_route("/", _to_documentation, include_in_schema=False)
    app.add_middleware(LimitBody, max_body_bytes=settings.max_body_bytes, max_archive_bytes=settings.max_archive_bytes)
    app.add_middleware(ObserveRequests, metrics=metrics)
    return app


async def _to_documentation() -> RedirectResponse:
    return RedirectResponse("docs")


def create_worker_app() -> FastAPI:
    """Build the application of one of several workers, whose settings come by its environment."""
    settings = load_settings(os.environ)
    configure_logs(settings.log_level)
    return create_app(settings)

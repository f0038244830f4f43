"""The application: the only place where the parts of the service are put together."""

import asyncio
import functools
import importlib.metadata
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from model.registry import Registry
from service import problems
from service.access import Access, LetIn
from service.canary import CanaryWatch
from service.explaining import Explainer
from service.following import Follower
from service.hosting import ModelHost
from service.lifecycle import Lifecycle
from service.logs import configure_logs
from service.metrics import Metrics
from service.middleware import LimitBody, ObserveRequests
from service.routes import (
    administration,
    archives,
    comparisons,
    documentation,
    explanations,
    health,
    models,
    page,
    predictions,
)
from service.security import key_needed
from service.settings import Settings, load_settings
from service.shadow import ShadowCaller
from service.workers import WorkerBoard

_DESCRIPTION = (
    "Image classification over REST. POST the bytes of an image and get class probabilities. "
    "A model is named `name`, `name:3` or `name@alias`; without a version it is the alias `production`."
)

_EXPOSED = ["ETag", "Retry-After", "Server-Timing", "X-Request-ID"]  # to pages of other origins


class Application(FastAPI):
    """FastAPI, behind what happens around every request.

    It is around FastAPI and not among its own middleware: what takes a shortcut passes that by, and what FastAPI
    answers on a fault of ours is observed as everything else is.
    """

    around: Sequence[Middleware] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's life."""
        scope["app"] = self
        await self._front(scope, receive, send)

    @functools.cached_property
    def _front(self) -> ASGIApp:
        front: ASGIApp = super().__call__
        for layer in reversed(self.around):
            front = layer.cls(front, *layer.args, **layer.kwargs)
        return front


def create_app(settings: Settings) -> FastAPI:
    """Build the application; its models are loaded when it starts."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        registry = Registry(settings.registry, settings.cache)
        app.state.host = host = ModelHost(registry, settings, metrics, app.state.lifecycle)
        app.state.shadows = shadows = ShadowCaller(host, metrics, settings.max_batch_size)
        app.state.explainer = explainer = Explainer(settings)
        app.state.board = board = WorkerBoard(settings.worker_folder)
        follower = Follower(host, CanaryWatch(registry, metrics), board, settings.registry_poll_seconds)
        await host.start()
        follower.start()
        telling = asyncio.create_task(metrics.keep_telling())
        app.state.access.keys.start()
        yield
        telling.cancel()
        await app.state.access.keys.close()
        await follower.close()
        await shadows.close()
        await explainer.close()
        await host.close()
        metrics.close()

    app = Application(
        title="hubel",
        version=importlib.metadata.version("hubel"),
        description=_DESCRIPTION,
        redoc_url=None,
        docs_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.lifecycle = Lifecycle()
    app.state.access = access = Access(settings, metrics)
    problems.add_handlers(app)
    _add_routes(app, settings)
    app.around = [
        Middleware(ObserveRequests, metrics=metrics),
        *_other_origins(settings),
        Middleware(LetIn, access=access),
        Middleware(LimitBody, settings=settings),
        Middleware(predictions.Shortcut),
    ]
    return app


def _other_origins(settings: Settings) -> list[Middleware]:
    """Return what lets pages of other origins in, where the settings name any."""
    if not settings.origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_credentials="*" not in settings.origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    ]


def _add_routes(app: FastAPI, settings: Settings) -> None:
    for routes in (predictions, models, explanations):
        app.include_router(routes.router, **(key_needed() if settings.asks_for_keys else {}))
    for routes in (health, documentation, page):
        app.include_router(routes.router)
    app.mount(documentation.FILES, documentation.files())
    app.include_router(health.metrics_router, **(key_needed() if settings.metrics_key is not None else {}))
    if settings.admin_key is not None or settings.asks_for_keys:
        for routes in (administration, archives, comparisons):
            app.include_router(routes.router)


def create_worker_app() -> FastAPI:
    """Build the application of one of several workers, whose settings come by its environment."""
    settings = load_settings(os.environ)
    configure_logs(settings.log_level)
    return create_app(settings)

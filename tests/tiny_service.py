"""A service without models, to try servers and processes on: it starts in a moment and does as it is told."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.callers import caller_of
from service.errors import CallerLeft
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.settings import Settings, load_settings

APP = f"{__name__}:create_worker_app"
BROKEN_APP = f"{__name__}:create_broken_app"


def create_app(settings: Settings) -> Starlette:
    """Make the application; its state notes what became of its requests."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield

    paths = {
        "/": name,
        "/youngest": youngest,
        "/echo": echo,
        "/sleep": sleep,
        "/big": big,
        "/early": early,
        "/late": late,
        "/stubborn": stubborn,
    }
    routes = [Route(path, handler, methods=["GET", "POST"]) for path, handler in {**paths, **_FAULTS}.items()]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.settings = settings
    app.state.lifecycle = Lifecycle()
    app.state.metrics = Metrics()
    app.state.left = []
    return app


async def name(request: Request) -> Response:
    """Tell the process that serves."""
    return PlainTextResponse(str(os.getpid()))


async def youngest(request: Request) -> Response:
    """Tell when the youngest process that serves was started."""
    sample = b"\nhubel_worker_start_time_seconds "
    return PlainTextResponse(request.app.state.metrics.exposition().partition(sample)[2].split()[0])


async def echo(request: Request) -> Response:
    """Tell how long the body was."""
    try:
        return PlainTextResponse(str(len(await request.body())))
    except ClientDisconnect:
        request.app.state.left.append("echo")
        return Response()


async def sleep(request: Request) -> Response:
    """Take a while, unless the caller leaves."""
    try:
        with caller_of(request.scope):
            await asyncio.sleep(float(request.query_params.get("seconds", "0.1")))
    except CallerLeft:
        request.app.state.left.append("sleep")
    return PlainTextResponse("awake")


async def big(request: Request) -> Response:
    """Give more than a socket holds."""
    return PlainTextResponse(b"x" * 30_000_000)


async def early(request: Request) -> Response:
    """Answer without a look at the body."""
    return PlainTextResponse("early", 413)


async def late(request: Request) -> Response:
    """Ask for the body after a while."""
    await asyncio.sleep(0.3)
    return PlainTextResponse(str(len(await request.body())))


async def stubborn(request: Request) -> Response:
    """Go on whatever becomes of the caller."""
    await asyncio.sleep(60)
    return PlainTextResponse("done")


async def fail(request: Request) -> Response:
    """Say that this process cannot go on."""
    request.app.state.lifecycle.fail("it was told to")
    return PlainTextResponse("failing")


async def hang(request: Request) -> Response:
    """Stop the whole event loop."""
    time.sleep(60)  # noqa: ASYNC251
    return PlainTextResponse("back")


_FAULTS = {"/fail": fail, "/hang": hang}


def create_worker_app() -> Starlette:
    """Build it for a worker."""
    return create_app(load_settings(os.environ))


def create_broken_app() -> Starlette:
    """Fail, as a worker whose installation is damaged does."""
    raise ImportError("a library is missing")

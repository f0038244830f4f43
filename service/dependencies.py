"""What handlers ask for: typed aliases over the application's state.

All are coroutines, although none waits: FastAPI would send a plain function to a thread, several times a request.
"""

from typing import Annotated

from fastapi import Depends, Query, Request

from service.access import Access, key_of
from service.hosting import ModelHost
from service.keys import Key
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.schemas import PredictQuery
from service.settings import Settings
from service.workers import WorkerBoard


async def _host(request: Request) -> ModelHost:
    host: ModelHost = request.app.state.host
    return host


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


async def _board(request: Request) -> WorkerBoard:
    board: WorkerBoard = request.app.state.board
    return board


async def _lifecycle(request: Request) -> Lifecycle:
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


async def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


async def _key(request: Request) -> Key | None:
    return key_of(request.scope)


Host = Annotated[ModelHost, Depends(_host)]
CurrentSettings = Annotated[Settings, Depends(_settings)]
CurrentMetrics = Annotated[Metrics, Depends(_metrics)]
Board = Annotated[WorkerBoard, Depends(_board)]
CurrentAccess = Annotated[Access, Depends(_access)]
CallersKey = Annotated[Key | None, Depends(_key)]
CurrentLifecycle = Annotated[Lifecycle, Depends(_lifecycle)]
Options = Annotated[PredictQuery, Query()]

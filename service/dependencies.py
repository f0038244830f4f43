"""What handlers ask for: typed aliases over the application's state."""

from typing import Annotated

from fastapi import Depends, Query, Request

from service.hosting import ModelHost
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.schemas import PredictQuery
from service.settings import Settings
from service.shadow import ShadowCaller
from service.workers import WorkerBoard


def _host(request: Request) -> ModelHost:
    host: ModelHost = request.app.state.host
    return host


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


def _board(request: Request) -> WorkerBoard:
    board: WorkerBoard = request.app.state.board
    return board


def _lifecycle(request: Request) -> Lifecycle:
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


def _shadows(request: Request) -> ShadowCaller:
    shadows: ShadowCaller = request.app.state.shadows
    return shadows


Host = Annotated[ModelHost, Depends(_host)]
CurrentSettings = Annotated[Settings, Depends(_settings)]
CurrentMetrics = Annotated[Metrics, Depends(_metrics)]
Board = Annotated[WorkerBoard, Depends(_board)]
CurrentLifecycle = Annotated[Lifecycle, Depends(_lifecycle)]
Shadows = Annotated[ShadowCaller, Depends(_shadows)]
Options = Annotated[PredictQuery, Query()]

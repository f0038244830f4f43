"""What handlers ask for: typed aliases over the application's state."""

from typing import Annotated

from fastapi import Depends, Query, Request

from service.hosting import ModelHost
from service.metrics import Metrics
from service.schemas import PredictQuery
from service.settings import Settings


def _host(request: Request) -> ModelHost:
    host: ModelHost = request.app.state.host
    return host


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


Host = Annotated[ModelHost, Depends(_host)]
CurrentSettings = Annotated[Settings, Depends(_settings)]
CurrentMetrics = Annotated[Metrics, Depends(_metrics)]
Options = Annotated[PredictQuery, Query()]

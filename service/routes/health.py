"""Is it alive, is it ready, how does it fare. Never behind the queue."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool

from service.dependencies import CallersKey, CurrentAccess, CurrentLifecycle, CurrentMetrics, Host
from service.hosting import ModelHost
from service.lifecycle import Lifecycle
from service.openapi import content
from service.schemas import Health, Liveness, ModelOut, Readiness
from service.security import MetricsRoute

router = APIRouter(tags=["health"])
metrics_router = APIRouter(tags=["health"], route_class=MetricsRoute)

_NOT_READY = 503
_UNTOLD = "who has an API key is told"
_RESPONSES: dict[int | str, dict[str, Any]] = {
    _NOT_READY: {"model": Readiness, "description": "Not ready; the body says what is waited for."}
}


@router.head("/livez", include_in_schema=False)
@router.get("/livez")
async def live() -> Liveness:
    """Answer as long as the process runs."""
    return Liveness(live=True)


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=_RESPONSES)
async def ready(
    host: Host, lifecycle: CurrentLifecycle, access: CurrentAccess, key: CallersKey, response: Response
) -> Readiness:
    """Answer 200 when the default model is loaded and warm, else 503."""
    waiting = _waiting(host, lifecycle, response)
    if not access.may_know_more(key):
        return _brief(waiting)
    return Readiness(ready=not waiting, waiting_for=waiting)


@router.head("/health", include_in_schema=False)
@router.get("/health", responses=_RESPONSES)
async def health(
    host: Host, lifecycle: CurrentLifecycle, access: CurrentAccess, key: CallersKey, response: Response
) -> Health:
    """Answer as /readyz does, and say how every model stands and why one failed."""
    waiting = _waiting(host, lifecycle, response)
    if not access.may_know_more(key):
        return Health(**dict(_brief(waiting)), models=[])
    return Health(
        ready=not waiting,
        waiting_for=waiting,
        registry_away=host.reason or None,
        keys_away=access.fault_for(key),
        models=[ModelOut.of(model) for model in host.models.values()],
    )


@metrics_router.head("/metrics", include_in_schema=False)
@metrics_router.get("/metrics", response_class=Response, responses=content("text/plain", "The metrics."))
async def metrics(metrics: CurrentMetrics) -> Response:
    """Give the metrics in Prometheus' text form."""
    return Response(await run_in_threadpool(metrics.exposition), media_type="text/plain; version=0.0.4; charset=utf-8")


def _brief(waiting: list[str]) -> Readiness:
    """Return what is told to those who have no key where there are keys."""
    return Readiness(ready=not waiting, waiting_for=[_UNTOLD] if waiting else [])


def _waiting(host: ModelHost, lifecycle: Lifecycle, response: Response) -> list[str]:
    waiting = [lifecycle.reason] if lifecycle.reason else host.waiting_for()
    response.status_code = _NOT_READY if waiting else 200
    return waiting
